"""Average precision and means over weighted images, for many weightings at once.

A bootstrap over images draws as many images as there are, with replacement. An image that is drawn
n times has the weight n; so matches are made once, and a draw costs a few sums. Letters: I images,
N detections, T IoU thresholds, D draws, C classes.

`intervals.paired_bootstrap` makes the same draws for one AP table; it copies the drawn images, one
draw after the other. Here all draws go together, which is many times faster on many small classes.
The results are equal, but where detections of one class in one image have equal scores: copies of
the image are interleaved there, weights are not.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .matching import IOU_THRESHOLDS, RECALLS

__all__ = ["APTable", "draw_weights", "percentile_interval", "weighted_mean"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Weights = npt.NDArray[np.int32]

_BLOCK = 1_000_000  # elements of the largest matrix
_AP50, _AP75 = 0, 5  # of the IoU thresholds


@dataclass(frozen=True)
class APTable:
    """What COCO's AP needs of a data set.

    Attributes:
        classes: (N,), of the detections.
        scores: (N,).
        images: (N,), index of each detection's image, ascending.
        true: (T, N), it is matched with an object that counts.
        counted: (T, N), it is not ignored.
        objects: class -> (I,), how many objects that count each image has.
    """

    classes: Ints = field(repr=False)
    scores: Floats = field(repr=False)
    images: Ints = field(repr=False)
    true: Bools = field(repr=False)
    counted: Bools = field(repr=False)
    objects: dict[int, Weights] = field(repr=False)

    def ap(self, weights: Weights) -> Floats:
        """Return (D, 3): AP, AP50 and AP75 in 0 to 100; NaN where no object counts.

        As pycocotools computes it: the best precision at each of 101 recalls or a higher one,
        averaged over recalls, classes with objects, and thresholds.

        Args:
            weights: (D, I), how often each image is taken.
        """
        total = np.zeros((len(weights), len(IOU_THRESHOLDS)))
        present = np.zeros(len(weights), dtype=np.intp)
        for category, objects in self.objects.items():
            number = weights @ objects
            rows = np.flatnonzero(self.classes == category)
            rows = rows[np.argsort(-self.scores[rows], kind="stable")]
            present += number > 0
            for index in range(len(IOU_THRESHOLDS)):
                kept = rows[self.counted[index, rows]]
                true = np.flatnonzero(self.true[index, kept])
                if len(true):  # what comes after the last true detection changes nothing
                    images = self.images[kept[: true[-1] + 1]]
                    total[:, index] += _precision(weights, images, true, number)
        with np.errstate(invalid="ignore"):
            by_threshold = 100 * total / present[:, None]
        return np.stack(
            [by_threshold.mean(axis=1), by_threshold[:, _AP50], by_threshold[:, _AP75]], axis=1
        )


def _precision(weights: Weights, images: Ints, true: Ints, number: Ints) -> Floats:
    """Return (D,): the precision of one class at one threshold, averaged over recalls.

    Args:
        weights: (D, I).
        images: (n,), of the detections that count, best score first.
        true: (m,), which of them are true.
        number: (D,), of the objects.
    """
    result = np.zeros(len(weights))
    rows = max(1, _BLOCK // len(images))
    for begin in range(0, len(weights), rows):
        part = slice(begin, begin + rows)
        taken = weights[part][:, images]
        every = np.cumsum(taken, axis=1, dtype=np.int32)[:, true]
        hits = np.cumsum(taken[:, true], axis=1, dtype=np.int32)
        precision = hits / np.maximum(every, 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # How many of the recalls are reached for the first time at each true detection.
        reached = np.searchsorted(RECALLS, hits / np.maximum(number[part], 1)[:, None], "right")
        first = np.diff(reached, axis=1, prepend=0)
        result[part] = (precision * first).sum(axis=1) / len(RECALLS)
    return np.where(number > 0, result, 0.0)


def weighted_mean(sums: Floats, counts: Floats, weights: Weights) -> Floats:
    """Return (D,): the mean of a quantity over what the taken images have of it; NaN for none.

    Args:
        sums: (I,), of the values in each image.
        counts: (I,), how many they are.
        weights: (D, I).
    """
    with np.errstate(invalid="ignore"):
        return (weights @ sums) / (weights @ counts)


def draw_weights(images: int, draws: int, seed: int) -> Weights:
    """Return (draws, images): how often each image is in each draw, as in `paired_bootstrap`."""
    rng = np.random.default_rng(seed)
    return np.stack(
        [
            np.bincount(rng.integers(images, size=images), minlength=images).astype(np.int32)
            for _ in range(draws)
        ]
    )


def percentile_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return low and high of the middle `level` of the (D,) values that are numbers.

    Both are NaN when fewer than half of the values are numbers: too few draws had what is measured.
    """
    numbers = values[~np.isnan(values)]
    if 2 * len(numbers) < len(values) or not len(numbers):
        return float("nan"), float("nan")
    tail = 50 * (1 - level)
    low, high = np.percentile(numbers, [tail, 100 - tail])
    return float(low), float(high)
