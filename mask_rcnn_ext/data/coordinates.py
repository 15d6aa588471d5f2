"""The meaning of lists of numbers in a COCO json: a bitmap, pixels, or fractions of the image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError

__all__ = ["as_bitmap", "is_number", "scale_fractions"]

_ROUNDING = 0.01  # of the image; a rounded fraction may lie outside the image by this much


def is_number(value: object) -> bool:
    """Return whether `value` is a number that a float can hold."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def as_bitmap(rows: list[Any]) -> npt.NDArray[np.int64] | None:
    """Return a 2-D list of 0 and 1 as an array, or None if the list holds polygons.

    Several polygons of equal length look like a bitmap only if all their coordinates are 0 or 1.
    Such polygons have no useful shape.
    """
    first = rows[0]
    if len(rows) < 2 or not isinstance(first, list) or not first or first[0] not in (0, 1):
        return None
    if any(not isinstance(row, list) or len(row) != len(first) for row in rows):
        return None
    bitmap = np.asarray(rows)
    return bitmap if bitmap.ndim == 2 and np.isin(bitmap, (0, 1)).all() else None


def scale_fractions(
    annotations: Sequence[dict[str, Any]], sizes: Mapping[int, tuple[int, int]]
) -> list[int]:
    """Turn coordinates that are fractions of the image into pixels, in place.

    Polygons with no coordinate above 1 are fractions if this holds for most annotations with
    polygons: in pixels they would cover nothing. A box with no number above 1 is a fraction if the
    polygons of its annotation are. If its annotation has no polygons, it is a fraction in two
    cases: the file has polygons that are fractions, and most boxes have no number above 1; or the
    file has no masks, and no box has a number above 1. An `area` up to 1 is removed too.

    Args:
        annotations: all annotations of the file. Only boxes and polygons are changed.
        sizes: image id -> (H, W).

    Returns:
        The ids of the annotations that were changed.

    Raises:
        UserError: most boxes are fractions without a mask, but other boxes or the masks are in
            pixels.
    """
    masked = [a for a in annotations if a.get("segmentation")]
    lists = [a for a in masked if isinstance(a["segmentation"], list)]
    polygons = [a for a in lists if as_bitmap(a["segmentation"]) is None]
    whole = [a for a in polygons if not any(map(_has_pixels, _parts(a["segmentation"])))]
    whole = whole if 2 * len(whole) > len(polygons) else []
    parts = [(part, a) for a in whole for part in _parts(a["segmentation"])]
    own = {id(a) for a in whole}
    others = {id(a) for a in annotations} - {id(a) for a in polygons}
    boxed = [a for a in annotations if a.get("bbox")]
    small = [a for a in boxed if isinstance(a["bbox"], list) and not _has_pixels(a["bbox"])]
    loose = (not masked and len(small) == len(boxed)) or (whole and 2 * len(small) > len(boxed))
    boxes = [(a["bbox"], a) for a in small if id(a) in own or (loose and id(a) in others)]
    left = [] if loose else [a for a in small if not a.get("segmentation")]
    if 2 * len(left) > len(boxed):
        raise UserError(
            f"{len(left)} of {len(boxed)} boxes have only numbers up to 1, like fractions of the "
            f"image (first: annotation {left[0]['id']}), but other boxes or the masks are in "
            "pixels. Write all boxes in pixels"
        )
    changed = {}
    for numbers, annotation in (*parts, *boxes):
        if isinstance(numbers, list) and all(map(is_number, numbers)):
            height, width = sizes[annotation["image_id"]]
            numbers[0::2] = [x * width for x in numbers[0::2]]
            numbers[1::2] = [y * height for y in numbers[1::2]]
            changed[annotation["id"]] = annotation
    for annotation in changed.values():
        if is_number(annotation.get("area")) and annotation["area"] <= 1:
            del annotation["area"]
    return list(changed)


def _parts(polygons: list[Any]) -> list[Any]:
    """Return the polygons of a segmentation, which may be one flat polygon."""
    return [polygons] if is_number(polygons[0]) else polygons


def _has_pixels(numbers: Any) -> bool:
    """Return whether a polygon or box has a number that is no fraction of the image."""
    return isinstance(numbers, list) and any(
        is_number(v) and not -_ROUNDING <= v <= 1 + _ROUNDING for v in numbers
    )
