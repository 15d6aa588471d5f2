"""Runs commands of this repository as a user would, each with its own log."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mask_rcnn_ext.errors import UserError

from ..training_runs import REPO

__all__ = ["PREDICT", "TRAIN", "Command"]

TRAIN, PREDICT = str(REPO / "train_net.py"), str(REPO / "tools" / "predict.py")


class Command:
    """A Python process and its children, in their own process group.

    Args:
        arguments: the words after `python`.
        log: a file for the output of the command.

    Attributes:
        process: the process.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        with open(log, "ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self) -> float:
        """Wait for the end; return the peak memory of the largest process in MB.

        Raises:
            UserError: the command failed.
        """
        try:
            _, status, usage = os.wait4(self.process.pid, 0)
        except KeyboardInterrupt:
            self.kill()
            raise
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode:
            lines = self._log.read_text("utf-8", errors="replace").splitlines()[-5:]
            raise UserError(f"a command failed; the end of {self._log}:\n" + "\n".join(lines))
        return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

    def kill(self) -> None:
        """Kill the process and all others of its group, if they live."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
