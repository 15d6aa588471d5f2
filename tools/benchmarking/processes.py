"""Runs a contender in a process of its own, so that its memory can be measured."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["explain_signal", "find_peak", "run_in_process"]


def run_in_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of this package as a program; return the json object that it prints last.

    Raises:
        UserError: a signal has ended the program.
        RuntimeError: it failed.
    """
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), str(root.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarking.{module}"]
    done = subprocess.run(
        [*command, *arguments],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    explain_signal(arguments[0], done.returncode)
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)}: {done.stderr}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def explain_signal(contender: str, code: int) -> None:
    """Raise a `UserError` if the exit code of the process of a contender is that of a signal."""
    if code < 0:
        from mask_rcnn_ext import UserError  # slow, and the other processes do not need it

        raise UserError(
            f"the process of {contender} was ended by {signal.Signals(-code).name}. The system "
            "sends SIGKILL when memory is short"
        )


def find_peak() -> float:
    """Return the largest memory of this process, in bytes."""
    with contextlib.suppress(OSError):  # what getrusage says includes the parent's on Linux
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
