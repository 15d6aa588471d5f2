"""Temporary files and folders that have an owner: what a killed process leaves is removed later.

A process locks what it makes for as long as it needs it, and the system takes the lock away when
the process dies. So if a process can lock a file with such a name, nobody needs it any more.
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

_cleaned: set[str] = set()  # folders that this process has looked through


@contextlib.contextmanager
def make_temporary_file(folder: Path) -> Iterator[tuple[Path, int]]:
    """Make an empty file that this process owns, and remove it after the block.

    It may be renamed in the block; then it stays. When a process calls this or
    `make_temporary_folder` for a folder for the first time, it removes what killed processes have
    left there.

    Args:
        folder: where to make it.

    Yields:
        The path of the file, and the descriptor to write to. On SMB nothing else can write to a
        file that is locked, not even this process.

    Raises:
        OSError: it cannot be made.
    """
    path, descriptor = _make_locked(folder, is_folder=False)
    try:
        yield path, descriptor
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)  # now, after a rename: the lock must hold until then


@contextlib.contextmanager
def make_temporary_folder(folder: Path) -> Iterator[Path]:
    """Make an empty folder that this process owns, see `make_temporary_file`.

    Args:
        folder: where to make it.

    Yields:
        Its path.

    Raises:
        OSError: it cannot be made.
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
            except FileNotFoundError:  # as below
                continue
        else:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return path, descriptor
        except (BlockingIOError, FileNotFoundError):
            pass  # another process has taken it for left behind, before it was locked
        except OSError:  # a file system without locks, where nothing is ever removed
            return path, descriptor
        os.close(descriptor)


def remove_left_behind(folder: str | os.PathLike[str], below: Iterable[str] = ()) -> None:
    """Remove the temporary files and folders in `folder` that no living process owns.

    Args:
        folder: the folder; it may be missing.
        below: names of folders in it that are looked through too, at any depth.

    They have a name and an owner that only this package and this user give, and can be locked. One
    that another machine made, or this one before it was last started, must also be a day old: not
    every network file system knows the locks of other machines. What cannot be locked stays.
    Failures are ignored.
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
        # Neither a link nor the wait for a pipe's writer.
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
    return max(os.lstat(one).st_mtime for one in (path, *inside))


@functools.cache
def mark_machine() -> str:
    """Return 8 digits that stand for this machine since its start: for the reach of its locks."""
    try:
        text = Path(_BOOT_ID).read_text()
    except OSError:  # not Linux
        text = socket.gethostname()
    return hashlib.sha256(text.encode()).hexdigest()[:8]
