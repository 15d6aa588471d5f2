"""Writing a file whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["atomic_open"]


@contextmanager
def atomic_open(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing; it takes the place of `path` when the block ends.

    When the block raises, or the process is killed, the former file is as it was. What a killed
    process leaves beside it, `.<name>.tmp`, is overwritten by the next attempt.

    Args:
        path: a local path in a folder that exists.
        mode: "wb", or "w" for UTF-8 text.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            # Without this, a power cut may leave the new name on an empty file.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
