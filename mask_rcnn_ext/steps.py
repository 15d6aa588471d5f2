"""Finds the steps of work that are done, stale or interrupted, and runs the others.

The inputs of a step are everything that decides its output, such as the hash of a config and the
checksums of files. They are stored next to the output. A later call compares them with the present
inputs, and so knows whether it would make the same output again.

If there are several processes, the main process decides and the others do the same.
"""

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from detectron2.utils import comm

from .errors import UserError
from .files import read_json_or_none, write_json

__all__ = [
    "State",
    "Step",
    "decide",
    "find_change",
    "run_step",
    "run_steps",
]

logger = logging.getLogger(__name__)

# done: there is nothing to do. interrupted: the step started from the same inputs and can be
# resumed. stale: the output was made from other inputs. left: the step starts from the beginning.
State = Literal["done", "interrupted", "stale", "left"]

_T = TypeVar("_T")


class Step(ABC):
    """A step of work, which makes files from its inputs and stores the inputs next to them.

    By default the inputs are stored when the files are complete. A step that can be resumed stores
    them at the start, and overrides `start` and `is_resumable`.

    Only `make` runs in every process; all other methods are called in the main process.

    Args:
        title: the step's name in the log.
        record: the json file that holds the inputs.
        outputs: the files that the step makes.
    """

    def __init__(self, title: str, record: str | Path, outputs: Sequence[str | Path] = ()) -> None:
        self.title, self.record, self.outputs = title, Path(record), [Path(p) for p in outputs]

    @abstractmethod
    def find_inputs(self) -> dict[str, Any]:
        """Return the present inputs, as values that json can hold."""

    def read_record(self) -> dict[str, Any] | None:
        """Return the inputs of the existing output; None if there is no output.

        Entries that `find_inputs` does not return are ignored. An output of unknown origin has the
        inputs {}, which make it stale.
        """
        if self.record.is_file():
            return read_json_or_none(str(self.record)) or {}
        return {} if any(path.exists() for path in self.outputs) else None

    def is_complete(self) -> bool:
        """Return whether the output is complete; called if its inputs are up to date."""
        return all(path.is_file() for path in self.outputs)

    def is_resumable(self) -> bool:
        """Return whether an incomplete output can be completed."""
        return False

    def require_replaceable(self, change: str) -> None:  # noqa: B027, optional
        """Raise a `UserError` if a stale output must stay. By default it is replaced.

        Args:
            change: the change of the inputs, see `find_change`.
        """

    def start(self, resume: bool) -> None:
        """Prepare `make`; by default, remove the inputs of an earlier output."""
        self.record.unlink(missing_ok=True)

    @abstractmethod
    def make(self, resume: bool) -> None:
        """Make the output.

        Args:
            resume: complete the existing output.
        """

    def finish(self) -> None:
        """Store the inputs after `make`."""
        write_json(str(self.record), self.find_inputs())

    def describe_change(self) -> str | None:
        """Return the change of the inputs, see `find_change`; None if there is no output."""
        recorded = self.read_record()
        return None if recorded is None else find_change(recorded, self.find_inputs())

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


def find_change(recorded: Any, inputs: dict[str, Any]) -> str:
    """Return a phrase about the first entry that differs between recorded inputs and new ones.

    Returns:
        For example "made with topk 2000, now it is 3"; "" if nothing has changed.
    """
    if not isinstance(recorded, dict) or not recorded:
        return "made from unknown inputs"
    for key, value in json.loads(json.dumps(inputs)).items():  # tuples become lists, as in a file
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
        UserError: the function raised it; then every process raises it.
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


def run_step(step: Step) -> State:
    """Run a step unless it is done; return its state before the call.

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
    """Run the steps that are not done, in order; return whether there was such a step.

    The state of a step is read when the earlier steps are done, since they can change it.

    Raises:
        UserError: see `run_step`.
    """
    states = [run_step(step) for step in steps]
    return any(state != "done" for state in states)
