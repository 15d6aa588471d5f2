"""Unpickles arrays, tensors and plain values, and nothing else.

A pickle can call any function of any module, so only a few functions are allowed here. That is not
enough: NumPy's own `dtype` and `ndarray` trust the pickle, and an array of objects could point to
any address. So NumPy's functions are not called either. Stand-ins take the arguments that NumPy
writes, check them, check the number of bytes, and make the array. Arrays hold numbers or booleans.

A small file could also keep the reader busy for ever. A tuple of two references to a tuple of two
references, and so on, has more entries than can be counted, and the keys of dicts and the arguments
of functions are read entry by entry. So the entries are counted first.
"""

import io
import pickle
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import torch
from detectron2.structures import BoxMode

from .pickled_arrays import (
    NUMPY_FUNCTIONS,
    PickledArray,
    PickledDtype,
    encode_latin1,
    is_count,
    name_type,
    require,
)

__all__ = ["ForbiddenGlobal", "check_torch_file", "make_plain", "unpickle"]

# The keys and arguments of a pickle may have this many entries, and one more for each byte.
_FREE_ENTRIES = 1 << 16


class ForbiddenGlobal(pickle.UnpicklingError):
    """The file calls for a function or class that weights do not need."""


def _storage_from_bytes(content: bytes) -> Any:
    """Replace `torch.storage._load_from_bytes`, which would unpickle anything."""
    require(isinstance(content, bytes), "a storage that is not made of bytes")
    check_torch_file(io.BytesIO(content))
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> torch.Tensor:
    """Replace `_rebuild_tensor_v2`; gradients and hooks are left out."""
    good = (
        isinstance(storage, torch.storage.TypedStorage)
        and isinstance(size, tuple)
        and isinstance(stride, tuple)
        and len(size) == len(stride)
        and all(map(is_count, (offset, *size, *stride)))
    )
    require(good, "a tensor that is not made as PyTorch makes it")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    held = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    require(0 in size or last < held, "a tensor that is larger than its storage")
    tensor: torch.Tensor = torch._utils._rebuild_tensor(storage, offset, size, stride)
    return tensor


def _parameter(tensor: Any, *_: object) -> Any:
    """Replace `_rebuild_parameter`; a checkpoint only needs the tensor."""
    require(isinstance(tensor, torch.Tensor), "a parameter that is not a tensor")
    return tensor


def _box_mode(value: Any) -> BoxMode:
    require(type(value) is int, f"the box mode {name_type(value)}")
    return BoxMode(value)


def _get_box_mode(kind: Any, name: Any) -> BoxMode:
    """Replace `getattr`, with which Python 3.11.0 to 3.11.3 stores a box mode."""
    known = kind is _box_mode and type(name) is str and name in BoxMode.__members__
    require(known, "an attribute of something that is not a box mode")
    return BoxMode[name]


_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    **NUMPY_FUNCTIONS,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): encode_latin1,
    ("__builtin__", "bytes"): lambda: b"",  # of an empty array, in protocol 2
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("detectron2.structures.boxes", "BoxMode"): _box_mode,
    ("builtins", "getattr"): _get_box_mode,
    ("__builtin__", "getattr"): _get_box_mode,  # in protocol 2
}


