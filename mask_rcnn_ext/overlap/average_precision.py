"""COCO's average precision over weighted images, for many weightings at once.

A bootstrap draws as many images as there are, with replacement. An image that is drawn n times gets
the weight n. So detections are matched once, and each draw costs only a few sums. Letters: I
images, N detections, T IoU thresholds, D draws.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ..arrays import Bools, Floats, Ints, Weights
from .matching import IOU_THRESHOLDS, RECALLS

__all__ = ["AP_METRICS", "APTable", "average_classes", "take_metrics"]

AP_METRICS = ("AP", "AP50", "AP75")  # the metrics of an `APTable`, in this order

_BLOCK = 1_000_000  # elements of the largest matrix
_AP50, _AP75 = 0, 5  # positions in the IoU thresholds


@dataclass(frozen=True)
class APTable:
    """The matched detections of a data set, from which AP is computed.

    Attributes:
        num_images: I.
        classes: (N,), number of each detection's category.
        scores: (N,).
        images: (N,), index of each detection's image; ascending within a class.
        true: (T, N), whether a detection matches an object that counts.
        counted: (T, N), whether a detection is not ignored.
        objects: number of a category -> (I,), how many of its objects count in each image.
    """

    num_images: int
    classes: Ints = field(repr=False)
    scores: Floats = field(repr=False)
    images: Ints = field(repr=False)
    true: Bools = field(repr=False)
    counted: Bools = field(repr=False)
    objects: dict[int, Weights] = field(repr=False)

    @classmethod
    def join(
        cls, images: Iterable[tuple[Ints, Floats, Bools, Bools]], objects: dict[int, Weights]
    ) -> "APTable":
        """Return the table of a data set.

        Args:
            images: the classes (D,), scores (D,), `true` (T, D) and `counted` (T, D) of each image.
            objects: see the class.
        """
        none = np.zeros((len(IOU_THRESHOLDS), 0), dtype=bool)
        parts = [(np.zeros(0, dtype=np.intp), np.zeros(0), none, none), *images]
        classes, scores, true, counted = (
            np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True)
        )
        places = np.repeat(np.arange(len(parts) - 1), [len(part[1]) for part in parts[1:]])
        return cls(len(parts) - 1, classes, scores, places, true, counted, objects)

    def compute_ap(self, weights: Weights | None = None) -> Floats:
        """Return (D, 3): `AP_METRICS` in 0 to 100; NaN where no object counts.

        The AP equals pycocotools' AP on a data set that repeats each image as often as its weight
        says: the best precision at each of 101 recalls or a higher one, averaged over recalls,
        classes with objects, and thresholds. The two may differ where detections of one class in
        one image have equal scores: copies of an image take turns there, weighted detections do
        not.

        Args:
            weights: (D, I), how often each image counts; None: once, with D = 1.
        """
        draws = 1 if weights is None else len(weights)
        return average_classes(self.compute_class_ap(weights), draws)

    def compute_class_ap(self, weights: Weights | None = None) -> dict[int, Floats]:
        """Return number of a category -> (D, T): its AP at each IoU threshold, in 0 to 1.

        It is NaN where no object of the category counts. See `compute_ap`, which takes the mean.
        """
        if weights is None:
            weights = np.ones((1, self.num_images), dtype=np.int32)
        found = {}
        for category, objects in self.objects.items():
            number = weights @ objects
            values = np.zeros((len(weights), len(IOU_THRESHOLDS)))
            rows = self.rank(category)
            for index in range(len(IOU_THRESHOLDS)):
                kept = rows[self.counted[index, rows]]
                true = np.flatnonzero(self.true[index, kept])
                if len(true):  # what comes after the last true detection changes nothing
                    images = self.images[kept[: true[-1] + 1]]
                    values[:, index] = _average_precision(weights, images, true, number)
            values[number == 0] = np.nan
            found[category] = values
        return found

    def rank(self, category: int) -> Ints:
        """Return the indices of the detections of a category, best score first."""
        rows = np.flatnonzero(self.classes == category)
        return rows[np.argsort(-self.scores[rows], kind="stable")]


def average_classes(by_class: Mapping[int, Floats], draws: int) -> Floats:
    """Return (D, 3): `AP_METRICS` in 0 to 100; NaN where no class has an object.

    Args:
        by_class: see `APTable.compute_class_ap`.
        draws: D.
    """
    total = np.zeros((draws, len(IOU_THRESHOLDS)))
    present = np.zeros(draws, dtype=np.intp)
    for values in by_class.values():
        defined = ~np.isnan(values)
        total += np.where(defined, values, 0.0)
        present += defined[:, 0]
    with np.errstate(invalid="ignore"):
        by_threshold = 100 * total / present[:, None]
    return take_metrics(by_threshold)


def take_metrics(by_threshold: Floats) -> Floats:
    """Return (D, 3), `AP_METRICS`, of (D, T) values."""
    return np.stack(
        [by_threshold.mean(axis=1), by_threshold[:, _AP50], by_threshold[:, _AP75]], axis=1
    )


def _average_precision(weights: Weights, images: Ints, true: Ints, number: Ints) -> Floats:
    """Return (D,): the precision of one class at one threshold, averaged over recalls.

    Args:
        weights: (D, I).
        images: (n,), images of the detections that count, best score first.
        true: (m,), positions of the true detections among them.
        number: (D,), number of objects.
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
