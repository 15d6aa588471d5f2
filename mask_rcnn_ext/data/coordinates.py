"""What lists of numbers in a COCO json mean: a bitmap, pixels, or fractions of the image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import UserError

__all__ = ["as_bitmap", "is_number", "scale_fractions"]

_ROUNDING = 0.01  # of the image; a polygon in pixels with no larger coordinate covers no pixel


def is_number(value: object) -> bool:
    """Return whether `value` is a number that a float can hold."""
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def as_bitmap(rows: list[Any]) -> npt.NDArray[np.int64] | None:
    """Return a 2-D list of 0 and 1 as an array, or None if the list holds polygons.

    Several polygons of equal length could look like a bitmap only if all their coordinates were 0
    or 1, and such polygons have no useful shape.
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

    Polygons of an annotation are fractions if they have no coordinate above 1, and the same holds
    for most annotations with polygons: in pixels they would cover nothing. A box without a number
    above 1 is a fraction if its polygons are; without polygons, if those of the file are and most
    boxes have no such number, or if the file has no masks and all its boxes are so. An `area` up to
    1 is removed with them.

    Args:
        annotations: of the file. What is neither a box nor polygons is left alone.
        sizes: image id -> (H, W).

    Returns:
        The ids of the annotations that were changed.

    Raises:
        UserError: most boxes are fractions without a mask, but others or the masks are in pixels.
    """
    masked = [a for a in annotations if a.get("segmentation")]
    polygons = [a for a in masked if _is_polygons(a["segmentation"])]
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
            f"{len(left)} of {len(boxed)} boxes have only numbers up to 1, as fractions of the "
            f"image have (first: annotation {left[0]['id']}), but other boxes or the masks are in "
            "pixels. Write all of them in pixels"
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


def _is_polygons(mask: Any) -> bool:
    return isinstance(mask, list) and as_bitmap(mask) is None


def _parts(polygons: list[Any]) -> list[Any]:
    """Return the polygons of a segmentation, which may be one flat polygon."""
    return [polygons] if is_number(polygons[0]) else polygons


def _has_pixels(numbers: Any) -> bool:
    """Return whether a number of a polygon or box is no fraction."""
    return isinstance(numbers, list) and any(
        is_number(v) and not -_ROUNDING <= v <= 1 + _ROUNDING for v in numbers
    )
