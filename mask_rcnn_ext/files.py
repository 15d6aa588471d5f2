"""Writing a file whole or not at all, and seeing beforehand that a folder can be written to."""

import contextlib
import errno
import hashlib
import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .errors import UserError

__all__ = [
    "atomic_open",
    "file_sha256",
    "make_jsonable",
    "read_json",
    "require_writable",
    "write_json",
]


@contextlib.contextmanager
def atomic_open(
    path: str | os.PathLike[str], mode: str = "wb", *, durable: bool = True
) -> Iterator[IO[Any]]:
    """Open a file for writing; it takes the place of `path` when the block ends.

    When the block raises, or the process is killed, the former file is as it was. Several processes
    may write the same path: the last one's file stays, whole. A killed process may leave a
    `.mask_rcnn_ext-*.tmp` beside it, which can be deleted.

    Args:
        path: a local path; its folder is made if missing.
        mode: "wb", or "w" for UTF-8 text.
        durable: wait until the disk has the content, so that a power cut cannot leave the new name
            on an empty file. Turn it off for many small files that are easily made again.

    Raises:
        UserError: the system does not let the file be written, such as a full disk.
    """
    path = Path(path)
    # The name is not part of it: together they could be longer than file names may be.
    temporary = path.with_name(f".mask_rcnn_ext-{uuid.uuid4().hex}.tmp")
    in_block = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        encoding = None if "b" in mode else "utf-8"
        with open(temporary, mode.replace("w", "x"), encoding=encoding) as file:
            in_block = True
            yield file
            in_block = False
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # When a write fails, torch.save raises a RuntimeError of its own over the system's error.
        refusal = error if isinstance(error, OSError) else error.__context__
        if not isinstance(refusal, OSError):
            raise
        if in_block and refusal.filename is not None:  # of another file: writing gives no name
            raise
        raise UserError(
            f"cannot write {os.path.abspath(path)}: {_reason(refusal)}. {_mend(refusal)}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Make `folder`, with its parents, and see that files can be written there.

    Raises:
        UserError: they cannot.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"folder {os.path.abspath(folder)} cannot be written to: {_reason(error)}. "
            f"{_mend(error)}"
        ) from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def _mend(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Make room, or give another folder"
    return "Give another folder, or mend its permissions"


def file_sha256(path: str) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: str) -> Any:
    """Return what a json file holds, None when it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write a json file atomically; see `make_jsonable` for what becomes null.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_open(path, "w") as file:
        json.dump(make_jsonable(content), file, indent=1, allow_nan=False)
        file.write("\n")


def make_jsonable(content: Any, decimals: int | None = None) -> Any:
    """Return a copy of nested content that json can hold.

    NaN and infinities become None, numbers and arrays of NumPy and PyTorch become Python's numbers
    and lists, and tuples become lists.

    Args:
        content: dictionaries, lists, tuples, arrays, numbers, strings and None.
        decimals: round floats to as many; None: leave them.
    """
    if isinstance(content, Mapping):
        return {key: make_jsonable(value, decimals) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [make_jsonable(value, decimals) for value in content]
    if hasattr(content, "tolist"):
        return make_jsonable(content.tolist(), decimals)
    if isinstance(content, float):
        if not math.isfinite(content):
            return None
        return content if decimals is None else round(content, decimals)
    return content