class _Unpickler(pickle._Unpickler):
    """Python's unpickler in Python; the one in C reserves as much memory as the file asks for.

    Args:
        file: open for reading. No read asks for more bytes than the file has.
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
        """Return the stand-in for a function or class; refuse all others."""
        try:
            return _FUNCTIONS[module, name]
        except KeyError:
            raise ForbiddenGlobal(f"{module}.{name}") from None

    def get_extension(self, code: int) -> None:
        """Refuse the functions that `copyreg` knows by a number."""
        raise ForbiddenGlobal(f"the extension {code}")

    def _count(self, values: Any) -> None:
        """Count the entries of nested values, an entry as often as it occurs."""
        waiting = [iter(values)]
        while waiting:
            for value in waiting[-1]:
                self._entries_left -= 1
                require(self._entries_left >= 0, "keys or arguments with too many entries")
                if isinstance(value, dict):
                    waiting.append(iter([*value, *value.values()]))
                    break
                if isinstance(value, tuple | list | set | frozenset):
                    waiting.append(iter(value))
                    break
            else:
                waiting.pop()

    def _load_call(self, load: Callable[[Any], None], used: int) -> None:
        """Count the entries of the last `used` values, then call `load`, the method of pickle."""
        self._count(self.stack[-used:])
        load(self)

    def _load_keys(self, load: Callable[[Any], None], kind: type | None, step: int) -> None:
        """Count the entries of the keys above the mark, then call the method of pickle.

        Args:
            load: the method of pickle.
            kind: the type of the container below the mark; None if pickle makes a new one.
            step: 2 if each key has a value.
        """
        if kind is not None:
            target = self.metastack[-1][-1]  # type: ignore[attr-defined]
            require(isinstance(target, kind), f"entries for a {type(target).__name__}")
        self._count(self.stack[::step])
        load(self)

    def load_setitem(self) -> None:
        """Set an entry of a dict, after its key is counted."""
        target = self.stack[-3]
        require(isinstance(target, dict), f"entries for a {type(target).__name__}")
        self._count(self.stack[-2:-1])
        super().load_setitem()  # type: ignore[misc]

    def load_build(self) -> None:
        """Set the state of a stand-in or an OrderedDict; pickle would set any attribute."""
        self._count(self.stack[-1:])
        state, target = self.stack.pop(), self.stack[-1]
        self.set_state(target, state)

    def set_state(self, target: Any, state: Any) -> None:
        """Give a stand-in or an OrderedDict its state, checked."""
        if isinstance(target, PickledArray | PickledDtype):
            target.__setstate__(state)
        else:
            good = type(target) is OrderedDict and isinstance(state, dict)
            require(good, f"a state for a {type(target).__name__}")
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
    """Stands for any result of a function of PyTorch while a file is checked."""

    def __init__(self, *_: object) -> None:
        pass


class _Empty(_Anything):
    """Stands for objects that PyTorch makes empty; a number as argument would reserve memory."""

    def __new__(cls, *arguments: object) -> Any:
        require(not arguments, "memory of a number of bytes, which PyTorch does not write")
        return super().__new__(cls)


class _Checker(_Unpickler):
    """Goes through a pickle of PyTorch and makes nothing but containers."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that does nothing, in place of any function or class."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return _Empty if name == "bytearray" or name.endswith("Tensor") else _Anything

    def persistent_load(self, _: object) -> Any:
        """Return an object that stands for a storage."""
        return _Anything()

    def set_state(self, target: Any, state: Any) -> None:
        """Do nothing."""


def check_torch_file(file: BinaryIO) -> None:
    """Check that the time and memory to load a file are in proportion to its size.

    `torch.load(weights_only=True)` runs no code of the file, but does not check this.

    Args:
        file: a file of `torch.save`, open for reading.

    Raises:
        Exception: it is no such file, or would take too much time or memory.
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
    require(held <= size, "compressed, which torch.save does not do")
    file.seek(0)
    record = torch._C.PyTorchFileReader(file).get_record("data.pkl")
    _Checker(io.BytesIO(record)).load()


def unpickle(file: BinaryIO) -> Any:
    """Return the content of a pickle of any protocol.

    Args:
        file: open for reading. Strings of Python 2 are read as latin1, as in detectron2.

    Raises:
        ForbiddenGlobal: it calls for a function that arrays, tensors and plain values do not need.
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
    """Replaces the stand-ins in nested content; a container that occurs twice is replaced once."""

    def __init__(self) -> None:
        self.done: dict[int, Any] = {}  # by id of the old object
        self.alive: list[Any] = []  # keeps the old objects, so that no id is used again

    def replace(self, value: Any) -> Any:
        """Return the value, or the value that a stand-in stands for, also inside containers."""
        if isinstance(value, PickledArray | PickledDtype):
            require(value.value is not None, "an array without content")
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
            # PyTorch notes the versions of the modules next to the weights.
            attributes = dict(getattr(value, "__dict__", {}))
            notes = attributes.pop("_metadata", {})
            good = isinstance(notes, dict) and all(isinstance(n, dict) for n in notes.values())
            require(good and not attributes, "a dict with attributes")
            for key in value:
                value[key] = self.replace(value[key])
        elif isinstance(value, list):
            value[:] = map(self.replace, value)
        elif type(value) is tuple:
            return tuple(map(self.replace, value))
        return value
