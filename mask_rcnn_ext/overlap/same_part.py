"""The pixels where two RoIs of FCIS read the same of their k x k parts.

FCIS (arXiv:1611.07709) divides each RoI into k x k parts and reads each part from its own score
maps. So two RoIs of one class give a pixel the same scores exactly where the pixel lies in the same
part of both. At such a pixel it is impossible that it is inside for one RoI and outside for the
other.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Floats, Ints
from ..layers.mask_crops import MaskCrop
from .crops import find_box_window
from .image_instances import ImageInstances
from .intervals import bootstrap_ratio

__all__ = [
    "SamePartRecord",
    "draw_same_part",
    "find_parts",
    "measure_matched_parts",
    "measure_part_share",
    "measure_same_part",
]


PAIRS, REGIONS = ("one_class", "two_classes"), ("same", "other")
SUMS = [f"{pair}/{region}/{n}" for pair in PAIRS for region in REGIONS for n in ("wrong", "pixels")]


def find_parts(low: float, high: float, k: int, pixels: slice) -> Ints:
    """Return the part that each pixel of a row or a column lies in, by the pixel's centre.

    Args:
        low: the lower end of the box in this direction, in pixels.
        high: the upper end of the box.
        k: parts in this direction.
        pixels: the columns, or the rows, to look at.

    Returns:
        (N,), 0 to k - 1; -1 for a pixel whose centre lies outside of the box.
    """
    centres = np.arange(pixels.start, pixels.stop) + 0.5
    inside = (centres >= low) & (centres < high)
    parts = np.floor((centres - low) * k / max(high - low, 1e-9)).astype(np.intp)
    return np.where(inside, np.clip(parts, 0, k - 1), -1)


def measure_part_share(first: Floats, second: Floats, k: int) -> tuple[float, float]:
    """Return the area where two boxes read the same part, and their common area.

    Args:
        first: (4,), XYXY in pixels.
        second: (4,).
        k: parts of a RoI in each direction.
    """
    same = common = 1.0
    for low, high in ((0, 2), (1, 3)):
        steps = [np.linspace(box[low], box[high], k + 1) for box in (first, second)]
        starts = np.maximum(steps[0][:-1], steps[1][:-1])
        stops = np.minimum(steps[0][1:], steps[1][1:])
        same *= float(np.maximum(stops - starts, 0).sum())
        common *= max(0.0, min(first[high], second[high]) - max(first[low], second[low]))
    return same, common


@dataclass(frozen=True)
class SamePartRecord:
    """The pixel errors of one image in the common area of two boxes: the unit of the bootstrap.

    Attributes:
        image_id: the id of the image in the data set.
        sums: "one_class" or "two_classes", then "/same" or "/other", then "/wrong" or "/pixels" ->
            a number of pixels, summed over pairs of objects. Each pixel counts twice, once for each
            mask of the pair.
    """

    image_id: Any
    sums: dict[str, int]


def measure_same_part(
    instances: ImageInstances, predictions: Mapping[int, tuple[MaskCrop, Floats]], *, k: int
) -> SamePartRecord:
    """Count the pixel errors of an image where two RoIs read the same part, and elsewhere.

    For each pair of objects that both have a prediction and whose boxes overlap, the pixels of
    b_i ∩ b_j that lie in both RoIs count. A pixel whose centre lies in the same of the k x k parts
    of both RoIs is "same"; the others are "other". A mask is wrong at a pixel where it differs from
    the object's visible mask.

    Args:
        instances: the image.
        predictions: object -> its predicted mask, and the RoI (4,), XYXY in pixels, in which the
            mask was predicted.
        k: parts of a RoI in each direction. A model without parts can also be measured, as the
            control.
    """
    sums = dict.fromkeys(SUMS, 0)
    for i, j in itertools.combinations(sorted(predictions), 2):
        if not instances.touching[i, j]:
            continue
        rows, columns = find_box_window(
            instances.common_boxes[i, j], instances.height, instances.width
        )
        (y1, x1), (y2, x2) = (
            (find_parts(roi[1], roi[3], k, rows), find_parts(roi[0], roi[2], k, columns))
            for roi in (predictions[i][1], predictions[j][1])
        )
        inside = np.outer((y1 >= 0) & (y2 >= 0), (x1 >= 0) & (x2 >= 0))
        same = inside & np.outer(y1 == y2, x1 == x2)
        wrong = sum(
            (
                predictions[index][0].cut(rows, columns)
                != instances.object_crops[index].cut(rows, columns)
            ).astype(int)
            for index in (i, j)
        )
        one = instances.classes[i] == instances.classes[j]
        for name, region in (("same", same), ("other", inside & ~same)):
            prefix = f"{'one_class' if one else 'two_classes'}/{name}"
            sums[f"{prefix}/wrong"] += int(wrong[region].sum())
            sums[f"{prefix}/pixels"] += 2 * int(np.count_nonzero(region))
    return SamePartRecord(instances.image_id, sums)


def measure_matched_parts(instances: ImageInstances, *, k: int) -> SamePartRecord:
    """Count the pixel errors of the detections that are matched with objects.

    Args:
        instances: the image; its detections have RoIs.
        k: see `measure_same_part`.
    """
    rois = instances.detection_rois
    assert rois is not None, "the detections have no RoIs"
    predictions = {
        index: (instances.decode_detection(detection), rois[detection])
        for index, detection in instances.match().items()
    }
    return measure_same_part(instances, predictions, k=k)


def draw_same_part(
    trainings: Sequence[Sequence[SamePartRecord]],
    *,
    draws: int = 1000,
    seed: int = 0,
    model: int = 0,
) -> dict[str, Floats]:
    """Return the same-part errors of a model, then in each draw of a bootstrap, in percent.

    The *same-part error* is the share of wrong pixels where both RoIs read the same part, minus the
    share elsewhere. It compares a model with itself.

    Args:
        trainings: the records of each training of a model, from `measure_same_part`, of the same
            images.
        draws: number of draws of the bootstrap over images and trainings, see `bootstrap_ratio`.
        seed: seed of the draws.
        model: see `bootstrap_ratio`.

    Returns:
        "one_class/same", "one_class/other" and "one_class/difference" -> (1 + draws,), and the same
        for "two_classes". NaN stands for a number without pixels.
    """
    errors: dict[str, Floats] = {}
    for pair in PAIRS:
        rates = {}
        for region in REGIONS:
            wrong, pixels = (
                np.array(
                    [[r.sums[f"{pair}/{region}/{name}"] for r in records] for records in trainings]
                )
                for name in ("wrong", "pixels")
            )
            rates[region] = 100 * bootstrap_ratio(
                wrong, pixels, draws=draws, seed=seed, model=model
            )
        rates["difference"] = rates["same"] - rates["other"]
        errors |= {f"{pair}/{name}": values for name, values in rates.items()}
    return errors
