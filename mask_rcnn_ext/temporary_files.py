"""Temporary files and folders with an owner: if a process is killed, another removes its files.

A process locks a temporary file or folder as long as it needs it, and the system removes the lock
when the process dies. If a process can lock a file with such a name, nobody needs it any more.
"""

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

__all__ = ["make_temporary_file", "make_temporary_folder", "mark_machine", "remove_left_behind"]

logger = logging.getLogger(__name__)

# The machine's mark, then 32 random digits. Earlier versions wrote no mark, and `.mp4` for videos.
_NAME = re.compile(r"\.mask_rcnn_ext-(?:(?P<machine>[0-9a-f]{8})-)?[0-9a-f]{32}\.(?:tmp|mp4)")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_DAY = 86_400  # seconds

_cleaned: set[str] = set()  # folders in which this process has removed old files


@contextlib.contextmanager
def make_temporary_file(folder: Path) -> Iterator[tuple[Path, int]]:
    """Make an empty file that this process owns, and remove it after the block.

    If the file is renamed in the block, it stays. When a process first calls this function or
    `make_temporary_folder` for a folder, it removes the temporary files of killed processes there.

    Args:
        folder: the folder of the file.

    Yields:
        The path of the file, and the descriptor to write to. On SMB a locked file can only be
        written through this descriptor, even by this process.

    Raises:
        OSError: the file cannot be made.
    """
    path, descriptor = _make_locked(folder, is_folder=False)
    try:
        yield path, descriptor
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)  # not before: the lock must hold until a rename is done


@contextlib.contextmanager
def make_temporary_folder(folder: Path) -> Iterator[Path]:
    """Make an empty folder that this process owns, see `make_temporary_file`.

    Args:
        folder: the folder above it.

    Yields:
        The path of the new folder.

    Raises:
        OSError: the folder cannot be made.
    """
    path, descriptor = _make_locked(folder, is_folder=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _make_locked(folder: Path, *, is_folder: bool) -> tuple[Path, int]:
    if (key := os.path.abspath(folder)) not in _cleaned:
        _cleaned.add(key)
        remove_left_behind(folder)
    while True:
        path = folder / f".mask_rcnn_ext-{mark_machine()}-{uuid.uuid4().hex}.tmp"
        if is_folder:
            path.mkdir()
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # another process has removed it, see below
                continue
        else:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return path, descriptor
        except (BlockingIOError, FileNotFoundError):
            pass  # before it was locked, another process has removed it as a left file
        except OSError:  # a file system without locks, where old files are never removed
            return path, descriptor
        os.close(descriptor)


def remove_left_behind(folder: str | os.PathLike[str], below: Iterable[str] = ()) -> None:
    """Remove the temporary files and folders in `folder` that no living process owns.

    A file or folder is removed if it has a name of this package, belongs to this user, and can be
    locked. If another machine has made it, or this machine before its last start, it must also be a
    day old, because not every network file system shares locks between machines. Failures are
    ignored.

    Args:
        folder: the folder; it may be missing.
        below: names of folders in it that are cleaned too, at any depth.
    """
    for name in below:
        if not os.path.islink(path := os.path.join(folder, name)):
            for parent, _, _ in os.walk(path):
                remove_left_behind(parent)
    left = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [
            (entry.path, match["machine"] == mark_machine())
            for entry in entries
            if (match := _NAME.fullmatch(entry.name))
        ]
    count = sum([_remove_unowned(path, made_here) for path, made_here in left])
    if count:
        logger.info("Removed %d temporary file(s) of killed processes from %s.", count, folder)


def _remove_unowned(path: str, made_here: bool) -> bool:
    try:
        # Do not follow links, and do not wait for the writer of a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        found = os.fstat(descriptor)
        is_folder = stat.S_ISDIR(found.st_mode)
        if not (is_folder or stat.S_ISREG(found.st_mode)) or found.st_uid != os.geteuid():
            return False
        if not made_here and time.time() - _find_last_change(path) < _DAY:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        (shutil.rmtree if is_folder else os.unlink)(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _find_last_change(path: str) -> float:
    """Return when a file, or a folder or anything in it, was last changed, in Unix seconds."""
    inside = [
        os.path.join(parent, name)
        for parent, folders, files in os.walk(path)
        for name in (*folders, *files)
    ]
    return max(os.lstat(each).st_mtime for each in (path, *inside))


@functools.cache
def mark_machine() -> str:
    """Return 8 digits for this machine and its last start: its locks are valid only for these."""
    try:
        text = Path(_BOOT_ID).read_text()
    except OSError:  # not Linux
        text = socket.gethostname()
    return hashlib.sha256(text.encode()).hexdigest()[:8]
