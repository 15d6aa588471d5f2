"""Stand-ins for NumPy's functions that make arrays; NumPy's own functions trust the pickle."""

import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "NUMPY_FUNCTIONS",
    "PickledArray",
    "PickledDtype",
    "encode_latin1",
    "is_count",
    "name_type",
    "require",
]

# One character for the kind, and the number of bytes: f4. Python 2 wrote the order in front.
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32))")
_ORDERS = ("<", ">", "|", "=")


def require(condition: object, what: str) -> None:
    """Raise `pickle.UnpicklingError` with the text `what` unless the condition holds."""
    if not condition:
        raise pickle.UnpicklingError(what)


def is_count(value: object) -> bool:
    """Return whether `value` is an integer from 0 that fits in 64 bits."""
    return type(value) is int and 0 <= value < 1 << 63


def name_type(value: object) -> str:
    """Return a short text for a value of any type."""
    return repr(value[:80]) if isinstance(value, str) else f"a {type(value).__name__}"


class PickledDtype:
    """Stands for a `numpy.dtype` while a file is read.

    Args:
        code: kind and size, such as "f4".
        align: NumPy writes False; it has a meaning for structures only.
        copy: NumPy writes True.
    """

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        known = isinstance(code, str) and _DTYPE.fullmatch(code)
        require(known, f"an array of type {name_type(code)}, expected numbers or booleans")
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
        require(good, "a type with another state")
        self.value = self.value.newbyteorder(state[1])


class PickledArray:
    """Stands for an array while a file is read; `value` is the array once its state is known."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        """Take the state of `numpy.ndarray.__reduce__`: version, shape, dtype, order and bytes."""
        require(isinstance(state, tuple) and len(state) == 5, "an array with another state")
        _, shape, dtype, by_columns, content = state
        self.value = _make_array(content, dtype, shape, "F" if by_columns else "C")


def _make_array(content: Any, dtype: Any, shape: Any, order: Any) -> Any:
    """Return an array with memory of its own, after a check of the number of bytes."""
    if isinstance(content, str):  # bytes of Python 2
        content = content.encode("latin1")
    if not isinstance(dtype, PickledDtype) or not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError("an array that is not made of bytes")
    good = isinstance(shape, tuple) and len(shape) <= 32 and all(map(is_count, shape))
    require(good and order in ("C", "F"), "an array of a shape that NumPy does not write")
    size = math.prod(shape) * dtype.value.itemsize
    require(size == len(content), f"an array of {size} bytes, got {len(content)}")
    return np.frombuffer(bytearray(content), dtype.value).reshape(shape, order=order)


def _refuse_ndarray(*_: object) -> None:
    """Stand for `numpy.ndarray`, which NumPy's pickles name but do not call."""
    raise pickle.UnpicklingError("a call of numpy.ndarray, which NumPy does not write")


def _array_to_fill(cls: object, shape: object, code: object) -> PickledArray:
    """Replace `_reconstruct`, which makes an array to be filled by its state."""
    good = cls is _refuse_ndarray and shape == (0,) and code in (b"b", "b")
    require(good, "an array that is not made as NumPy makes it")
    return PickledArray()


def _array_from_buffer(content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Any:
    """Replace `_frombuffer`, with which pickles of protocol 5 make arrays."""
    require(axes is None, "an array with permuted axes")
    return _make_array(content, dtype, shape, order)


def _scalar(dtype: Any, content: Any) -> Any:
    """Replace `scalar`, with which NumPy makes single numbers."""
    return _make_array(content, dtype, (), "C")[()]


def encode_latin1(text: Any, encoding: Any) -> bytes:
    """Replace `_codecs.encode`, with which pickles of protocol 2 store bytes."""
    require(encoding == "latin1", f"bytes in the encoding {name_type(encoding)}, expected latin1")
    require(isinstance(text, str), "bytes that are not made from a text")
    return text.encode("latin1")


# NumPy 2 renamed numpy.core to numpy._core, and files contain either name.
NUMPY_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _refuse_ndarray,
    ("numpy", "dtype"): PickledDtype,
}
for _core in ("numpy.core", "numpy._core"):
    NUMPY_FUNCTIONS[f"{_core}.multiarray", "_reconstruct"] = _array_to_fill
    NUMPY_FUNCTIONS[f"{_core}.multiarray", "scalar"] = _scalar
    NUMPY_FUNCTIONS[f"{_core}.numeric", "_frombuffer"] = _array_from_buffer
