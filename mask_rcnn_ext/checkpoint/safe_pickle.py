"""Unpickles arrays, tensors and plain values, and nothing else.

A pickle can call any function of any module, so only a few functions are known here. That is not
enough: NumPy's own `dtype` and `ndarray` trust the pickle, and an array of objects could point to
any address. So NumPy's functions are not called either. Stand-ins take the arguments that NumPy
writes, check them, and make the array from bytes of the right number. Arrays hold numbers or
booleans.

A small file could also keep the reader busy for ever. A tuple of two references to a tuple of two
references, and so on, has more entries than can be counted, and a dict's key or a function's
argument is looked at entry by entry. So the entries are counted first.
"""

import io
import math
import pickle
import re
import types
import zipfile
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
    "check_torch_file",
    "encode_latin1",
    "make_plain",
    "unpickle",
]

# One character for the kind, and the number of bytes: f4. Python 2 wrote the order in front.
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32))")
_ORDERS = ("<", ">", "|", "=")
# The keys and arguments of a pickle may have this many entries, and one more for each byte.
_FREE_ENTRIES = 1 << 16


class ForbiddenGlobal(pickle.UnpicklingError):
    """The file names a function or class that weights do not need."""


def _require(condition: object, what: str) -> None:
    if not condition:
        raise pickle.UnpicklingError(what)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _name_type(value: object) -> str:
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
        _require(known, f"an array of type {_name_type(code)}, expected numbers or booleans")
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
        _require(good, "a type with another state")
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
    good = isinstance(shape, tuple) and len(shape) <= 32 and all(map(_is_count, shape))
    _require(good and order in ("C", "F"), "an array of a shape that NumPy does not write")
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
    _require(encoding == "latin1", f"bytes in the encoding {_name_type(encoding)}, expected latin1")
    _require(isinstance(text, str), "bytes that are not made from a text")
    return text.encode("latin1")


def _storage_from_bytes(content: bytes) -> Any:
    """Replace `torch.storage._load_from_bytes`, which would unpickle anything."""
    _require(isinstance(content, bytes), "a storage that is not made of bytes")
    check_torch_file(io.BytesIO(content))
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


def _box_mode(value: Any) -> BoxMode:
    _require(type(value) is int, f"the box mode {_name_type(value)}")
    return BoxMode(value)


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
    ("detectron2.structures.boxes", "BoxMode"): _box_mode,
}


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler; the one in C gives a file as much memory as a number in it says.

    Args:
        file: open for reading. No more bytes are asked for than it has.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    read: Callable[[int], bytes]

    def __init__(self, file: BinaryIO) -> None:
        start, size = file.tell(), file.seek(0, io.SEEK_END)
        file.seek(start)
        bounded = types.SimpleNamespace(
            read=lambda count: file.read(min(count, size)), readline=file.readline
        )
        super().__init__(bounded, encoding="latin1")
        self._entries_left = _FREE_ENTRIES + size

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _FUNCTIONS[module, name]
        except KeyError:
            raise ForbiddenGlobal(f"{module}.{name}") from None

    def get_extension(self, code: int) -> None:
        raise ForbiddenGlobal(f"the extension {code}")

    def _count(self, values: Any) -> None:
        """Count the entries of nested values, an entry as often as it occurs."""
        waiting = [iter(values)]
        while waiting:
            for value in waiting[-1]:
                self._entries_left -= 1
                _require(self._entries_left >= 0, "keys or arguments with too many entries")
                if isinstance(value, dict):
                    waiting.append(iter([*value, *value.values()]))
                    break
                if isinstance(value, tuple | list | set | frozenset):
                    waiting.append(iter(value))
                    break
            else:
                waiting.pop()

    def _load_call(self, load: Callable[[Any], None], used: int) -> None:
        """Count what the last `used` values hold, then do what pickle does."""
        self._count(self.stack[-used:])
        load(self)

    def _load_keys(self, load: Callable[[Any], None], kind: type | None, step: int) -> None:
        """Count what the keys above the mark hold, then do what pickle does.

        Args:
            load: the method of pickle.
            kind: the type of the container below the mark; None if pickle makes a new one.
            step: 2 if each key has a value.
        """
        if kind is not None:
            target = self.metastack[-1][-1]  # type: ignore[attr-defined]
            _require(isinstance(target, kind), f"entries for a {type(target).__name__}")
        self._count(self.stack[::step])
        load(self)

    def load_setitem(self) -> None:
        target = self.stack[-3]
        _require(isinstance(target, dict), f"entries for a {type(target).__name__}")
        self._count(self.stack[-2:-1])
        super().load_setitem()  # type: ignore[misc]

    def load_build(self) -> None:
        """Set the state of a stand-in or an OrderedDict; pickle would set any attribute."""
        self._count(self.stack[-1:])
        state, target = self.stack.pop(), self.stack[-1]
        self.set_state(target, state)

    def set_state(self, target: Any, state: Any) -> None:
        if isinstance(target, PickledArray | PickledDtype):
            target.__setstate__(state)
        else:
            good = type(target) is OrderedDict and isinstance(state, dict)
            _require(good, f"a state for a {type(target).__name__}")
            vars(target).update(state)

    def load_bytearray8(self) -> None:
        """Read the bytes; pickle would make room for as many as the file says."""
        count = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(count)))  # type: ignore[attr-defined]

    def _instantiate(self, function: Any, arguments: Any) -> None:
        self._count(arguments)
        super()._instantiate(function, arguments)  # type: ignore[misc]


