"""Runs cases one by one and says what became of each."""

import random
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from fuzz.kinds import Kind

from mask_rcnn_ext.errors import UserError

__all__ = ["Outcome", "make_case", "read_case"]


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        kind: "accepted", "refused" with a sentence, or "failed".
        seconds: how long it was read.
        text: the sentence, or where the reader failed.
    """

    kind: str
    seconds: float
    text: str


def make_case(kind: Kind, name: str, number: int, seed: int) -> Path:
    """Write the file of a case, and return its path."""
    end, content = kind.make(random.Random(f"{name} {number} {seed}"))
    path = kind.folder / f"case_{number}{end}"
    path.write_bytes(content)
    return path


def read_case(kind: Kind, path: Path) -> Outcome:
    """Read the file of a case."""
    start, found, text = time.perf_counter(), "accepted", ""
    try:
        kind.read(path)
    except UserError as error:
        found, text = "refused", str(error)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        found = "failed"
        place = f"{Path(last.filename).name}:{last.lineno}"
        text = f"{type(error).__name__}: {str(error)[:300]} ({place})"
    return Outcome(found, time.perf_counter() - start, text)
