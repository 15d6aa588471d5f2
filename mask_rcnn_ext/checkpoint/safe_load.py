"""Reads checkpoint files and runs no code from them, see `safe_pickle`."""

import contextlib
import functools
import logging
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from fvcore.common.checkpoint import TORCH_VERSION

from ..errors import UserError, shorten
from .pickled_arrays import NUMPY_FUNCTIONS, PickledArray, encode_latin1
from .safe_pickle import ForbiddenGlobal, check_torch_file, make_plain, unpickle

__all__ = ["explain_unreadable", "load_pickle", "load_torch", "require_dict", "require_names"]

logger = logging.getLogger(__name__)

_COMPILED = re.compile(r"(^|(?<=\.))_orig_mod\.")
_SAVE_AGAIN = (
    "If you trust its source, load it with the code of its project and save it again with "
    "torch.save({'model': model.state_dict()}, file)"
)


def _refuse(path: str, name: str, kind: str, fix: str) -> UserError:
    return UserError(
        f"{path}: refused, because it names {name}, which could run code; expected a {kind} of "
        f"tensors, arrays and plain values. {fix}"
    )


def explain_unreadable(path: str, error: Exception, kind: str) -> UserError:
    """Return the error that says why a file cannot be read."""
    if isinstance(error, OSError) and error.strerror:
        return UserError(f"cannot read {path}: {error.strerror}")
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], int):
        return UserError(  # an unknown code of a pickle
            f"{path}: not a readable {kind}: its content is of another kind, or damaged. Give "
            "another file, or copy or download it again"
        )
    text = str(error).strip()
    if not text or isinstance(error, KeyError):
        text = f"{type(error).__name__} {text}".strip()
    cause = re.search(r"WeightsUnpickler error:\s*(.+)", text)  # PyTorch's advice surrounds it
    reason = (cause.group(1) if cause else text).splitlines()[0].split(". ")[0]
    return UserError(
        f"{path}: not a readable {kind} ({reason}); it may be cut short or of another format. "
        "Copy or download it again"
    )


def require_dict(contents: Any, path: str) -> Any:
    """Return the contents of a checkpoint file, or a part of them.

    Raises:
        UserError: they are not a dict.
    """
    if not isinstance(contents, dict):
        raise UserError(
            f"{path}: expected a checkpoint, a dict of tensors, got {type(contents).__name__}"
        )
    return contents


def require_names(weights: Any, path: str, own: Iterable[str] = ()) -> Any:
    """Return the weights of a checkpoint by their names, without those of `torch.compile`.

    Args:
        weights: the weights.
        path: the file, for messages.
        own: the names of a model, which may have parts that `torch.compile` has wrapped.

    Raises:
        UserError: they are not a dict, or a name is no text.
    """
    for name in require_dict(weights, path):
        if not isinstance(name, str):
            raise UserError(
                f"{path}: expected the names of tensors under 'model', got "
                f"{shorten(repr(name))}. Is the file from another library?"
            )
    compiled = {_COMPILED.sub("", name): name for name in own if _COMPILED.search(name)}
    if not compiled and not any(_COMPILED.search(name) for name in weights):
        return weights
    plain = {_COMPILED.sub("", name): value for name, value in weights.items()}
    return {compiled.get(name, name): value for name, value in plain.items()}


def load_pickle(path: str, kind: str = "checkpoint", fix: str = _SAVE_AGAIN) -> Any:
    """Return the content of a pickle: a `.pkl` checkpoint or a proposal file.

    Args:
        path: a local file of detectron2, Caffe2 or Detectron.
        kind: the kind of the file, for error messages.
        fix: the last sentence of the error message about a file that names other functions.

    Raises:
        UserError: the file is unreadable, or holds more than arrays, tensors, plain values and
            containers.
    """
    try:
        with open(path, "rb") as file:
            return unpickle(file)
    except ForbiddenGlobal as error:
        raise _refuse(path, str(error), kind, fix) from error
    except Exception as error:  # a broken pickle raises nearly anything
        raise explain_unreadable(path, error, kind) from error


def _numpy_allowed() -> AbstractContextManager[object]:
    """Let `torch.load(weights_only=True)` read NumPy values, which hooks store in their state."""
    allowed: dict[str, Any] = {".".join(name): call for name, call in NUMPY_FUNCTIONS.items()}
    # torch.load sets the state of allowed classes only, so the stand-in's class is allowed too.
    allowed[f"{PickledArray.__module__}.{PickledArray.__name__}"] = PickledArray
    if TORCH_VERSION < (2, 6):
        return _allowed_by_name(allowed)
    return torch.serialization.safe_globals([(call, name) for name, call in allowed.items()])


@contextlib.contextmanager
def _allowed_by_name(allowed: dict[str, Any]) -> Iterator[None]:
    """Do the work of `torch.serialization.safe_globals` in PyTorch 2.4 and 2.5.

    There it takes no (function, name) pairs. Unlike later versions, these versions also lack
    `_codecs.encode`, with which pickles store bytes.
    """
    known = {"_codecs.encode": encode_latin1, **allowed}
    unpickler: Any = torch._weights_only_unpickler
    find = unpickler._get_user_allowed_globals
    unpickler._get_user_allowed_globals = lambda: known
    try:
        yield
    finally:
        unpickler._get_user_allowed_globals = find


@functools.cache
def _warn_of_old_torch() -> None:
    if TORCH_VERSION < (2, 10):
        logger.warning(
            "PyTorch %s has a known fault (CVE-2026-24747): a malicious checkpoint can corrupt "
            "memory. Load only checkpoints that you trust, or install PyTorch 2.10 or later.",
            ".".join(map(str, TORCH_VERSION)),
        )


def load_torch(path: str, *, mapped: bool = False) -> Any:
    """Return the content of a file that `torch.save` wrote, on the CPU.

    Loading is as safe as `torch.load(weights_only=True)`. It had holes in PyTorch before 2.6
    (CVE-2025-32434) and before 2.10 (CVE-2026-24747), of which a line in the log warns once.

    Args:
        path: a local file.
        mapped: read a tensor only when it is used, if a part of the content is enough. Files from
            before PyTorch 1.6 are always read as a whole.

    Raises:
        UserError: the file is unreadable, or holds more than arrays, tensors and containers.
    """
    _warn_of_old_torch()
    try:
        with open(path, "rb") as file:
            check_torch_file(file)
        mmap = mapped and zipfile.is_zipfile(path)
        with _numpy_allowed():
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            return make_plain(content)
    except Exception as error:  # a broken file raises nearly anything
        forbidden = re.search(r"GLOBAL (?!not )([\w.]+)", str(error))
        if forbidden:
            raise _refuse(path, forbidden.group(1), "checkpoint", _SAVE_AGAIN) from error
        raise explain_unreadable(path, error, "checkpoint") from error
