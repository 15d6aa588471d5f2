"""A small real training, in a process of its own, and what its folder must hold after a kill."""

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from small_runs import read_weights, same, write_data
from support import SMALL, TINY_CONFIG, run_train_net

# The fork server imports this file, and with it all that a training would import otherwise.
from mask_rcnn_ext import argument_parser, launch, run_as_command, run_job  # noqa: F401
from mask_rcnn_ext.evaluation import compiled_coco  # noqa: F401

# A process of a fork server starts with everything imported, and holds no lock of this one.
CONTEXT = multiprocessing.get_context("forkserver")
KEYS = [
    "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "1",
    "TEST.EVAL_PERIOD", "3", "MASK_RCNN_EXT.LOGGERS", "()",
]  # fmt: skip
PRECISIONS = {
    "float32": ["SOLVER.AMP.ENABLED", "False"],
    "bfloat16": ["SOLVER.AMP.ENABLED", "True", "MASK_RCNN_EXT.AMP_DTYPE", "bfloat16"],
}


@dataclass(frozen=True)
class Variant:
    """How a training computes and loads; `flags` name its data."""

    precision: str
    workers: int
    flags: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.precision}, {self.workers} workers"

    def arguments(self, folder: Path, *more: str) -> list[str]:
        return [
            *("--config-file", TINY_CONFIG, *more, *self.flags, *SMALL, *KEYS),
            *(*PRECISIONS[self.precision], "DATALOADER.NUM_WORKERS", str(self.workers)),
            *("OUTPUT_DIR", str(folder)),
        ]


def make_variants(root: Path) -> list[Variant]:
    flags = tuple(write_data(root / "data", train=4, val=2))
    return [Variant(precision, workers, flags) for precision in PRECISIONS for workers in (0, 2)]


def train(arguments: list[str], output: str, limit: int = 0) -> None:
    """Run the command in this process; end with its exit code.

    Args:
        arguments: the arguments of `train_net.py`.
        output: a file that gets what the command prints.
        limit: no file can be larger, in bytes, as on a disk that is full then. 0: no limit.
    """
    # The workers that load images start as in a command of a user's, not by a new fork server.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if limit:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.exit(run_train_net(*arguments))


def start(arguments: list[str], output: Path, limit: int = 0) -> Any:
    if limit:  # it would count for the output too, but not for a pipe
        pipe = output.with_suffix(f".{limit}")
        os.mkfifo(pipe)
        with open(output, "ab") as file:
            subprocess.Popen(["cat", str(pipe)], stdout=file)
        output = pipe
    process = CONTEXT.Process(target=train, args=(arguments, str(output), limit))
    process.start()
    return process


def finish(process: Any, seconds: float = 300) -> int:
    """Wait for the end of a process and return its exit code; one that hangs is an error."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        raise TimeoutError(f"a training did not end in {seconds} s")
    return int(process.exitcode)


@dataclass
class Faults:
    """What may never be: each with where it was seen."""

    lost: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    not_resumable: list[str] = field(default_factory=list)
    not_bit_equal: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    no_sentence: list[str] = field(default_factory=list)
    grown: list[str] = field(default_factory=list)

    def count(self) -> dict[str, int]:
        return {name: len(found) for name, found in vars(self).items()}


def list_checkpoints(folder: Path) -> dict[str, str]:
    """Return the checkpoints of a run, by path, with the time of their last change."""
    return {str(p): str(p.stat().st_mtime_ns) for p in folder.glob("model_*.pth")}


def find_last(folder: Path) -> int:
    """Return the iteration of the checkpoint that `--resume` takes; -1 if there is none."""
    try:
        name = (folder / "last_checkpoint").read_text()
    except FileNotFoundError:
        return -1
    return 10**6 if name == "model_final.pth" else int(name.removeprefix("model_")[:7])


def check_folder(
    folder: Path, before: dict[str, str], last: int, where: str, faults: Faults
) -> int:
    """Look at a folder after a kill; return the iteration to resume from.

    Args:
        folder: the folder of the run.
        before: `list_checkpoints` before the process that was killed.
        last: `find_last` then.
        where: what to say of a fault.
        faults: gets what is found.
    """
    after = list_checkpoints(folder)
    faults.lost += [f"{where}: {path} is gone" for path in before.keys() - after.keys()]
    for path in after:
        if before.get(path) != after[path]:
            try:
                torch.load(path, weights_only=True)
            except Exception as error:
                faults.corrupt.append(f"{where}: {path}: {error}")
    now = find_last(folder)
    if now < last:
        faults.lost.append(f"{where}: last_checkpoint fell from {last} to {now}")
    if now >= 0 and not (folder / (folder / "last_checkpoint").read_text()).is_file():
        faults.not_resumable.append(f"{where}: last_checkpoint names a file that is not there")
    return now


def check_end(folder: Path, whole: dict[str, torch.Tensor], where: str, faults: Faults) -> None:
    """Compare the final weights with an undisturbed run, and look for temporary files."""
    if not same(read_weights(folder / "model_final.pth"), whole):
        faults.not_bit_equal.append(where)
    left = [path.name for path in folder.rglob(".mask_rcnn_ext-*")]
    if left:
        faults.left_behind.append(f"{where}: {', '.join(left)}")


def check_output(output: Path, where: str, faults: Faults) -> None:
    """Look for the one sentence of a command that failed."""
    lines = output.read_text(errors="replace").splitlines()
    told = [line for line in lines if line.startswith("error: ")]
    if len(told) != 1 or any(line.startswith("Traceback") for line in lines):
        faults.no_sentence.append(f"{where}: {len(told)} sentences, see {output}")


def _has_temporary_files(folder: Path) -> bool:
    try:
        return any(folder.rglob(".mask_rcnn_ext-*"))
    except FileNotFoundError:  # the training has just replaced a folder
        return True


def find_phase(folder: Path, offset: int) -> str:
    """Return in which part of its work a process was killed.

    Args:
        folder: the folder of the run.
        offset: the length of its log before the process.
    """
    if _has_temporary_files(folder):
        return "save"
    with contextlib.suppress(FileNotFoundError), open(folder / "log.txt", "rb") as log:
        log.seek(offset)
        text = log.read().decode(errors="replace")
        if "Starting training" in text:
            evaluates = text.rfind("Start inference") > text.rfind("Saving checkpoint")
            return "evaluation" if evaluates else "training"
    return "start"
