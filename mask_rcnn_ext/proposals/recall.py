"""Measures the share of objects that proposals cover."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.structures import BoxMode

from ..overlap.matching import IOU_THRESHOLDS, box_iou

__all__ = ["measure_recall", "read_objects"]

AnyFloats = npt.NDArray[np.floating]


def read_objects(record: dict[str, Any]) -> AnyFloats:
    """Return the boxes of the objects of a record, without crowds: (G, 4), XYXY in pixels."""
    boxes = [
        BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS)
        for a in record.get("annotations", ())
        if not a.get("iscrowd", 0)
    ]
    return np.array(boxes, dtype=np.float64).reshape(-1, 4)


def measure_recall(images: Iterable[tuple[AnyFloats, AnyFloats]]) -> dict[str, float]:
    """Return the recall of proposals, 0-100; classes do not count.

    An object is recalled at an IoU threshold if a proposal of its image reaches this IoU with it.
    As in most of the literature, a proposal can recall several objects. detectron2's AR@N assigns a
    proposal to a single object, so it can be lower where objects overlap strongly.

    Args:
        images: for each image the boxes of the proposals, (N, 4), and the boxes of the objects
            without crowds, (G, 4), both XYXY in pixels.

    Returns:
        "recall_50", "recall_70": the recall at IoU 0.5 and 0.7; "AR": the mean over the IoUs 0.5,
        0.55, ..., 0.95; "objects": the number of objects. Without objects the recalls are NaN.
    """
    best = [
        box_iou(np.asarray(objects, np.float64), np.asarray(proposals, np.float64)).max(
            axis=1, initial=0.0
        )
        for proposals, objects in images
    ]
    overlaps = np.concatenate([np.zeros(0), *best])  # (all G,)
    if not len(overlaps):
        return {"recall_50": np.nan, "recall_70": np.nan, "AR": np.nan, "objects": 0}
    # With a tolerance, because the result for an IoU of exactly 0.5 can be slightly lower.
    recall = [100 * float(np.mean(overlaps >= least - 1e-9)) for least in (0.5, 0.7)]
    average = 100 * float(np.mean(overlaps[:, None] >= IOU_THRESHOLDS - 1e-9))
    return {
        "recall_50": recall[0],
        "recall_70": recall[1],
        "AR": average,
        "objects": len(overlaps),
    }
