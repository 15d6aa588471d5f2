"""Lets one run at a time use a folder: a run locks a file in its folder until it ends.

The file also says which `torchrun` has begun the run, so that a restart continues it.
"""

import contextlib
import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import IO

from detectron2.utils import comm

from ..errors import UserError
from ..run_files import LOCK
from ..steps import decide
from ..temporary_files import mark_machine

__all__ = ["is_restart", "lock_folder", "mark_begun", "release_folders", "require_free"]

logger = logging.getLogger(__name__)

_held: dict[Path, IO[str]] = {}  # the open, locked files of this process
_agents: set[str] = set()  # the `torchrun`s of all machines, see `is_restart`
_ENDED = "ended under "  # the last lines of a file that stays after a success


def _close_in_child() -> None:
    """Close the files in a forked process: a lock ends when the last process closes its file.

    A worker that loads images lives for some seconds after its parent is killed.
    """
    while _held:
        _held.popitem()[1].close()


os.register_at_fork(after_in_child=_close_in_child)


def lock_folder(folder: Path, *, begun: bool = False) -> None:
    """Lock a folder for this process, until `release_folders` or the end of the process.

    A killed process leaves the file, but no lock. On a file system that cannot lock files, this
    only logs a warning.

    Args:
        folder: a folder that can be written; a folder that this process has locked stays locked.
        begun: the run in the folder goes on, see `mark_begun`.

    Raises:
        UserError: another process has locked it.
    """
    path = folder.resolve() / LOCK
    while path not in _held:
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115, closed by `release_folders`
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = ""
            with contextlib.suppress(OSError, UnicodeDecodeError):  # SMB lets only the holder read
                file.seek(0)
                holder = file.readline().strip()
            file.close()
            raise UserError(
                f"{folder} is in use by another run ({holder or 'another process'}). Wait for its "
                "end, or give another folder (OUTPUT_DIR, --output)"
            ) from None
        except OSError as error:
            logger.warning("Two runs in %s would not be noticed: %s", folder, error.strerror)
        with contextlib.suppress(FileNotFoundError):
            # The holder before may have removed the file after it was opened here.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                _held[path] = file
                break
        file.close()
    _write_holder(_held[path], begun)


def _write_holder(file: IO[str], begun: bool) -> None:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    text = f"process {os.getpid()} on {socket.gethostname()}, since {since}\n"
    if begun and (launch := _identify_launch()):
        text += f"{launch}\n"
    file.truncate(0)
    file.write(text)
    file.flush()


def _identify_launch() -> str:
    """Return a text that is the same in all attempts of one `torchrun`; "" without it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    launch = f"begun by torchrun {os.environ['TORCHELASTIC_RUN_ID']}"
    if not _is_on_one_machine():
        return launch  # the first process may be on another machine next time
    return f"{launch}, {_identify_agent()}"


def _identify_agent() -> str:
    """Return a text that is the same in all attempts of the `torchrun` of this machine."""
    return f"process {os.getppid()} on {socket.gethostname()}{_find_start(os.getppid())}"


def _find_start(process: int) -> str:
    """Return the start of a process, since its number can be used again, such as 1 in a container.

    Returns:
        Clock ticks since the start of the machine, with the machine's mark; "" if not on Linux.
    """
    try:
        # The name of the program may be cut in the middle of a character.
        text = Path(f"/proc/{process}/stat").read_text(errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return f", started at {fields[19]} of {mark_machine()}"


def mark_begun(folder: Path) -> None:
    """Write into the lock of a folder that the run has begun: the files are now from this run."""
    file = _held.get(folder.resolve() / LOCK)
    if file is not None:
        _write_holder(file, begun=True)


def is_restart(folder: Path) -> bool:
    """Return whether `torchrun` has restarted a process, and the run in `folder` can go on.

    All processes must call this; process 0 decides.

    With several machines each one counts its own restarts. There the id of the job decides
    (`--rdzv-id`), if one was given: a job continues the run of an earlier job with the same id. A
    run that has ended is only continued if a `torchrun` of this job also began it.
    """
    counted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    gathered = comm.all_gather((counted, _identify_agent()))
    _agents.clear()
    _agents.update(agent for _, agent in gathered)
    restarted = any(count > 0 for count, _ in gathered)
    return decide(lambda: _goes_on(folder, restarted))


def _goes_on(folder: Path, restarted: bool) -> bool:
    named = os.environ.get("TORCHELASTIC_RUN_ID", "none") != "none"
    if not (restarted or (named and not _is_on_one_machine())):
        return False
    try:
        lines = (folder / LOCK).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    ended = {line.removeprefix(_ENDED) for line in lines if line.startswith(_ENDED)}
    if ended and not ended & _agents:
        return False
    return _identify_launch() in lines and (folder / "last_checkpoint").is_file()


def _is_on_one_machine() -> bool:
    return os.environ.get("WORLD_SIZE") == os.environ.get("LOCAL_WORLD_SIZE")


def release_folders(*, failed: bool = False) -> None:
    """Release the folders that this process has locked, and remove the files in them.

    A file that tells a restart of `torchrun` that the run has begun stays if the run has failed. If
    `torchrun` may restart, it also stays after a success: another process may be killed after its
    work, and `torchrun` then starts all again.

    Args:
        failed: the run has failed.
    """
    may_restart = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0
    while _held:
        path, file = _held.popitem()
        with contextlib.suppress(OSError):
            file.seek(0)
            if not ((failed or may_restart) and _identify_launch() in file.read().splitlines()):
                path.unlink(missing_ok=True)
            elif not failed:
                agents = sorted({*_agents, _identify_agent()})
                file.writelines(f"{_ENDED}{agent}\n" for agent in agents)
                file.flush()
        with contextlib.suppress(OSError):
            # Processes that this one has forked hold the file open too.
            fcntl.flock(file, fcntl.LOCK_UN)
        with contextlib.suppress(OSError):  # what a full disk has not taken is written again
            file.close()


def require_free(folder: Path) -> None:
    """Check that no other process runs in a folder, before its files are moved.

    Raises:
        UserError: see `lock_folder`.
    """
    if (folder / LOCK).exists():
        lock_folder(folder)
        release_folders()
