"""The measurements of masks in the true boxes, one record for each image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mask_rcnn_ext.arrays import Bools, Floats
from mask_rcnn_ext.overlap.image_instances import ImageInstances
from mask_rcnn_ext.overlap.intervals import bootstrap_ratio
from mask_rcnn_ext.overlap.same_part import SamePartRecord, measure_same_part

from .axis_records import AxisRecord, measure_axis_runs
from .given_boxes import GivenBoxMasks

__all__ = ["TrueBoxRecord", "draw_right", "find_overlapping", "measure_true_boxes"]

_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's


@dataclass(frozen=True)
class TrueBoxRecord:
    """The masks of one image's objects.

    Attributes:
        same_part: "k = 7" -> the same-part errors.
        axis: the axis runs.
        right: for each mask, at how many of COCO's ten thresholds its IoU with the object passes,
            as a share; summed over the masks.
        masks: their number.
    """

    same_part: dict[str, SamePartRecord]
    axis: AxisRecord
    right: float
    masks: int


def find_overlapping(instances: ImageInstances) -> Bools:
    """Return which objects' boxes overlap the box of another object of their class, (G,)."""
    same = instances.classes[:, None] == instances.classes[None]
    overlapping: Bools = (instances.touching & same).any(axis=1)
    return overlapping


def measure_true_boxes(
    masks: GivenBoxMasks, parts: Sequence[int], *, only_overlapping: bool = False
) -> TrueBoxRecord:
    """Measure the masks of an image.

    Args:
        masks: the masks of the image.
        parts: each k that same-part errors are measured for.
        only_overlapping: look at the axis runs and at the IoU of the objects of `find_overlapping`
            only.
    """
    instances = masks.instances
    kept = np.ones(len(masks.objects), dtype=bool)
    if only_overlapping:
        kept = find_overlapping(instances)[masks.objects]
    whole = slice(0, instances.height), slice(0, instances.width)
    ious = []
    for index in np.flatnonzero(kept):
        drawn = masks.masks[index].cut(*whole)
        true = instances.object_crops[masks.objects[index]].cut(*whole)
        ious.append(np.count_nonzero(drawn & true) / max(np.count_nonzero(drawn | true), 1))
    passed = np.array(ious)[:, None] >= _THRESHOLDS - 1e-9
    return TrueBoxRecord(
        same_part={f"k = {k}": measure_same_part(instances, masks.predictions, k=k) for k in parts},
        axis=measure_axis_runs(instances.image_id, masks.soft[kept], threshold=masks.threshold),
        right=float(passed.mean(axis=1).sum()),
        masks=len(ious),
    )


def draw_right(trainings: Sequence[Sequence[TrueBoxRecord]], *, model: int = 0) -> Floats:
    """Return the share of right masks, and the same in each draw of a bootstrap, in percent.

    It is the mean over COCO's ten IoU thresholds.

    Args:
        trainings: the records of each training, of the same images.
        model: see `bootstrap_ratio`.
    """
    right, masks = (
        np.array([[getattr(record, name) for record in records] for records in trainings])
        for name in ("right", "masks")
    )
    return 100 * bootstrap_ratio(right, masks, draws=1000, seed=0, model=model)
