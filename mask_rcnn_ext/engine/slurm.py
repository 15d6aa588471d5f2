"""Submits a command to Slurm through submitit (`--slurm`); the extra `slurm` installs it.

A job runs the function of the command on every task, with the variables that `torchrun` sets. Slurm
may stop the job for another one, or at its time limit. It is then queued again, and a training goes
on from its last checkpoint, which it saves when it is stopped.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import UserError
from .interruption import is_stopping

__all__ = ["SubmittedCommand", "is_submission", "submit"]

_INSIDE = "MASK_RCNN_EXT_SLURM_JOB"  # set in the processes of a job
_MAX_TIMEOUTS = 20  # how often a job is queued again after its time limit
# submitit asks a job to stop 90 seconds before its limit, and Slurm may do so a minute earlier. A
# process that is asked before it has started ends without a checkpoint.
_MIN_MINUTES = 5
# Seconds until Slurm ends the tasks of a job that is queued again; less than its usual KillWait.
_LONGEST_WAIT = 20


def is_submission(args: argparse.Namespace) -> bool:
    """Return whether a command is to be submitted, and is not the job itself."""
    if getattr(args, "slurm_options", "") and not args.slurm:
        raise UserError("--slurm-options needs --slurm")
    return bool(getattr(args, "slurm", False)) and _INSIDE not in os.environ


class SubmittedCommand:
    """The function that each task of a job calls; it is pickled with its arguments.

    Args:
        function: takes the arguments and returns an exit code.
        args: the arguments of the command.
        folder: the folder of the run.
    """

    def __init__(
        self, function: Callable[[argparse.Namespace], int], args: argparse.Namespace, folder: str
    ) -> None:
        self.function, self.args, self.folder = function, args, folder
        self._earlier = self._find_checkpoints()  # at submission: not this job's

    def __call__(self) -> None:
        """Run the command in a task of the job; exit with its code if that is not 0."""
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        os.environ[_INSIDE] = os.environ["TORCHELASTIC_RUN_ID"] = os.environ["SLURM_JOB_ID"]
        restarted = int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0
        trains = not getattr(self.args, "eval_only", False)  # --resume names the weights otherwise
        if restarted and trains and self._find_checkpoints().items() - self._earlier.items():
            self.args.resume = True  # with what this job has written
        with _stop_at_limit() as queue_again:
            code = self.function(self.args)
        if code == 128 + signal.SIGTERM:
            if queue_again:
                queue_again[0]()  # ends process 0
            # The first end of a process may end the others. Process 0 also waits: its own signal
            # may come after those of the processes that it has stopped with.
            time.sleep(_LONGEST_WAIT)
        if code:
            sys.exit(code)

    def checkpoint(self) -> Any:
        """Return the job that submitit queues again: the same command."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _find_checkpoints(self) -> dict[str, int]:
        """Return each file to resume from, in the folder and in the folders of the stages.

        Returns:
            Path of a `last_checkpoint` -> the time at which it was written, in nanoseconds.
        """
        folder = Path(self.folder)
        found = [folder / "last_checkpoint", *folder.glob("*/last_checkpoint")]
        return {str(path): path.stat().st_mtime_ns for path in found if path.is_file()}


@contextlib.contextmanager
def _stop_at_limit() -> Iterator[list[Callable[[], object]]]:
    """Let a command in the block end in its own way shortly before the time limit of the job.

    Slurm sends a signal to all tasks then: SIGUSR2, unless the user has chosen another one.
    submitit's handler would queue the job again and end the process at once, so that a training
    would lose what it did since its last checkpoint. Here, a command that takes SIGTERM gets it
    instead, and can save a checkpoint. If it does not take SIGTERM at that moment, submitit's
    handler is called, as before.

    Yields:
        An empty list. After the signal it has the function that queues the job again.
    """
    from submitit.core.job_environment import JobEnvironment

    process, queue_again = os.getpid(), list[Callable[[], object]]()
    limit = JobEnvironment._usr_sig()
    handler, ends = signal.getsignal(limit), signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process or not callable(handler):
            return  # a worker of this process, which the signal also reaches
        if signal.getsignal(signal.SIGTERM) is ends:
            handler(number, frame)
        elif not queue_again:
            queue_again.append(lambda: handler(number, frame))
            if not is_stopping():
                signal.raise_signal(signal.SIGTERM)

    # submitit has set the handler. A command that takes this signal itself replaces it anyway.
    if callable(handler) and limit not in (signal.SIGTERM, signal.SIGINT):
        signal.signal(limit, stop)
    try:
        yield queue_again
    finally:
        signal.signal(limit, handler)


def submit(
    function: Callable[[argparse.Namespace], int],
    args: argparse.Namespace,
    folder: str,
    **parameters: Any,
) -> None:
    """Submit a command, and print the id of the job and where its output will be.

    Args:
        function: see `SubmittedCommand`. A function of the script itself is pickled with its code.
        args: the arguments of the command; `slurm_options` are the user's parameters.
        folder: the folder of the run; all nodes must see it. The job's files go to its subfolder
            `slurm`.
        parameters: parameters of `submitit.SlurmExecutor`; the user's parameters replace them.

    Raises:
        UserError: submitit or Slurm is missing, a parameter is unknown, `time` is missing or too
            short, or Slurm refuses the job.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            '--slurm needs the package submitit: pip install "mask_rcnn_ext[slurm]", or pip '
            "install submitit"
        ) from error
    chosen = {**parameters, **_read_options(args.slurm_options)}
    if not (isinstance(chosen.get("time"), int) and chosen["time"] >= _MIN_MINUTES):
        raise UserError(
            f"--slurm needs a time limit of {_MIN_MINUTES} minutes or more, such as "
            f'--slurm-options "time=720 partition=gpu", got {chosen.get("time")!r}'
        )
    target = os.path.abspath(folder)
    try:
        executor = submitit.SlurmExecutor(os.path.join(target, "slurm"), _MAX_TIMEOUTS)
        executor.update_parameters(**{key: value for key, value in chosen.items() if value != 0})
        job = executor.submit(SubmittedCommand(function, args, target))
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise UserError(f"--slurm: {error}") from error
    print(f"submitted: job {job.job_id}; its output: {job.paths.stdout}")


def _read_options(text: str) -> dict[str, Any]:
    """Return KEY=VALUE pairs, with numbers as int."""
    found: dict[str, Any] = {}
    for pair in text.split():
        key, equals, value = pair.partition("=")
        if not (equals and key.isidentifier() and value):
            raise UserError(f"--slurm-options: expected KEY=VALUE, such as time=720, got {pair!r}")
        found[key] = int(value) if value.isdecimal() else value
    return found
