"""Steps of work: which are done, stale or interrupted, and how the others are run.

A recipe is everything that decides the output of a step, such as the hash of a config and the
checksums of files. It is stored next to the output, so that a later call can tell whether it would
make the same output again.

In several processes the main process decides and the others do the same.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from detectron2.utils import comm

from .errors import UserError
from .files import read_json_or_none, write_json
from .run_files import EARLIER, LOCK

__all__ = [
    "State",
    "Step",
    "decide",
    "end_with_parent",
    "find_change",
    "holds_run",
    "run_command",
    "run_step",
    "run_steps",
]

logger = logging.getLogger(__name__)

# done: nothing to do. interrupted: started from the same recipe, can be resumed. stale: made from
# another recipe. left: there is nothing to resume.
State = Literal["done", "interrupted", "stale", "left"]

_T = TypeVar("_T")
_PATIENCE = 60  # seconds that an interrupted command has to end, after each signal


class Step(ABC):
    """One step of work, which makes files from a recipe and stores the recipe next to them.

    By default the recipe is stored when the files are complete. A step that can be resumed stores
    it at the start: it overrides `start` and `is_resumable`.

    Only `make` runs in every process; the main process calls the other methods.

    Args:
        title: the step's name in the log.
        record: the json file that holds the recipe.
        outputs: the files that the step makes.
    """

    def __init__(self, title: str, record: str | Path, outputs: Sequence[str | Path] = ()) -> None:
        self.title, self.record, self.outputs = title, Path(record), [Path(p) for p in outputs]

    @abstractmethod
    def find_recipe(self) -> dict[str, Any]:
        """Return what the output would be made from now, as json can hold it."""

    def read_record(self) -> dict[str, Any] | None:
        """Return the recipe of the output that is there; None if there is no output.

        Entries that `find_recipe` does not return are ignored. An output of unknown origin has the
        recipe {}, which makes it stale.
        """
        if self.record.is_file():
            return read_json_or_none(str(self.record)) or {}
        return {} if any(path.exists() for path in self.outputs) else None

    def is_complete(self) -> bool:
        """Return whether the output is complete, given that its recipe is up to date."""
        return all(path.is_file() for path in self.outputs)

    def is_resumable(self) -> bool:
        """Return whether an incomplete output can be completed."""
        return False

    def require_replaceable(self, change: str) -> None:  # noqa: B027, optional
        """Raise if a stale output must stay. By default it is replaced.

        Args:
            change: how the recipe has changed, see `find_change`.
        """

    def start(self, resume: bool) -> None:
        """Get ready for `make`; by default forget the recipe of an earlier output."""
        self.record.unlink(missing_ok=True)

    @abstractmethod
    def make(self, resume: bool) -> None:
        """Make the output.

        Args:
            resume: complete the output that is there.
        """

    def finish(self) -> None:
        """Store the recipe after `make`."""
        write_json(str(self.record), self.find_recipe())

    def describe_change(self) -> str | None:
        """Return how the recipe differs from the recorded one; "" if not; None without output."""
        recorded = self.read_record()
        return None if recorded is None else find_change(recorded, self.find_recipe())

    def state(self) -> State:
        """Return the state of the output."""
        change = self.describe_change()
        if change is None:
            return "left"
        if change:
            return "stale"
        if self.is_complete():
            return "done"
        return "interrupted" if self.is_resumable() else "left"


def find_change(recorded: Any, recipe: dict[str, Any]) -> str:
    """Return the first entry of a recipe that has another value in a recorded one, as a phrase.

    Returns:
        For example "made with topk 2000, now it is 3"; "" if nothing has changed.
    """
    if not isinstance(recorded, dict) or not recorded:
        return "made from an unknown recipe"
    for key, value in json.loads(json.dumps(recipe)).items():  # tuples become lists, as in a file
        if key not in recorded:
            return f"made without {key}"
        earlier = recorded[key]
        if isinstance(value, dict) and isinstance(earlier, dict) and earlier:
            if change := find_change(earlier, value):
                return change
        elif earlier != value:
            return f"made with {key} {_shorten(earlier)}, now it is {_shorten(value)}"
    return ""


def _shorten(value: Any) -> Any:
    """Return the first digits of a SHA-256, any other value as it is."""
    return value[:8] if isinstance(value, str) and len(value) == 64 else value


def decide(function: Callable[[], _T]) -> _T:
    """Return in every process what `function` returns in the main process.

    Raises:
        UserError: the function raised one; every process raises it.
    """
    outcome: Any = None
    if comm.is_main_process():
        try:
            outcome = function()
        except UserError as error:
            outcome = error
    outcome = comm.all_gather(outcome)[0]
    if isinstance(outcome, UserError):
        raise outcome
    found: _T = outcome
    return found


def holds_run(folder: Path, first_files: Collection[str]) -> bool:
    """Return whether a folder holds a training run, so that its files may be moved aside.

    Args:
        folder: the `OUTPUT_DIR`; it may be missing.
        first_files: names of files that a run leaves before it writes its `config.yaml`.

    Returns:
        False if the folder is missing, empty, or has nothing but first files.

    Raises:
        UserError: the folder holds something else.
    """
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    names -= {EARLIER, LOCK}
    if "config.yaml" in names or not names - set(first_files):
        return "config.yaml" in names
    raise UserError(
        f"{folder} is there, but is not a training run (no config.yaml in it). Move it away, or "
        "give another --output"
    )


def run_step(step: Step) -> State:
    """Run a step unless it is done; return the state that it was in before.

    Raises:
        UserError: the step cannot be made, or its stale output must stay.
    """
    state = decide(step.state)
    if state == "done":
        logger.info("%s: done already, skipped.", step.title)
        return state
    what = {"interrupted": "is resumed", "left": "starts"}.get(state)
    if state == "stale":
        change = decide(step.describe_change) or ""
        step.require_replaceable(change)
        what = f"starts again, since it was {change}"
    logger.info("%s: %s.", step.title, what)
    resume = state == "interrupted"
    decide(lambda: step.start(resume))
    step.make(resume)
    decide(step.finish)
    return state


def run_steps(steps: Iterable[Step]) -> bool:
    """Run the steps that are not done, in order; return whether there were any.

    The state of a step is looked up when its turn comes, since an earlier step can change it.

    Raises:
        UserError: see `run_step`.
    """
    states = [run_step(step) for step in steps]
    return any(state != "done" for state in states)


def run_command(
    command: Sequence[str], console: Path | None = None, folder: Path | None = None
) -> int:
    """Run a command and return its exit code.

    If this process is interrupted, the command is interrupted too, and has ended when this returns.

    Args:
        command: the program and its arguments.
        console: a file that the command's output is added to. None: the terminal.
        folder: where the command runs. None: the current folder.
    """
    with contextlib.ExitStack() as stack:
        file = None if console is None else stack.enter_context(open(console, "ab"))
        stderr = subprocess.STDOUT if console else None
        process = subprocess.Popen(command, stdout=file, stderr=stderr, cwd=folder)
        try:
            return process.wait()
        except BaseException:
            for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
                process.send_signal(stop)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE)
                    break
            raise


def end_with_parent() -> None:
    """End this process when the one that started it dies, also by a kill, which tells nobody.

    It is for a process of `multiprocessing`; in any other one it does nothing.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
