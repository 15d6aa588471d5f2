"""Pairs of objects that can show the effect of FCIS's parts: held out from training, and counted.

Both boxes of a pair must read pixels from the same part, see `mask_rcnn_ext.overlap.same_part`. The
pairs are found by their boxes alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from mask_rcnn_ext.overlap.image_instances import read_image_instances
from mask_rcnn_ext.overlap.matching import box_iou
from mask_rcnn_ext.overlap.same_part import measure_part_share

from .experiment import MEASURED_PARTS, find_nested

__all__ = ["LEAST", "PairCount", "count_pairs", "hold_out"]

LEAST = 16  # pixels that a pair reads from one part, to count as a pair that can show the effect


def hold_out(train: dict[str, Any], val: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Move the training images that have pairs which can show the effect to the validation part.

    These are pairs of one class that read `LEAST` pixels or more from one part, with k = 7 or 3.

    Args:
        train: a data set in COCO's format.
        val: another one with the same classes.

    Returns:
        Both parts. All ids are new.
    """
    parts: tuple[list[Any], list[Any]] = [], []  # lists of (image, its annotations)
    for content, place in ((train, 0), (val, 1)):
        by_image: dict[Any, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        for image in content["images"]:
            found = by_image.get(image["id"], [])
            parts[1 if place or _can_show(found) else 0].append((image, found))
    return _renumber(parts[0], train["categories"]), _renumber(parts[1], train["categories"])


def _can_show(annotations: Sequence[dict[str, Any]]) -> bool:
    objects = [a for a in annotations if not a.get("iscrowd")]
    classes = np.array([a["category_id"] for a in objects])
    boxes = np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    meeting = (box_iou(boxes, boxes) > 0) & (classes[:, None] == classes[None])
    return any(
        measure_part_share(*boxes[pair], k)[0] >= LEAST
        for pair in np.argwhere(np.triu(meeting, 1))
        for k in MEASURED_PARTS
    )


def _renumber(
    images: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]], categories: list[Any]
) -> dict[str, Any]:
    annotations = [
        {**annotation, "image_id": number}
        for number, (_, found) in enumerate(images, 1)
        for annotation in found
    ]
    return {
        "images": [{**image, "id": number} for number, (image, _) in enumerate(images, 1)],
        "annotations": [{**a, "id": number} for number, a in enumerate(annotations, 1)],
        "categories": categories,
    }


@dataclass(frozen=True)
class PairCount:
    """Pairs of one class whose boxes overlap, counted by their boxes.

    Attributes:
        images: the number of images in the data set.
        objects: the number of objects, without crowds.
        pairs: the number of pairs whose boxes overlap.
        nested: pairs in which at least 90 % of the smaller box lies in the larger one.
        area: the common area of the pairs' boxes, in pixels, summed.
        same: "k = 7" -> the part of this area that both boxes read from the same part.
        able_pairs: "k = 7" -> pairs for which this part has `LEAST` pixels or more.
        able_images: "k = 7" -> images with such a pair.
    """

    images: int
    objects: int
    pairs: int
    nested: int
    area: float
    same: dict[str, float]
    able_pairs: dict[str, int]
    able_images: dict[str, int]


def count_pairs(truths: Sequence[COCO]) -> PairCount:
    """Count the pairs of one class in a data set that can show the effect.

    Args:
        truths: the parts of the data set, see `load_truth`.
    """
    names = [f"k = {k}" for k in MEASURED_PARTS]
    images = objects = pairs = nested = 0
    area, same = 0.0, dict.fromkeys(names, 0.0)
    able_pairs, able_images = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for instances in (read_image_instances(t, i, {}) for t in truths for i in t.imgs):
        images += 1
        objects += int(np.count_nonzero(~instances.crowd))
        one_class = instances.classes[:, None] == instances.classes[None]
        nested += sum(bool(one_class[pair]) for pair in find_nested(instances))
        found = np.argwhere(np.triu(instances.touching & one_class))
        pairs += len(found)
        for k, name in zip(MEASURED_PARTS, names, strict=True):
            shares = [measure_part_share(*instances.boxes[pair], k) for pair in found]
            able = sum(shared >= LEAST for shared, _ in shares)
            same[name] += sum(shared for shared, _ in shares)
            able_pairs[name] += able
            able_images[name] += able > 0
        area += sum(common for _, common in shares)
    return PairCount(images, objects, pairs, nested, area, same, able_pairs, able_images)