def _counted(name: str, *options: Any, keys: bool = False) -> Callable[[Any], None]:
    load = getattr(pickle._Unpickler, name)
    method = _Unpickler._load_keys if keys else _Unpickler._load_call
    return lambda unpickler: method(unpickler, load, *options)


_Unpickler.dispatch.update(
    {
        pickle.BUILD[0]: _Unpickler.load_build,
        pickle.SETITEM[0]: _Unpickler.load_setitem,
        pickle.BYTEARRAY8[0]: _Unpickler.load_bytearray8,
        pickle.REDUCE[0]: _counted("load_reduce", 1),
        pickle.NEWOBJ[0]: _counted("load_newobj", 1),
        pickle.NEWOBJ_EX[0]: _counted("load_newobj_ex", 2),
        pickle.SETITEMS[0]: _counted("load_setitems", dict, 2, keys=True),
        pickle.DICT[0]: _counted("load_dict", None, 2, keys=True),
        pickle.ADDITEMS[0]: _counted("load_additems", set, 1, keys=True),
        pickle.FROZENSET[0]: _counted("load_frozenset", None, 1, keys=True),
    }
)


class _Anything:
    """Stands for what a function of PyTorch makes, while a file is only looked through."""

    def __init__(self, *_: object) -> None:
        pass


class _Empty(_Anything):
    """Stands for what PyTorch makes empty; with a number, it would take memory."""

    def __new__(cls, *arguments: object) -> Any:
        _require(not arguments, "memory of a number of bytes, which PyTorch does not write")
        return super().__new__(cls)


class _Checker(_Unpickler):
    """Goes through a pickle of PyTorch and makes nothing but containers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return _Empty if name == "bytearray" or name.endswith("Tensor") else _Anything

    def persistent_load(self, _: object) -> Any:
        return _Anything()

    def set_state(self, target: Any, state: Any) -> None:
        pass


def check_torch_file(file: BinaryIO) -> None:
    """Check that PyTorch can load a file in time and memory in proportion to the file's size.

    `torch.load(weights_only=True)` runs no code of the file, but does not look at this.

    Args:
        file: what `torch.save` wrote, open for reading.

    Raises:
        Exception: it is no such file, or would take too long or too much memory.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    zipped = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    if not zipped:
        for _ in range(5):  # number, version, system, content, keys of the storages
            _Checker(file).load()
        return
    with zipfile.ZipFile(file) as archive:
        held = sum(entry.file_size for entry in archive.infolist())
    _require(held <= size, "compressed, which torch.save does not do")
    file.seek(0)
    record = torch._C.PyTorchFileReader(file).get_record("data.pkl")
    _Checker(io.BytesIO(record)).load()


def unpickle(file: BinaryIO) -> Any:
    """Return the content of a pickle of any protocol.

    Args:
        file: open for reading. Strings of Python 2 are read as latin1, as in detectron2.

    Raises:
        ForbiddenGlobal: it names a function that arrays, tensors and plain values do not need.
        Exception: a broken pickle raises nearly anything.
    """
    return make_plain(_Unpickler(file).load())


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
