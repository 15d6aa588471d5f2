"""One run at a time in a folder: the run locks a file in it, which its end releases."""

import contextlib
import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import IO

from ..errors import UserError
from ..run_files import LOCK

__all__ = ["lock_folder", "release_folders", "require_free"]

logger = logging.getLogger(__name__)

_held: dict[Path, IO[str]] = {}  # the open, locked files of this process


def lock_folder(folder: Path) -> None:
    """Lock a folder for this process, until `release_folders` or the end of the process.

    A killed process leaves the file, but no lock. On a file system that cannot lock files, this
    only logs a warning.

    Args:
        folder: a folder that can be written; a folder that this process has locked stays locked.

    Raises:
        UserError: another process has locked it.
    """
    path = folder.resolve() / LOCK
    while path not in _held:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115, closed by `release_folders`
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise UserError(
                f"{folder} is in use by another run ({holder}). Wait for its end, or give another "
                "folder (OUTPUT_DIR, --output)"
            ) from None
        except OSError as error:
            logger.warning("Two runs in %s would not be noticed: %s", folder, error.strerror)
        with contextlib.suppress(FileNotFoundError):
            # The holder before may have removed the file after it was opened here.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                _held[path] = file
                break
        file.close()
    _write_holder(_held[path])


def _write_holder(file: IO[str]) -> None:
    file.truncate(0)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    file.write(f"process {os.getpid()} on {socket.gethostname()}, since {since}\n")
    file.flush()


def release_folders() -> None:
    """Release the folders that this process has locked, and remove the files in them."""
    while _held:
        path, file = _held.popitem()
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            # Processes that this one has forked hold the file open too.
            fcntl.flock(file, fcntl.LOCK_UN)
        file.close()


def require_free(folder: Path) -> None:
    """Check that no other process runs in a folder, before its files are moved.

    Raises:
        UserError: see `lock_folder`.
    """
    if (folder / LOCK).exists():
        lock_folder(folder)
        release_folders()
