"""Saves predictions that hold no tensors, without a second copy of them all in memory."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ..files import atomic_open

__all__ = ["save_plain_predictions", "save_results"]


class _PlainPickler(pickle.Pickler):
    """The pickler that `torch.save` derives its own from, which looks for tensors.

    PyTorch calls a Python function for each object, to ask whether it belongs to a tensor. Without
    tensors the answer is always no, so this function goes, and the file stays the same.
    """

    def __init_subclass__(cls) -> None:
        if "persistent_id" in vars(cls):  # older PyTorch sets it later
            del cls.persistent_id


def save_plain_predictions(path: Path, predictions: Sequence[dict[str, Any]]) -> None:
    """Write the file that `torch.save(predictions, path)` writes, in a fraction of the time.

    Args:
        path: the file.
        predictions: lists, dicts, strings and numbers, without any tensor.

    Raises:
        UserError: the file cannot be written.
    """
    module = SimpleNamespace(__name__="pickle", Pickler=_PlainPickler)
    with atomic_open(path, durable=False) as file:
        torch.save(predictions, file, pickle_module=module)


def save_results(path: Path, predictions: Sequence[dict[str, Any]]) -> None:
    """Write the detections of all images as one list, to the byte as `json.dumps` writes it.

    Args:
        path: the file.
        predictions: "instances" -> the detections of an image, in COCO's result format.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_open(path, "w", durable=False) as file:
        separator = "["
        for prediction in predictions:
            if inner := json.dumps(prediction["instances"])[1:-1]:
                file.write(separator + inner)
                separator = ", "
        file.write("]" if separator == ", " else "[]")
