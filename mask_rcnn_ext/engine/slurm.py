"""Submits a command to Slurm through submitit (`--slurm`); the extra `slurm` installs it.

A job runs the function of the command on every task, with the variables that `torchrun` sets. Slurm
may stop the job for another one, or at its time limit. It is then queued again, and a training goes
on from its last checkpoint.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError

__all__ = ["SubmittedCommand", "is_submission", "submit"]

_INSIDE = "MASK_RCNN_EXT_SLURM_JOB"  # set in the processes of a job
_MAX_TIMEOUTS = 20  # how often a job is queued again after its time limit


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
        if code := self.function(self.args):
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
        UserError: submitit or Slurm is missing, a parameter is unknown, `time` is missing, or Slurm
            refuses the job.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            '--slurm needs the package submitit: pip install "mask_rcnn_ext[slurm]", or pip '
            "install submitit"
        ) from error
    chosen = {**parameters, **_read_options(args.slurm_options)}
    if not (isinstance(chosen.get("time"), int) and chosen["time"] > 0):
        raise UserError(
            '--slurm needs a time limit in minutes, such as --slurm-options "time=720 '
            f'partition=gpu", got {chosen.get("time")!r}'
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
