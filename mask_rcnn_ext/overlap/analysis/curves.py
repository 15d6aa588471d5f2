"""Precision and recall over scores: the curve, the score with the best F1, and calibration.

All functions take the detections of one class, or of all classes together, as two arrays of the
same length: the scores, and whether each detection is right. Ignored detections are left out. A
threshold keeps the detections with this score or a higher score. Since COCO matches the best scores
first, a threshold does not change which of the kept detections are right.
"""

import math
from dataclasses import dataclass

import numpy as np

from ...arrays import Bools, Floats
from ..average_precision import APTable
from ..matching import RECALLS

__all__ = [
    "Calibration",
    "CalibrationBin",
    "Operation",
    "choose_threshold",
    "compute_average_precision",
    "compute_calibration",
    "compute_pr_curve",
    "compute_threshold_curve",
    "measure_operation",
    "take_detections",
]

_BINS = 10  # of scores
_DECIMALS = range(2, 16)


@dataclass(frozen=True)
class Operation:
    """Precision, recall and F1 of a model at a score threshold; NaN where undefined.

    Attributes:
        threshold: the score, 0 to 1.
        precision: share of the kept detections that are right; NaN when none is kept.
        recall: share of the objects that are found; NaN without objects.
        f1: 2 TP / (detections + objects); NaN without both.
    """

    threshold: float
    precision: float
    recall: float
    f1: float


def take_detections(
    table: APTable, category: int | None = None, threshold_index: int = 0
) -> tuple[Floats, Bools, int]:
    """Return scores and rightness, best score first, and the number of objects.

    Args:
        table: the table of matched detections.
        category: a category of the table; None: all together.
        threshold_index: the index of the IoU threshold in `matching.IOU_THRESHOLDS`.
    """
    if category is None:
        rows = np.argsort(-table.scores, kind="stable")
        objects = sum(int(counts.sum()) for counts in table.objects.values())
    else:
        rows, objects = table.rank(category), int(table.objects[category].sum())
    kept = rows[table.counted[threshold_index, rows]]
    return table.scores[kept], table.true[threshold_index, kept], objects


def compute_pr_curve(right: Bools, objects: int) -> Floats:
    """Return (101,): COCO's precision at recalls of 0, 0.01, ..., 1; NaN without objects.

    At each recall, it is the best precision at this recall or a higher one; 0 where the recall is
    not reached.

    Args:
        right: (N,), best score first.
        objects: how many there are.
    """
    if not objects:
        return np.full(len(RECALLS), np.nan)
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / objects, RECALLS, side="left")
    return np.append(best, 0.0)[places]


def compute_average_precision(right: Bools, objects: int) -> float:
    """Return the AP in 0 to 100: the mean of `compute_pr_curve`; NaN without objects."""
    return 100 * float(compute_pr_curve(right, objects).mean())


def measure_operation(scores: Floats, right: Bools, objects: int, threshold: float) -> Operation:
    """Return precision, recall and F1 of the detections with at least this score."""
    kept = scores >= threshold
    hits, number = int(np.count_nonzero(right & kept)), int(np.count_nonzero(kept))
    return Operation(
        threshold,
        precision=hits / number if number else math.nan,
        recall=hits / objects if objects else math.nan,
        f1=2 * hits / (number + objects) if number + objects else math.nan,
    )


def choose_threshold(scores: Floats, right: Bools, objects: int) -> Operation | None:
    """Return the score threshold with the best F1; None when no detection is right.

    All thresholds between the last score that is kept and the next score have the same effect. Of
    these, the number near their middle with the fewest decimals, two or more, is returned. If
    several scores are equally good, the highest is used.

    Args:
        scores: (N,), best first.
        right: (N,).
        objects: how many there are.
    """
    if not right.any():
        return None
    f1 = 2 * np.cumsum(right) / (np.arange(1, len(right) + 1) + objects)
    last = np.append(scores[1:] < scores[:-1], True)  # of detections with the same score
    best = int(np.where(last, f1, -1.0).argmax())
    high = float(scores[best])
    low = float(scores[best + 1]) if best + 1 < len(scores) else 0.0
    return measure_operation(scores, right, objects, _round_between(low, high))


def _round_between(low: float, high: float) -> float:
    """Return a short number above `low` and below `high`; `high` if there is none."""
    middle = (low + high) / 2
    for decimals in _DECIMALS:
        rounded = round(middle, decimals)
        if low < rounded < high:
            return rounded
    return high


def compute_threshold_curve(scores: Floats, right: Bools, objects: int) -> list[Operation]:
    """Return precision, recall and F1 at thresholds of 0, 0.01, ..., 1."""
    return [measure_operation(scores, right, objects, i / 100) for i in range(101)]


@dataclass(frozen=True)
class CalibrationBin:
    """Detections with similar scores.

    Attributes:
        low: the lowest score; a score on an edge belongs to the upper bin.
        high: the upper edge.
        detections: the number of detections.
        score: the mean score of the detections; NaN in an empty bin.
        right: the share of the detections that are right; NaN in an empty bin.
    """

    low: float
    high: float
    detections: int
    score: float
    right: float


@dataclass(frozen=True)
class Calibration:
    """How often detections are right, by score.

    Attributes:
        error: the expected calibration error: the mean of |right - score| over bins, weighted by
            detections (Guo et al. 2017, arXiv:1706.04599, equation 3); NaN without detections.
        bins: ten of equal width.
    """

    error: float
    bins: list[CalibrationBin]


def compute_calibration(scores: Floats, right: Bools) -> Calibration:
    """Return the share of right detections, by score.

    Args:
        scores: (N,), 0 to 1.
        right: (N,).
    """
    edges = np.arange(_BINS + 1) / _BINS  # the numbers that 0.3, 0.6 and 0.7 stand for
    places = np.minimum(np.searchsorted(edges, scores, side="right") - 1, _BINS - 1)
    counts, score_sums, hits = (
        np.bincount(places, weights, minlength=_BINS)
        for weights in (None, scores, right.astype(np.float64))
    )
    with np.errstate(invalid="ignore"):
        mean, share = score_sums / counts, hits / counts
        error = np.nansum(abs(share - mean) * counts) / np.float64(len(scores))
    rounded = edges.round(6)
    columns = (each.tolist() for each in (rounded[:-1], rounded[1:], counts, mean, share))
    return Calibration(float(error), list(map(CalibrationBin, *columns)))
