"""Unpickles arrays, tensors and plain values, and nothing else.

A pickle can call any function of any module, so only a few functions are known here. That is not
enough: NumPy's own `dtype` and `ndarray` trust the pickle, and an array of objects could point to
any address. So NumPy's functions are not called either. Stand-ins take the arguments that NumPy
writes, check them, and make the array from bytes of the right number. Arrays hold numbers or
booleans.
"""

import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from detectron2.structures import BoxMode

__all__ = [
    "NUMPY_FUNCTIONS",
    "ForbiddenGlobal",
    "PickledArray",
    "PickledDtype",
    "encode_latin1",
    "make_plain",
    "unpickle",
]

# One character for the kind, and the number of bytes: f4. Python 2 wrote the order in front.
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32))")
_ORDERS = ("<", ">", "|", "=")


class ForbiddenGlobal(pickle.UnpicklingError):
    """The file names a function or class that weights do not need."""


def _require(condition: object, what: str) -> None:
    if not condition:
        raise pickle.UnpicklingError(what)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


class PickledDtype:
    """Stands for a `numpy.dtype` while a file is read.

    Args:
        code: kind and size, such as "f4".
        align: NumPy writes False; it has a meaning for structures only.
        copy: NumPy writes True.
    """

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        known = isinstance(code, str) and _DTYPE.fullmatch(code)
        _require(known, f"an array of type {code!r}, expected numbers or booleans")
        self.value: np.dtype[Any] = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Take the byte order. The rest of NumPy's state describes structures and objects."""
        good = (
            isinstance(state, tuple)
            and len(state) >= 8
            and state[0] in (3, 4)
            and state[1] in _ORDERS
            and state[2:8] == (None, None, None, -1, -1, 0)
        )
        _require(good, f"a type with the state {str(state)[:80]}")
        self.value = self.value.newbyteorder(state[1])


class PickledArray:
    """Stands for an array while a file is read; `value` is the array once its state is known."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        """Take what `numpy.ndarray.__reduce__` writes: version, shape, dtype, order and bytes."""
        _require(isinstance(state, tuple) and len(state) == 5, "an array with another state")
        _, shape, dtype, by_columns, content = state
        self.value = _make_array(content, dtype, shape, "F" if by_columns else "C")


def _make_array(content: Any, dtype: Any, shape: Any, order: Any) -> Any:
    """Return an array of its own memory, if the bytes are as many as dtype and shape say."""
    if isinstance(content, str):  # bytes of Python 2
        content = content.encode("latin1")
    if not isinstance(dtype, PickledDtype) or not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("an array that is not made of bytes")
    good = isinstance(shape, tuple) and all(map(_is_count, shape)) and order in ("C", "F")
    _require(good, f"an array of shape {str(shape)[:80]}")
    size = math.prod(shape) * dtype.value.itemsize
    _require(size == len(content), f"an array of {size} bytes, got {len(content)}")
    return np.frombuffer(bytearray(content), dtype.value).reshape(shape, order=order)


def _refuse_ndarray(*_: object) -> None:
    """Stand for `numpy.ndarray`, which NumPy's pickles name but do not call."""
    raise pickle.UnpicklingError("a call of numpy.ndarray, which NumPy does not write")


def _array_to_fill(cls: object, shape: object, code: object) -> PickledArray:
    """Replace `_reconstruct`, which makes an array to be filled by its state."""
    good = cls is _refuse_ndarray and shape == (0,) and code in (b"b", "b")
    _require(good, "an array that is not made as NumPy makes it")
    return PickledArray()


def _array_from_buffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    """Replace `_frombuffer`, with which pickles of protocol 5 make arrays."""
    _require(axes is None, "an array with permuted axes")
    return _make_array(content, dtype, shape, order)


def _scalar(dtype: Any, content: Any) -> Any:
    """Replace `scalar`, with which NumPy makes single numbers."""
    return _make_array(content, dtype, (), "C")[()]


def encode_latin1(text: Any, encoding: Any) -> bytes:
    """Replace `_codecs.encode`, with which pickles of protocol 2 store bytes."""
    _require(encoding == "latin1", f"bytes in the encoding {encoding!r}, expected latin1")
    _require(isinstance(text, str), "bytes that are not made from a text")
    return text.encode("latin1")


