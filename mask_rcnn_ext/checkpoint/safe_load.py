"""Reads checkpoint files without running code from them.

A pickle can call any function of any module. Weights need only a few functions; a file that names
another function is refused before that function is looked up.
"""

import contextlib
import io
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from fvcore.common.checkpoint import TORCH_VERSION

from ..errors import UserError

__all__ = ["load_pickle", "load_torch"]

# NumPy's functions for unpickling, taken from pickles of NumPy: NumPy 2 renamed their module from
# numpy.core to numpy._core, and files contain either name.
_ndarray_from_pickle: Callable[..., Any] = np.zeros(1).__reduce__()[0]  # type: ignore[assignment]
_ndarray_from_buffer: Callable[..., Any] = np.zeros(1).__reduce_ex__(5)[0]  # type: ignore[assignment]
_scalar_from_pickle: Callable[..., Any] = np.float32(0).__reduce__()[0]  # type: ignore[assignment]


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """Replace `_codecs.encode`, with which pickles of protocol 2 store bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}, expected latin1")
    return text.encode("latin1")


def _storage_from_bytes(content: bytes) -> Any:
    """Replace `torch.storage._load_from_bytes`, which would unpickle anything."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


_ALLOWED_IN_PICKLE: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _latin1_bytes,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED_IN_PICKLE[f"{_core}.multiarray", "_reconstruct"] = _ndarray_from_pickle
    _ALLOWED_IN_PICKLE[f"{_core}.multiarray", "scalar"] = _scalar_from_pickle
    _ALLOWED_IN_PICKLE[f"{_core}.numeric", "_frombuffer"] = _ndarray_from_buffer


class _ForbiddenGlobal(pickle.UnpicklingError):
    """The file names a function or class that weights do not need."""


class _WeightsUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED_IN_PICKLE[module, name]
        except KeyError:
            raise _ForbiddenGlobal(f"{module}.{name}") from None


def _refuse(path: str, name: str) -> UserError:
    return UserError(
        f"{path}: refused, because it names {name}, which could run code; expected a checkpoint of "
        "tensors, arrays and plain values. If you trust its source, load it with the code of its "
        "project and save it again with torch.save({'model': model.state_dict()}, file)"
    )


def _unreadable(path: str, error: Exception) -> UserError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
    return UserError(
        f"{path}: not a readable checkpoint ({reason}); it may be cut short or of another format. "
        "Copy or download it again"
    )


def load_pickle(path: str) -> Any:
    """Return the content of a `.pkl` checkpoint from detectron2's zoo, Caffe2 or Detectron.

    Args:
        path: a local file. Strings of Python 2 are read as latin1, as in detectron2.

    Raises:
        UserError: the file is unreadable, or names more than arrays, tensors and containers.
    """
    try:
        with open(path, "rb") as file:
            return _WeightsUnpickler(file, encoding="latin1").load()
    except _ForbiddenGlobal as error:
        raise _refuse(path, str(error)) from error
    except Exception as error:  # a broken pickle raises nearly anything
        raise _unreadable(path, error) from error


def _numpy_allowed() -> AbstractContextManager[object]:
    """Let `torch.load(weights_only=True)` read the NumPy values that hooks put in their state."""
    allowed: list[Any] = [
        np.ndarray,
        np.dtype,
        *{type(np.dtype(code)) for code in "?bhilqBHILQefd"},
    ]
    for core in ("numpy.core", "numpy._core"):
        allowed.append((_ndarray_from_pickle, f"{core}.multiarray._reconstruct"))
        allowed.append((_scalar_from_pickle, f"{core}.multiarray.scalar"))
    if TORCH_VERSION < (2, 6):
        return _allowed_by_name(allowed)
    return torch.serialization.safe_globals(allowed)


@contextlib.contextmanager
def _allowed_by_name(allowed: list[Any]) -> Iterator[None]:
    """Do what `torch.serialization.safe_globals` does, for PyTorch 2.4 and 2.5.

    There it takes no (function, name). Later versions also know `_codecs.encode`, with which
    pickles store bytes.
    """
    known = {"_codecs.encode": _latin1_bytes}
    for each in allowed:
        call, name = (
            each if isinstance(each, tuple) else (each, f"{each.__module__}.{each.__name__}")
        )
        known[name] = call
    unpickler: Any = torch._weights_only_unpickler
    find = unpickler._get_user_allowed_globals
    unpickler._get_user_allowed_globals = lambda: known
    try:
        yield
    finally:
        unpickler._get_user_allowed_globals = find


def load_torch(path: str) -> Any:
    """Return the content of a file that `torch.save` wrote, on the CPU.

    Loading is as safe as `torch.load(weights_only=True)`, which has a known hole in PyTorch before
    2.6 (CVE-2025-32434).

    Args:
        path: a local file.

    Raises:
        UserError: the file is unreadable, or names more than arrays, tensors and containers.
    """
    try:
        with _numpy_allowed():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises nearly anything
        forbidden = re.search(r"GLOBAL (?!not )([\w.]+)", str(error))
        if forbidden:
            raise _refuse(path, forbidden.group(1)) from error
        raise _unreadable(path, error) from error
