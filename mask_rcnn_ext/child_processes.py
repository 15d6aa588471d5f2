"""Runs commands, and ends processes with the one that started them."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

__all__ = ["end_with_parent", "run_command"]

_PATIENCE = 60  # seconds that an interrupted command has to end, after each signal


def run_command(
    command: Sequence[str],
    console: Path | None = None,
    folder: Path | None = None,
    seconds: float | None = None,
) -> int:
    """Run a command and return its exit code.

    If this process is interrupted, the command is interrupted too, and this function waits for its
    end.

    Args:
        command: the program and its arguments.
        console: the file to which the output is added. None: the terminal.
        folder: the working folder of the command. None: the current folder.
        seconds: the time after which the command is ended by SIGTERM. None: never.

    Raises:
        subprocess.TimeoutExpired: the command was ended after `seconds`.
    """
    with contextlib.ExitStack() as stack:
        file = None if console is None else stack.enter_context(open(console, "ab"))
        stderr = subprocess.STDOUT if console else None
        process = subprocess.Popen(command, stdout=file, stderr=stderr, cwd=folder)
        try:
            return process.wait(seconds)
        except BaseException as error:
            # A command of a shell's background ignores SIGINT until it has handlers of its own.
            late = isinstance(error, subprocess.TimeoutExpired)
            stops = (signal.SIGTERM, signal.SIGKILL)
            for stop in stops if late else (signal.SIGINT, *stops):
                process.send_signal(stop)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE)
                    break
            raise


def end_with_parent() -> None:
    """End this process when its parent process dies, even if the parent is killed.

    This works in a process of `multiprocessing`; in any other process it does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
