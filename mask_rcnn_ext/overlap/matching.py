"""COCO's matching of detections with objects, and the overlap levels of objects.

`match_detections` is what pycocotools' `COCOeval` does for one image and one class, at all IoU
thresholds at once. Letters: D detections, G objects, T IoU thresholds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ..arrays import Bools, Floats, Ints

__all__ = [
    "IOU_THRESHOLDS",
    "LEVELS",
    "RECALLS",
    "assign_levels",
    "box_iou",
    "find_nearest_levels",
    "match_detections",
    "measure_overlap",
    "rank_detections",
    "to_corners",
]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)  # COCO's T thresholds
RECALLS: Floats = np.linspace(0.0, 1.0, 101)  # COCO averages precision over these
LEVELS = ("none", "partial", "heavy")  # overlap < 0.05, < 0.3, and the rest
_LEVEL_BOUNDS = (0.05, 0.3)
_NEAREST_IOU = 0.1  # least box IoU of an unmatched detection with the object it is assigned to
_AT_ONCE = 256  # objects that are compared with all others together


def to_corners(xywh: Sequence[Any]) -> Floats:
    """Return (N, 4) XYXY of N XYWH boxes."""
    boxes = np.asarray(xywh, dtype=np.float64).reshape(-1, 4)
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def box_iou(first: Floats, second: Floats) -> Floats:
    """Return the IoU of boxes, (N, 4) and (M, 4) XYXY in pixels, as (N, M); 0 for empty boxes."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    as_xywh = [np.hstack([b[:, :2], np.maximum(b[:, 2:] - b[:, :2], 0)]) for b in (first, second)]
    ious = mask_util.iou(*as_xywh, [0] * len(second))
    return np.nan_to_num(np.asarray(ious, dtype=np.float64))


def rank_detections(scores: Floats, classes: Ints, most: int) -> Ints:
    """Return the indices of the detections that count, best score first; of equal scores the first.

    Args:
        scores: (D,), of the detections of one image.
        classes: (D,).
        most: number of detections of each class that count; the best are taken.
    """
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(len(order), dtype=bool)
    for category in np.unique(classes):
        kept[np.flatnonzero(classes[order] == category)[:most]] = True
    return order[kept]


def measure_overlap(
    boxes: Floats, classes: Ints, crowd: Bools, *, same_class: bool = False
) -> Floats:
    """Return (G,): the largest box IoU of each object with another object; 0 if there is none.

    Crowds have no overlap.

    Args:
        boxes: (G, 4), XYXY in pixels.
        classes: (G,).
        crowd: (G,).
        same_class: count only other objects of the same class.
    """
    overlap = np.zeros(len(boxes))
    for start in range(0, len(boxes), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        others = ~(crowd[part, None] | crowd[None])
        np.fill_diagonal(others[:, start:], val=False)
        if same_class:
            others &= classes[part, None] == classes[None]
        ious = box_iou(boxes[part], boxes)
        overlap[part] = np.where(others, ious, 0.0).max(axis=1, initial=0.0)
    return overlap


def assign_levels(overlap: Floats) -> Ints:
    """Return the index in `LEVELS` of each overlap; a bound belongs to the upper level."""
    return np.searchsorted(_LEVEL_BOUNDS, overlap, side="right")


def find_nearest_levels(
    detections: tuple[Floats, Ints], objects: tuple[Floats, Ints], crowd: Bools, levels: Ints
) -> Ints:
    """Return (D,): the level of the object of its class that each detection overlaps most.

    Args:
        detections: boxes, (D, 4) XYXY in pixels, and classes (D,).
        objects: boxes (G, 4) and classes (G,).
        crowd: (G,); crowds do not count.
        levels: (G,), of the objects.

    Returns:
        -1 where no box IoU is 0.1 or more. Of equal IoUs, the first object counts.
    """
    same = (detections[1][:, None] == objects[1][None]) & ~crowd[None]
    ious = np.where(same, box_iou(detections[0], objects[0]), 0.0)
    if not ious.shape[1]:
        return np.full(len(ious), -1, dtype=np.intp)
    best = ious.argmax(axis=1)
    return np.where(ious[np.arange(len(ious)), best] >= _NEAREST_IOU, levels[best], -1)


def match_detections(ious: Floats, ignored: Bools, crowd: Bools) -> Ints:
    """Match the detections of one class in one image with its objects, as pycocotools does.

    Each detection, best score first, takes the free object of highest IoU, if the IoU reaches the
    threshold; of equal IoUs, the last object. Objects that count go before ignored objects,
    whatever the IoU. A crowd can be taken many times.

    Args:
        ious: (D, G), detections in descending order of scores.
        ignored: (G,), objects that do not count; crowds are among them.
        crowd: (G,).

    Returns:
        (T, D): the index of the matched object, -1 for none.
    """
    thresholds = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)
    matches = np.full((len(thresholds), len(ious)), -1, dtype=np.intp)
    free = np.ones((len(thresholds), ious.shape[1]), dtype=bool)
    rows = np.arange(len(thresholds))
    for index in np.flatnonzero(ious.max(axis=1, initial=0.0) >= thresholds[0]):
        reached = (free | crowd) & (ious[index] >= thresholds[:, None])
        # Ignored objects get ranks below all others. Reversed, since argmax takes the first.
        rank = np.where(reached, ious[index] - 2 * ignored, -9.0)[:, ::-1]
        chosen = ious.shape[1] - 1 - rank.argmax(axis=1)
        found = reached[rows, chosen]
        matches[found, index] = chosen[found]
        free[rows[found], chosen[found]] = False
    return matches
