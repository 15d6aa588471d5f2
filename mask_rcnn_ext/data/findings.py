"""The results of a check of a data set: mistakes, suspicious things, and where to look."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import shorten

__all__ = ["Doubt", "Example", "Finding", "IssueCounter", "Level"]

Level = Literal["error", "warning", "note"]


@dataclass
class IssueCounter:
    """Counts issues by kind, and remembers the annotations or images of each kind.

    Attributes:
        issues: kind -> ids, in the order in which they were found.
    """

    issues: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, kind: str, found_id: object) -> None:
        """Count an issue of the annotation, image or category `found_id`."""
        self.issues.setdefault(kind, []).append(found_id)

    @property
    def total(self) -> int:
        """The number of all issues."""
        return sum(len(ids) for ids in self.issues.values())

    def __str__(self) -> str:
        return ", ".join(
            f"{len(ids)} x {kind} (first: {shorten(ids[0])})" for kind, ids in self.issues.items()
        )


@dataclass(frozen=True)
class Doubt:
    """Annotations that can be read, but contradict themselves or each other.

    Attributes:
        kind: "boxes": boxes contradict their masks, and the masks may be right; "exchanged": x and
            y are exchanged in the boxes or in the masks; "copies": annotations repeat others.
        text: a sentence with the count and examples, and how to fix it.
        groups: annotation ids. An original comes before its copy.
    """

    kind: Literal["boxes", "exchanged", "copies"]
    text: str
    groups: list[tuple[int, ...]] = field(repr=False)


@dataclass(frozen=True)
class Example:
    """An image, or some of its annotations, to show for a finding."""

    split: str  # "train" or "val"
    image: int  # its index in the json's `images`
    annotation_ids: tuple[int, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Finding:
    """A kind of mistake or suspicious thing.

    Attributes:
        level: "error": a training refuses the data, or stops at it. "warning": a training runs, but
            its results are probably wrong. "note": good to know.
        text: a sentence with the count and examples. If a training prints the same error or
            warning, the words are the same.
        examples: some of the places, the most important first.
    """

    level: Level
    text: str
    examples: list[Example] = field(default_factory=list, repr=False)
