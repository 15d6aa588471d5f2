"""Reads json, writes files atomically, checks that folders can be written, and hashes files."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .errors import InputFailure, UserError
from .temporary_files import make_temporary_file

__all__ = [
    "atomic_open",
    "explain_failed_write",
    "explain_write_error",
    "file_sha256",
    "is_special",
    "make_jsonable",
    "read_json",
    "read_json_or_none",
    "record_writes",
    "refuse_special",
    "require_writable",
    "writable_folder",
    "write_json",
]


_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)

_records: list[list[Path]] = []  # of `record_writes`


@contextlib.contextmanager
def record_writes() -> Iterator[list[Path]]:
    """Yield a list to which `atomic_open` adds each file that was not there before the block."""
    record: list[Path] = []
    _records.append(record)
    try:
        yield record
    finally:
        _records.remove(record)


@contextlib.contextmanager
def atomic_open(
    path: str | os.PathLike[str], mode: str = "wb", *, durable: bool = True
) -> Iterator[IO[Any]]:
    """Open a file for writing that replaces `path` when the block ends.

    If the block raises or the process is killed, the previous file stays unchanged. If several
    processes write the same path, the last to finish wins. A killed process may leave a file
    `.mask_rcnn_ext-*.tmp` in the folder; the next process that writes there removes it.

    Args:
        path: a local path; its folder is created if missing.
        mode: "wb", or "w" for UTF-8 text. In text, a byte of a file name that is not UTF-8 becomes
            six plain letters, as in Python's `backslashreplace`.
        durable: wait until the content is on the disk; otherwise a power cut could leave an empty
            file. Turn it off for many small files that are easy to make again.

    Raises:
        UserError: the file cannot be written, for example because the disk is full.
    """
    path = Path(path)
    in_block = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The temporary name does not contain the name of `path`, which may have the maximum length.
        with make_temporary_file(path.parent) as (temporary, descriptor):
            encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
            with open(descriptor, mode, encoding=encoding, errors=errors, closefd=False) as file:
                in_block = True
                yield file
                in_block = False
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            if not path.exists():
                for record in _records:
                    record.append(path)
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # When a write fails, torch.save raises a RuntimeError whose context is the system's error.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        # A failed write has no file name, so an error with a name is about another file.
        if in_block and cause.filename is not None:
            raise
        raise explain_write_error(path, cause) from error


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Create `folder` with its parents, and check that files can be written there.

    Raises:
        UserError: the folder cannot be created or written to.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"folder {os.path.abspath(folder)} cannot be written to: {_explain(error)}"
        ) from error


@contextlib.contextmanager
def writable_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Create `folder` as `require_writable` does, for the files that the block writes into it.

    If the block raises, the folder and its parents are removed, as far as they are new and empty.

    Raises:
        UserError: see `require_writable`.
    """
    path = Path(folder).absolute()
    new = [place for place in (path, *path.parents) if not place.exists()]
    try:
        require_writable(path)
        yield
    except BaseException:
        for place in new:
            with contextlib.suppress(OSError):  # not empty, or not there
                place.rmdir()
        raise


def _explain(error: OSError) -> str:
    """Return the reason of a failed write and how to fix it."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{reason}. Make room, or give another folder"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{reason}. Give another folder, or fix its permissions"
    if error.errno == errno.ENAMETOOLONG:
        return f"{reason}. Give a shorter name"
    return f"{reason}. Give another folder"


def explain_write_error(path: str | os.PathLike[str], error: OSError) -> UserError:
    """Return the error for a file that cannot be written.

    It is an `InputFailure` if the name is too long, since files have the names of their inputs.
    """
    kind = InputFailure if error.errno == errno.ENAMETOOLONG else UserError
    return kind(f"cannot write {os.path.abspath(path)}: {_explain(error)}")


def explain_failed_write(error: BaseException) -> UserError | None:
    """Return an error for a disk that is full or read-only; None if `error` has another cause."""
    if not isinstance(error, OSError) or error.errno not in _FULL_DISK:
        return None
    where = f" {os.path.abspath(error.filename)}" if error.filename else ""
    return UserError(f"cannot write{where}: {_explain(error)}")


def is_special(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is a pipe, socket or device: reading from it may never end."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def refuse_special(path: str | os.PathLike[str], expected: str) -> None:
    """Check that `path` is no pipe, socket or device.

    Args:
        path: a path, which need not exist.
        expected: the words for the file that is expected, such as "an image file".

    Raises:
        UserError: it is one, see `is_special`.
    """
    if is_special(path):
        raise UserError(f"{os.fspath(path)}: expected {expected}, got a pipe, socket or device")


def file_sha256(path: str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: str | os.PathLike[str], fix: str = "") -> Any:
    """Return the content of a json file.

    Args:
        path: a local path.
        fix: the last sentence of the error message, which says what the user can do.

    Raises:
        UserError: the file is missing, cannot be read, or is not json.
    """
    fix = f". {fix}" if fix else ""
    try:
        with open(path, "rb") as file:
            content = file.read()
        return json.loads(content.decode(json.detect_encoding(content)))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}{fix}") from error
    except UnicodeDecodeError as error:
        fix = fix or ". Save the file as UTF-8"
        raise UserError(f"{path}: neither UTF-8 nor UTF-16: {error}{fix}") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not json: {error}{fix}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not json: nested too deeply{fix}") from error
    except ValueError as error:  # Python's own message is for programmers
        digits = re.search(r"value has (\d+) digits", str(error))
        found = f"a number of {digits.group(1)} digits" if digits else str(error)
        raise UserError(f"{path}: has {found}, which no file of data needs{fix}") from error


def read_json_or_none(path: str | os.PathLike[str]) -> Any:
    """Return the content of a json file, or None if it cannot be read."""
    try:
        return read_json(path)
    except UserError:
        return None


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write a json file atomically; `make_jsonable` says which values become null.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_open(path, "w") as file:
        json.dump(make_jsonable(content), file, indent=1, allow_nan=False)
        file.write("\n")


def make_jsonable(content: Any) -> Any:
    """Return a copy of nested content that json can hold.

    NaN and infinities become None, numbers and arrays of NumPy and PyTorch become Python's numbers
    and lists, and tuples become lists.

    Args:
        content: dictionaries, lists, tuples, arrays, numbers, strings and None.
    """
    if isinstance(content, Mapping):
        return {key: make_jsonable(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [make_jsonable(value) for value in content]
    if hasattr(content, "tolist"):
        return make_jsonable(content.tolist())
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    return content
