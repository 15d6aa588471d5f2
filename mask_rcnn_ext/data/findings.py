"""What a check of a data set finds: what is wrong, what is suspicious, and where to look."""

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
    """Annotations that can be read and contradict themselves or each other.

    Attributes:
        kind: "boxes" contradict their masks and the masks may be right; x and y are "exchanged" in
            the boxes or in the masks; annotations are "copies" of others.
        text: a sentence with the count and examples, and what to do.
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
    """One kind of thing that is wrong or suspicious.

    Attributes:
        level: "error": a training refuses the data, or stops at it. "warning": it trains, but what
            it learns or measures is probably wrong. "note": good to know.
        text: a sentence with the count and examples. An error, and a warning that training prints
            too, has training's words.
        examples: some of the places, the most telling ones first.
    """

    level: Level
    text: str
    examples: list[Example] = field(default_factory=list, repr=False)