def _storage_from_bytes(content: bytes) -> Any:
    """Replace `torch.storage._load_from_bytes`, which would unpickle anything."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> torch.Tensor:
    """Replace `_rebuild_tensor_v2`; gradients and hooks are left out."""
    good = (
        isinstance(storage, torch.storage.TypedStorage)
        and isinstance(size, tuple)
        and isinstance(stride, tuple)
        and len(size) == len(stride)
        and all(map(_is_count, (offset, *size, *stride)))
    )
    _require(good, "a tensor that is not made as PyTorch makes it")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    held = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    _require(0 in size or last < held, "a tensor that is larger than its storage")
    tensor: torch.Tensor = torch._utils._rebuild_tensor(storage, offset, size, stride)
    return tensor


def _parameter(tensor: Any, *_: object) -> Any:
    """Replace `_rebuild_parameter`; a checkpoint only needs the tensor."""
    _require(isinstance(tensor, torch.Tensor), "a parameter that is not a tensor")
    return tensor


# NumPy 2 renamed numpy.core to numpy._core, and files contain either name.
NUMPY_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _refuse_ndarray,
    ("numpy", "dtype"): PickledDtype,
}
for _core in ("numpy.core", "numpy._core"):
    NUMPY_FUNCTIONS[f"{_core}.multiarray", "_reconstruct"] = _array_to_fill
    NUMPY_FUNCTIONS[f"{_core}.multiarray", "scalar"] = _scalar
    NUMPY_FUNCTIONS[f"{_core}.numeric", "_frombuffer"] = _array_from_buffer

_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    **NUMPY_FUNCTIONS,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): encode_latin1,
    ("__builtin__", "bytes"): lambda: b"",  # of an empty array, in protocol 2
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("detectron2.structures.boxes", "BoxMode"): lambda value: BoxMode(value),
}


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler; the one in C gives a file as much memory as a number in it says."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _FUNCTIONS[module, name]
        except KeyError:
            raise ForbiddenGlobal(f"{module}.{name}") from None

    def get_extension(self, code: int) -> None:
        raise ForbiddenGlobal(f"the extension {code}")

    def load_build(self) -> None:
        """Set the state of a stand-in or an OrderedDict; pickle would set any attribute."""
        stack: list[Any] = self.stack  # type: ignore[attr-defined]
        state, target = stack.pop(), stack[-1]
        if isinstance(target, PickledArray | PickledDtype):
            target.__setstate__(state)
        else:
            good = type(target) is OrderedDict and isinstance(state, dict)
            _require(good, f"a state for a {type(target).__name__}")
            vars(target).update(state)

    dispatch[pickle.BUILD[0]] = load_build


def unpickle(file: BinaryIO) -> Any:
    """Return the content of a pickle of any protocol.

    Args:
        file: open for reading. Strings of Python 2 are read as latin1, as in detectron2.

    Raises:
        ForbiddenGlobal: it names a function that arrays, tensors and plain values do not need.
        Exception: a broken pickle raises nearly anything.
    """
    return make_plain(_Unpickler(file, encoding="latin1").load())


def make_plain(content: Any) -> Any:
    """Return `content` with arrays in place of their stand-ins; dicts and lists are changed.

    Raises:
        pickle.UnpicklingError: an array has no state, or a dict has attributes.
        RecursionError: the content is nested too deeply.
    """
    return _Replacement().replace(content)


class _Replacement:
    """Replaces the stand-ins in nested content; each container once, however often it occurs."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}  # by id of the old object
        self.alive: list[Any] = []  # so that no id is used again

    def replace(self, value: Any) -> Any:
        if isinstance(value, PickledArray | PickledDtype):
            _require(value.value is not None, "an array without content")
            return value.value
        if not isinstance(value, dict | list | tuple):
            return value
        if id(value) not in self.done:
            self.alive.append(value)
            self.done[id(value)] = value
            self.done[id(value)] = self._replace_inside(value)
        return self.done[id(value)]

    def _replace_inside(self, value: Any) -> Any:
        if isinstance(value, dict):
            # PyTorch notes the versions of the modules beside the weights.
            attributes = dict(getattr(value, "__dict__", {}))
            notes = attributes.pop("_metadata", {})
            good = isinstance(notes, dict) and all(isinstance(n, dict) for n in notes.values())
            _require(good and not attributes, "a dict with attributes")
            for key in value:
                value[key] = self.replace(value[key])
        elif isinstance(value, list):
            value[:] = map(self.replace, value)
        elif type(value) is tuple:
            return tuple(map(self.replace, value))
        return value
