"""Compares the detections of a model and of its exported file in the same images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
from detectron2.structures import Instances
from scipy.optimize import linear_sum_assignment

from ..data.images import ImageLike
from ..errors import UserError, count_noun, say_are

__all__ = ["DetectionDifference", "Tolerance", "compare_instances", "require_parity"]

_OTHER_CLASS = 1e9  # pixels between boxes of different classes


@dataclass(frozen=True)
class Tolerance:
    """The largest allowed differences of two detections of one object.

    Detections whose score is within `score` of the score threshold, or of the lowest score of a
    full list, may be missing, since rounding decides whether they are kept.

    Attributes:
        box: difference of coordinates, in pixels of the image.
        score: difference of scores, which are 0 to 1.
        mask_iou: the least IoU. Masks that differ in only one pixel are always accepted.
        share: share of all detections that may differ by more.
    """

    box: float = 0.1
    score: float = 1e-3
    mask_iou: float = 0.99
    share: float = 0.0


@dataclass(frozen=True)
class DetectionDifference:
    """How far the detections of one image differ.

    Attributes:
        expected: number of detections of the model.
        found: number of detections of the file.
        unmatched: number of detections of one side without a detection of the same class at the
            same place on the other side.
        deviating: number of unmatched detections and of pairs that differ by more than is allowed.
        box: largest difference of a coordinate, in pixels, of the pairs.
        score: largest difference of scores of the pairs.
        mask_iou: least IoU of masks of the pairs, if more than one pixel differs.
    """

    expected: int
    found: int
    unmatched: int = 0
    deviating: int = 0
    box: float = 0.0
    score: float = 0.0
    mask_iou: float = 1.0

    def describe(self, tolerance: Tolerance) -> str:
        """Return the differences and their limits as text."""
        return (
            f"{self.found} detections where the model has {self.expected}; {self.unmatched} "
            f"without a partner (limit 0), boxes up to {self.box:.3g} pixels apart (limit "
            f"{tolerance.box}), scores {self.score:.2g} (limit {tolerance.score}), least mask IoU "
            f"{self.mask_iou:.3f} (limit {tolerance.mask_iou})"
        )


def compare_instances(
    expected: Instances, found: Instances, tolerance: Tolerance, *, threshold: float, limit: int
) -> DetectionDifference:
    """Match the detections of one image by class and box, and measure their differences.

    Args:
        expected: detections of the model, with `PackedMasks` if it has masks.
        found: detections of the file.
        tolerance: decides which detections may be missing.
        threshold: the score threshold of both.
        limit: the largest number of detections.
    """
    boxes = [side.pred_boxes.tensor.numpy() for side in (expected, found)]
    classes = [side.pred_classes.numpy() for side in (expected, found)]
    scores = [side.scores.numpy() for side in (expected, found)]
    distance = np.abs(boxes[0][:, None] - boxes[1]).max(axis=2, initial=0.0)
    distance[classes[0][:, None] != classes[1]] = _OTHER_CLASS
    # The score decides between detections at the same place, such as nested objects.
    cost = np.minimum(distance, 1e3) + np.abs(scores[0][:, None] - scores[1])
    rows, columns = linear_sum_assignment(cost)
    near = np.maximum(boxes[0][:, 2:] - boxes[0][:, :2], 1).min(axis=1) / 2
    pairs = [(r, c) for r, c in zip(rows, columns, strict=True) if distance[r, c] <= near[r]]
    partners = [{row for row, _ in pairs}, {column for _, column in pairs}]
    alone = [
        score
        for side, matched in zip(scores, partners, strict=True)
        for index, score in enumerate(side)
        if index not in matched and score > _find_edge(side, threshold, limit) + tolerance.score
    ]
    if not pairs:
        return DetectionDifference(len(expected), len(found), len(alone), len(alone))
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    apart = distance[first, second]
    unlike = np.abs(scores[0][first] - scores[1][second])
    ious = _measure_ious(expected, found, pairs)
    beyond = (apart > tolerance.box) | (unlike > tolerance.score) | (ious < tolerance.mask_iou)
    return DetectionDifference(
        expected=len(expected),
        found=len(found),
        unmatched=len(alone),
        deviating=len(alone) + int(beyond.sum()),
        box=float(apart.max()),
        score=float(unlike.max()),
        mask_iou=float(ious.min()),
    )


def _find_edge(scores: npt.NDArray[np.float32], threshold: float, limit: int) -> float:
    """Return the score below which detections are dropped, from (N,) scores."""
    full = 0 <= limit <= len(scores)  # a negative limit is none
    return max(threshold, float(scores.min())) if full else threshold


def _measure_ious(
    expected: Instances, found: Instances, pairs: Sequence[tuple[int, int]]
) -> npt.NDArray[np.float64]:
    """Return the IoU of the masks of each pair; 1 where one pixel differs, or without masks."""
    ious = np.ones(len(pairs))
    if not expected.has("pred_masks"):
        return ious
    masks, others = expected.pred_masks.encode(), found.pred_masks.encode()
    for index, (row, column) in enumerate(pairs):
        both = [masks[row], others[column]]
        shared = int(mask_util.area(mask_util.merge(both, intersect=True)))
        total = int(mask_util.area(mask_util.merge(both)))
        if total - shared > 1:
            ious[index] = shared / total
    return ious


def require_parity(
    model: Callable[[ImageLike], Instances],
    exported: Callable[[ImageLike], Instances],
    images: Sequence[tuple[str, ImageLike]],
    tolerance: Tolerance,
    *,
    threshold: float,
    limit: int,
) -> dict[str, Any]:
    """Check that an exported file finds the same instances as its model in every image.

    Args:
        model: finds the instances of an image, with `PackedMasks`.
        exported: the same, of the file.
        images: names and images.
        tolerance: what may differ.
        threshold: see `compare_instances`.
        limit: see `compare_instances`.

    Returns:
        The numbers of images and detections, the largest differences and the limits.

    Raises:
        UserError: the detections of an image differ by more.
    """
    differences = {
        name: compare_instances(
            model(image), exported(image), tolerance, threshold=threshold, limit=limit
        )
        for name, image in images
    }
    wrong = {name: each for name, each in differences.items() if each.deviating}
    deviating = sum(each.deviating for each in wrong.values())
    allowed = tolerance.share * sum(each.expected for each in differences.values())
    if deviating > allowed:
        name = max(wrong, key=lambda name: wrong[name].deviating)
        raise UserError(
            f"the exported model finds something else than the model in {len(wrong)} of "
            f"{count_noun(len(images), 'image')}, so it was not kept: "
            f"{say_are(deviating, 'detection')} different, {math.floor(allowed)} allowed. "
            f"Most in {name}: {wrong[name].describe(tolerance)}"
        )
    every = list(differences.values())
    return {
        "images": len(every),
        "detections": sum(each.expected for each in every),
        "deviating": deviating,
        "images_without_detections": sum(not each.expected for each in every),
        "largest_box_difference": max(each.box for each in every),
        "largest_score_difference": max(each.score for each in every),
        "least_mask_iou": min(each.mask_iou for each in every),
        "tolerance": asdict(tolerance),
    }
