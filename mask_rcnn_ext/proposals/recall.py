"""How many objects a set of proposals covers."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from ..overlap.matching import IOU_THRESHOLDS, box_iou

__all__ = ["proposal_recall"]

Floats = npt.NDArray[np.floating]


def proposal_recall(images: Iterable[tuple[Floats, Floats]]) -> dict[str, float]:
    """Return the recall of proposals, in 0-100, whatever the objects' classes.

    An object is recalled at an IoU when some proposal of its image overlaps it by at least that. As
    in most of the literature one proposal may recall several objects; detectron2's AR@N gives each
    object another one, so it can be lower where objects overlap closely.

    Args:
        images: per image the boxes of its proposals, (N, 4), and of its objects without crowds,
            (G, 4), both XYXY in pixels.

    Returns:
        "recall_50", "recall_70": at the IoU 0.5 and 0.7; "AR": the mean over the IoUs 0.5, 0.55,
        ..., 0.95; "objects": their number. Without objects the recalls are NaN.
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
    # IoUs are computed: exact halves come out a rounding error below.
    recall = [100 * float(np.mean(overlaps >= least - 1e-9)) for least in (0.5, 0.7)]
    average = 100 * float(np.mean(overlaps[:, None] >= IOU_THRESHOLDS - 1e-9))
    return {
        "recall_50": recall[0],
        "recall_70": recall[1],
        "AR": average,
        "objects": len(overlaps),
    }
