"""Keeps predictions without tensors in memory in a compact form, and saves them."""

import io
import json
import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch

from ..files import atomic_open

__all__ = ["PackedDetections", "save_plain_predictions", "save_results"]

_PROTOCOL = 2  # the one of `torch.save`


class _ValuesUnpickler(pickle.Unpickler):
    """Reads numbers, texts, and lists and dicts of these. A pickle that needs more runs no code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"detections are plain values, got {module}.{name}")


class PackedDetections(Sequence[dict[str, Any]]):
    """The detections of an image, kept as bytes: they take a small part of the memory of the dicts.

    Each access makes new dicts. A change to one of them changes nothing here.

    Args:
        detections: dicts of numbers, texts, and lists and dicts of these. Numbers of NumPy become
            Python's.
    """

    def __init__(self, detections: Sequence[dict[str, Any]]) -> None:
        # A pickle is read several times as fast as json, above all with keypoints.
        packed = pickle.dumps(list(detections), _PROTOCOL)
        if b"numpy" in packed or b"torch" in packed:  # their numbers name their module in a pickle
            packed = pickle.dumps([_make_plain(each) for each in detections], _PROTOCOL)
        self._packed, self._length = packed, len(detections)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(_ValuesUnpickler(io.BytesIO(self._packed)).load())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def _make_plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _make_plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_make_plain(each) for each in value]
    return value.item() if hasattr(value, "item") else value


class _PartsPickler:
    """Pickles a list of predictions one by one, in the place of `pickle.Pickler`.

    A pickler remembers every object that it has written, and PyTorch's also asks a Python function
    of each whether it belongs to a tensor. Neither is needed between two images.
    """

    def __init__(self, file: BinaryIO, protocol: int) -> None:
        assert protocol == _PROTOCOL, protocol
        self._file = file

    def dump(self, predictions: Sequence[dict[str, Any]]) -> None:
        """Write the pickle of the list: its beginning, each prediction, and its end."""
        write = self._file.write
        write(pickle.PROTO + bytes([_PROTOCOL]) + pickle.EMPTY_LIST + pickle.MARK)
        for prediction in predictions:
            write(pickle.EMPTY_DICT + pickle.MARK)
            for key, value in prediction.items():
                write(_strip(pickle.dumps(key, _PROTOCOL)))
                packed = isinstance(value, PackedDetections)
                write(_strip(value._packed if packed else pickle.dumps(value, _PROTOCOL)))
            write(pickle.SETITEMS)
        write(pickle.APPENDS + pickle.STOP)


def _strip(pickled: bytes) -> bytes:
    """Return a pickle as a part of another one: without the protocol and the end."""
    return pickled[2:-1]


def save_plain_predictions(path: Path, predictions: Sequence[dict[str, Any]]) -> None:
    """Write a file that is read as the one of `torch.save(predictions, path)`.

    Args:
        path: the file.
        predictions: dicts of strings and numbers, without any tensor. `PackedDetections` in them
            are saved as lists.

    Raises:
        UserError: the file cannot be written.
    """
    module = SimpleNamespace(__name__="pickle", Pickler=_PartsPickler)
    with atomic_open(path, durable=False) as file:
        torch.save(predictions, file, pickle_module=module)


def save_results(path: Path, images: Iterable[Sequence[dict[str, Any]]]) -> None:
    """Write the detections of all images as one list, to the byte as `json.dumps` writes it.

    Args:
        path: the file.
        images: the detections of each image, in COCO's result format.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_open(path, "w", durable=False) as file:
        separator = "["
        for detections in images:
            if inner := json.dumps(detections)[1:-1]:
                file.write(separator + inner)
                separator = ", "
        file.write("]" if separator == ", " else "[]")
