"""The confusion matrix of instances, with a row and a column for the background."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...arrays import Ints
from ..matching import IOU_THRESHOLDS
from .image_pairs import ImagePairs

__all__ = ["count_confusions"]


def count_confusions(
    images: Sequence[ImagePairs], matches: Sequence[Ints], num_classes: int, threshold: float
) -> Ints:
    """Return (K + 1, K + 1): the number of objects of each class that are detected as each class.

    First, detections take the objects of their own class, as in COCO at IoU 0.5: this is the
    diagonal. Then the remaining detections and objects are paired across classes, if their IoU is
    0.5 or more: such an object is detected as another class. The best score goes first, and of
    equal scores the highest IoU. Each detection and each object is in one pair at most. The
    rest are detections of nothing, the last row, and missed objects, the last column. Crowds,
    and detections in a crowd of their class, do not count.

    Args:
        images: the data set.
        matches: (D,) of each image, see `tables.match_all`.
        num_classes: K, of the data set.
        threshold: detections with a lower score do not count.

    Returns:
        Rows are the true classes, columns the detected ones; K is the background.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), dtype=np.intp)
    for image, matched in zip(images, matches, strict=True):
        _count_image(counts, image, matched, image.scores >= threshold)
    return counts


def _count_image(
    counts: Ints, image: ImagePairs, matched: Ints, kept: npt.NDArray[np.bool_]
) -> None:
    background = len(counts) - 1
    free_detections, free_objects = kept.copy(), ~image.crowd
    for detection in np.flatnonzero(kept & (matched >= 0)):
        free_detections[detection] = False
        found = matched[detection]
        if not image.crowd[found]:
            free_objects[found] = False
            counts[image.classes[found], image.classes[found]] += 1
    near = image.ious >= IOU_THRESHOLDS[0]
    rows, columns, ious = image.rows[near], image.columns[near], image.ious[near]
    # Detections are in the order of their scores.
    for pair in np.lexsort((-ious, rows)):
        detection, found = rows[pair], columns[pair]
        if free_detections[detection] and free_objects[found]:
            free_detections[detection] = free_objects[found] = False
            counts[image.classes[found], image.detection_classes[detection]] += 1
    np.add.at(counts[background], image.detection_classes[free_detections], 1)
    np.add.at(counts[:, background], image.classes[free_objects], 1)
