"""One number for the quality of the detections in each image, to find the worst and best images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...arrays import Ints
from .image_pairs import ImagePairs

__all__ = ["ImageQuality", "rank_images"]


@dataclass(frozen=True)
class ImageQuality:
    """The right and wrong detections of an image above a score threshold, at IoU 0.5.

    Attributes:
        image_id: the id of the image in the data set.
        objects: the number of objects, crowds left out.
        right: number of detections that match an object of their class.
        wrong: number of the other detections; detections in a crowd do not count.
        missed: number of objects without a detection of their class.
        quality: sum of the IoUs of the right ones / (right + wrong / 2 + missed / 2), 0 to 1: the
            panoptic quality of Kirillov et al. 2019 (arXiv:1801.00868, equation 1) of all classes
            in one image. None without objects and detections.
        file_name: the file of the image.
    """

    image_id: Any
    objects: int
    right: int
    wrong: int
    missed: int
    quality: float | None
    file_name: Any


def _measure(image: ImagePairs, matched: Ints, threshold: float) -> ImageQuality:
    kept = image.scores >= threshold
    hit = kept & (matched >= 0)
    in_crowd = np.zeros_like(hit)
    in_crowd[hit] = image.crowd[matched[hit]]
    right = hit & ~in_crowd
    total = float(image.make_ious()[right, matched[right]].sum())
    objects, found = int(np.count_nonzero(~image.crowd)), int(np.count_nonzero(right))
    wrong = int(np.count_nonzero(kept & ~hit))
    parts = objects + found + wrong  # 2 right + wrong + missed
    quality = 2 * total / parts if parts else None
    missed, file_name = objects - found, image.file_name
    return ImageQuality(image.image_id, objects, found, wrong, missed, quality, file_name)


def rank_images(
    images: Sequence[ImagePairs], matches: Sequence[Ints], threshold: float
) -> list[ImageQuality]:
    """Return the qualities of all images, the worst first; images without a quality are the last.

    Of equal qualities, the image with more errors is worse, then the image with fewer objects
    found.

    Args:
        images: the data set.
        matches: (D,) of each image, see `tables.match_all`.
        threshold: detections with a lower score do not count.
    """
    return sorted(
        (_measure(image, found, threshold) for image, found in zip(images, matches, strict=True)),
        key=lambda each: (
            math.inf if each.quality is None else each.quality,
            -(each.wrong + each.missed),
            each.right,
        ),
    )
