"""Training what is not trained yet: each run in a folder of its own, skipped, resumed or redone."""

import contextlib
import json
import logging
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from detectron2.config import CfgNode

from mask_rcnn_ext.config import config_hash
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import require_writable

__all__ = [
    "Progress",
    "State",
    "TrainingRun",
    "run_to_the_end",
    "train_all",
    "training_options",
]

logger = logging.getLogger(__name__)

State = Literal["done", "interrupted", "stale", "left"]

_PATIENCE = 10  # seconds that an interrupted process has to end, at each way of asking


_Run = TypeVar("_Run", bound="TrainingRun")


@dataclass(frozen=True)
class TrainingRun(ABC):
    """One training run: a variant, a seed, and the folder of its output."""

    variant: str
    seed: int
    folder: Path

    @classmethod
    def under(cls: type[_Run], root: str | Path, variant: str, seed: int) -> _Run:
        """Return the run whose folder is `<root>/<variant>/seed<seed>`."""
        return cls(variant, seed, Path(root) / variant / f"seed{seed}")

    @property
    def title(self) -> str:
        """Name the run in a line of text."""
        return f"{self.variant} seed {self.seed}"

    @property
    def form(self) -> str:
        """What it has in common with other variants that take about as long."""
        return self.variant

    @property
    @abstractmethod
    def config_file(self) -> str:
        """Where the variant's yaml is."""

    @abstractmethod
    def config(self) -> CfgNode:
        """Return the variant's config."""

    @abstractmethod
    def written_hash(self) -> str | None:
        """Return `sha256` of the run in the folder, "" when it is broken, None without a run.

        Raises:
            UserError: the folder holds something else.
        """

    def sha256(self) -> str:
        """Return the hash of what the variant's config and the seed are now."""
        return config_hash(self.config(), self.seed)

    def results(self) -> dict[str, Any] | None:
        """Return the run's `results.json`; None when it is not there or is of no evaluation."""
        try:
            content = json.loads((self.folder / "results.json").read_text("utf-8"))
            return content if content["bbox"] and content["run"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_complete(self) -> bool:
        """Tell whether the folder holds all that the run is to leave."""
        return self.results() is not None

    def state(self) -> State:
        """Tell how far the run is. "stale": it is of another config than the yaml is now.

        Raises:
            UserError: the folder holds something else.
        """
        written = self.written_hash()
        if written is None:
            return "left"
        if written != self.sha256():
            return "stale"
        if self.is_complete():
            return "done"
        return "interrupted" if (self.folder / "last_checkpoint").is_file() else "left"

    def discard_checkpoints(self) -> None:
        """Delete the checkpoints that a finished run has no use for; `model_final.pth` stays."""
        for path in self.folder.glob("model_[0-9]*.pth"):
            path.unlink()

    def prepare(self) -> bool:
        """Make the folder ready for training; return whether to resume.

        What an older config, or a start without a checkpoint, left there is deleted.

        Raises:
            UserError: the folder holds something else, or cannot be written.
        """
        if self.state() == "interrupted":
            return True
        if self.folder.is_dir() and any(self.folder.iterdir()):
            shutil.rmtree(self.folder)
        require_writable(self.folder)
        return False


class Progress(Generic[_Run]):
    """What is done of a plan, what is left, and about how long that takes."""

    def __init__(self, runs: Sequence[_Run]) -> None:
        """Look at the folders of `runs`.

        Raises:
            UserError: one holds something else than a run.
        """
        self.runs = list(runs)
        self.states = {run: run.state() for run in self.runs}

    @property
    def todo(self) -> list[_Run]:
        """The runs that are not done, in the order of work."""
        return [run for run in self.runs if self.states[run] != "done"]

    def update(self, run: _Run) -> None:
        """Look at a run's folder again."""
        self.states[run] = run.state()

    def seconds(self, run: _Run) -> float | None:
        """Return what a finished run took, about what another takes, None when nothing tells.

        Finished runs of the same variant tell best, then those of its form, then all.
        """
        took = {done: _seconds(done) for done, state in self.states.items() if state == "done"}
        if run in took:
            return took[run]
        for alike in (
            lambda other: other.variant == run.variant,
            lambda other: other.form == run.form,
            lambda other: True,
        ):
            if found := [seconds for other, seconds in took.items() if alike(other)]:
                return sum(found) / len(found)
        return None

    def table(self) -> str:
        """Return the runs as lines of text, in the order of work, and the summary."""
        width = max(len(run.variant) for run in self.runs)
        lines = []
        for run, state in self.states.items():
            about, seconds = "  " if state == "done" else "~ ", self.seconds(run)
            time = "" if seconds is None else f"{about}{seconds:5.0f} s"
            lines.append(f"{run.variant:{width}}  seed {run.seed}  {state:11}  {time}".rstrip())
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """Return one line: how many are done and left, and about how long the rest takes."""
        estimates = [self.seconds(run) for run in self.todo]
        known = [seconds for seconds in estimates if seconds is not None]
        text = f"{len(self.runs) - len(estimates)} of {len(self.runs)} runs done"
        if not estimates:
            return text
        if not known:
            return f"{text}; how long one takes here is not known yet"
        return f"{text}, about {sum(known) / 60:.0f} min left"


def _seconds(run: TrainingRun) -> float:
    info = (run.results() or {}).get("run", {})
    return sum(float(info.get(key) or 0.0) for key in ("train_seconds", "eval_seconds"))


def training_options(run: TrainingRun, resume: bool) -> list[str]:
    """Return what `train_net.py` is given to train a run in its folder."""
    options = ["--config-file", run.config_file, *(["--resume"] if resume else [])]
    return [*options, "OUTPUT_DIR", str(run.folder), "SEED", str(run.seed)]


def run_to_the_end(command: Sequence[str], console: Path) -> int:
    """Run a command and return its exit code; what it prints is added to the file `console`.

    When this process is interrupted, so is the command, and it has ended when this returns.
    """
    with open(console, "ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            return process.wait()
        except BaseException:
            for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                process.send_signal(stop)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE)
                    break
            raise


def train_all(
    progress: Progress[_Run],
    train: Callable[[_Run, bool], int],
    after_each: Callable[[], object],
) -> None:
    """Train the runs that are not done, one at a time, in the order of work.

    A run that fails does not stop the others.

    Args:
        progress: of the runs; kept up to date.
        train: trains a run in its folder; told whether to resume; returns an exit code.
        after_each: called after every run that ended well.

    Raises:
        UserError: at the end, which runs failed and where they say why.
    """
    failed: list[_Run] = []
    for run in progress.runs:
        progress.update(run)  # what was trained just now may have made it stale
        if progress.states[run] == "done":
            continue
        resume = run.prepare()
        logger.info("%s%s ...", run.title, ", resumed" if resume else "")
        code = train(run, resume)
        progress.update(run)
        if code or progress.states[run] != "done":
            logger.error("%s failed (exit code %d)", run.title, code)
            failed.append(run)
            continue
        run.discard_checkpoints()
        after_each()
        logger.info("%s took %.0f s. %s", run.title, _seconds(run), progress.summary())
    if failed:
        raise UserError(
            f"{len(failed)} of the runs failed: {', '.join(run.title for run in failed)}. The file "
            f"console.txt in the folder of each says why, {failed[0].folder} first; run the same "
            "command again when that is mended"
        )
