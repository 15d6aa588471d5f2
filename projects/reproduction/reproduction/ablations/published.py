"""What the paper printed for a comparison."""

from collections.abc import Sequence
from typing import Any, Protocol

from mask_rcnn_ext.overlap.average_precision import AP_METRICS

from .tables import Comparison

__all__ = ["PaperRow", "published_difference"]


class PaperRow(Protocol):
    """What is read of a row of `mask_rcnn_ext.paper.ROWS`, which this layer does not import."""

    @property
    def table(self) -> str:
        """The paper's table."""

    @property
    def name(self) -> str:
        """The row, as printed."""

    @property
    def published(self) -> dict[str, float]:
        """Its numbers by "task/metric"."""

    @property
    def split(self) -> str:
        """Where they were measured."""


def published_difference(comparison: Comparison, paper: Sequence[PaperRow]) -> dict[str, Any]:
    """Return the paper's numbers of both sides and their difference, where it printed both.

    Raises:
        ValueError: the paper's table has no such row.
    """
    table, *names = comparison.paper
    sides = []
    for name in names:
        rows = [row for row in paper if (row.table, row.name) == (table, name)]
        if len(rows) != 1:
            raise ValueError(f"expected one row {name!r} in the paper's table {table}")
        sides.append(rows[0])
    of, minus = (
        {
            m: row.published[key]
            for m in AP_METRICS
            if (key := f"{comparison.task}/{m}") in row.published
        }
        for row in sides
    )
    return {
        "table": table,
        "split": sides[0].split,
        "of": {"name": names[0], **of},
        "minus": {"name": names[1], **minus},
        "difference": {m: round(of[m] - minus[m], 1) for m in AP_METRICS if m in of and m in minus},
    }
