"""A result file whose boxes count, too: the RoI of each detection beside its mask."""

import json
import math
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO

from ..errors import UserError
from .detections import Detections, load_results

__all__ = ["BoxedDetections", "load_boxed_results"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BoxedDetections:
    """The detections of a model and the RoI of each one.

    Attributes:
        detections: see `detections.load_results`.
        boxes: image id -> (D, 4) float64, XYWH in pixels, in the order of the image's detections.
    """

    detections: Detections = field(repr=False)
    boxes: dict[Any, Floats] = field(repr=False)


def load_boxed_results(path: str | os.PathLike[str], coco_gt: COCO) -> BoxedDetections:
    """Read a result file whose detections have their RoI as `bbox`.

    Args:
        path: see `detections.load_results`; each detection has a `bbox`, XYWH in pixels, too.
        coco_gt: the data set, see `detections.load_truth`.

    Raises:
        UserError: see `detections.load_results`; or, with the number of the first offender, from 0:
            a detection has no `bbox`, or one that is not four finite numbers with a positive width
            and height.
    """
    detections = load_results(path, coco_gt)
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    boxes: dict[Any, list[Any]] = {}
    for index, entry in enumerate(content):
        if "bbox" not in entry:
            raise UserError(
                f"{path}: detection {index} has no 'bbox', the RoI that its mask was made in. Give "
                "a file with boxes, as COCOEvaluator writes it"
            )
        box = entry["bbox"]
        if not _is_box(box):
            raise UserError(
                f"{path}: detection {index}: expected as bbox four finite numbers, x, y, width and "
                f"height, the last two positive; got {box!r}"
            )
        boxes.setdefault(entry["image_id"], []).append(box)
    return BoxedDetections(
        detections, {image: np.array(found, dtype=np.float64) for image, found in boxes.items()}
    )


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in box):
        return False
    return all(math.isfinite(v) for v in box) and box[2] > 0 and box[3] > 0
