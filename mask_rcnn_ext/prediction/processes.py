"""Runs a `FolderJob` in this process, in new processes, or in the processes of `torchrun`."""

import contextlib
import datetime
import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tqdm import tqdm

from ..child_processes import end_with_parent
from ..errors import UserError, require_range
from .earlier import require_free_targets
from .folder import FolderJob, Summary, merge_shares, predict_share

__all__ = ["PredictionStopped", "run_folder_job"]

_START = "spawn"  # a forked process cannot use CUDA
_PATIENCE = 60.0  # seconds that a process may take to finish its image before it is ended
_YEAR = datetime.timedelta(days=365)  # how long the first process of torchrun waits for the others


class PredictionStopped(KeyboardInterrupt):
    """A `KeyboardInterrupt` has stopped a prediction; it is the cause of this error.

    Attributes:
        summary: the finished images and the files written.
    """

    def __init__(self, summary: Summary) -> None:
        super().__init__(f"{summary.num_images} of {summary.num_files} images are done")
        self.summary = summary


def run_folder_job(job: FolderJob, processes: int = 1) -> Summary | None:
    """Predict on all files of a job, and write its results.

    A job that was killed or stopped continues when it is run again. The results depend neither on
    the number of processes nor on kills.

    Args:
        job: the job.
        processes: number of processes to start; 1 predicts in this process. Under `torchrun` it
            must be 1.

    Returns:
        What was written. Under `torchrun`, all processes except the first return None.

    Raises:
        PredictionStopped: a `KeyboardInterrupt` came. The results of the finished images are
            written.
        UserError: see `require_free_targets`, `predict_share` and `merge_shares`; or a process
            died.
    """
    require_range("--processes", processes, 1)
    require_free_targets(Path(job.output), job.outputs, job.files)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        if processes > 1:
            raise UserError("torchrun starts the processes: leave out --processes")
        return _join_torchrun(job)
    processes = min(processes, max(1, len(job.files)))  # more would have nothing to do
    if processes == 1:
        return _run_alone(job)
    with tqdm(total=len(job.files), unit="image", desc="predict") as bar:
        return _Processes(job, processes).run(bar)


def _run_alone(job: FolderJob) -> Summary:
    predictor = job.make_predictor(0)
    try:
        with tqdm(total=len(job.files), unit="image", desc="predict") as bar:
            settings_sha256 = predict_share(job, predictor, on_done=bar.update)
    except KeyboardInterrupt as error:
        settings_sha256 = job.describe(predictor)["settings_sha256"]
        raise PredictionStopped(merge_shares(job, settings_sha256, complete=False)) from error
    return merge_shares(job, settings_sha256, complete=True)


def _join_torchrun(job: FolderJob) -> Summary | None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", timeout=_YEAR)
    try:
        predictor = job.make_predictor(int(os.environ["LOCAL_RANK"]))
        total = -(-len(job.files) // world)
        with tqdm(total=total, unit="image", desc="process 0", disable=rank > 0) as bar:
            settings_sha256 = predict_share(job, predictor, rank, world, bar.update)
        dist.barrier()
    finally:
        dist.destroy_process_group()
    return merge_shares(job, settings_sha256, complete=True) if rank == 0 else None


class _Processes:
    """The processes of one machine. They share no lock, which a kill could leave locked."""

    def __init__(self, job: FolderJob, number: int) -> None:
        context: Any = multiprocessing.get_context(_START)
        self._job = job
        self._stop = context.Value("b", 0, lock=False)
        self._done = [context.Value("q", 0, lock=False) for _ in range(number)]
        self._answers: list[Connection] = []
        self._children = []
        for rank, done in enumerate(self._done):
            answer, theirs = context.Pipe(duplex=False)
            arguments = (job, rank, number, done, self._stop, theirs)
            self._answers.append(answer)
            self._children.append(context.Process(target=_run_child, args=arguments))

    def run(self, bar: Any) -> Summary:
        """See `run_folder_job`."""
        try:
            for child in self._children:
                child.start()
            while (living := self._find_living()) and not any(c.exitcode for c in self._children):
                wait([child.sentinel for child in living], timeout=0.2)
                if (new := self._count() - bar.n) > 0:
                    bar.update(new)
        except KeyboardInterrupt as error:
            self._end()
            settings_sha256, _ = self._read_answers()
            raise PredictionStopped(
                merge_shares(self._job, settings_sha256, complete=False)
            ) from error
        finally:
            self._end()
        settings_sha256, mistake = self._read_answers()
        if mistake:
            raise UserError(mistake)
        for rank, child in enumerate(self._children):
            if child.exitcode:
                why = f"signal {-child.exitcode}" if child.exitcode < 0 else "an error"
                raise UserError(
                    f"process {rank} of {len(self._children)} was ended by {why}; {self._count()} "
                    "of the images are done. If memory was short, give a smaller --processes or "
                    "--batch-size. The same command continues"
                )
        bar.update(self._count() - bar.n)
        return merge_shares(self._job, settings_sha256, complete=True)

    def _count(self) -> int:
        return sum(done.value for done in self._done)

    def _find_living(self) -> list[Any]:
        return [child for child in self._children if child.is_alive()]

    def _end(self) -> None:
        """Let the processes finish their images; end those that take too long."""
        self._stop.value = 1
        latest = time.monotonic() + _PATIENCE
        for child in self._children:
            if child.pid is not None:
                child.join(max(0.0, latest - time.monotonic()))
                child.terminate()
                child.join()

    def _read_answers(self) -> tuple[str, str]:
        """Return the hash of the settings of the processes, and the first error message."""
        found: dict[str, str] = {"settings_sha256": "", "mistake": ""}
        for answer in self._answers:
            with contextlib.suppress(EOFError, OSError):
                while answer.poll():
                    kind, text = answer.recv()
                    found[kind] = found[kind] or text
        return found["settings_sha256"], found["mistake"]


def _run_child(
    job: FolderJob, rank: int, world: int, done: Any, stop: Any, answer: Connection
) -> None:
    """Predict one share; the parent process decides when this process stops."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal
    end_with_parent()
    # By default each process would start as many threads as there are cores.
    torch.set_num_threads(max(1, torch.get_num_threads() // world))

    def on_done(number: int) -> None:
        done.value += number
        if stop.value:
            raise KeyboardInterrupt

    try:
        predictor = job.make_predictor(rank)
        answer.send(("settings_sha256", job.describe(predictor)["settings_sha256"]))
        predict_share(job, predictor, rank, world, on_done)
    except UserError as error:
        answer.send(("mistake", str(error)))
    except KeyboardInterrupt:
        pass
