"""Boundary IoU: how well the outlines of two masks agree (Cheng et al. 2021, arXiv:2103.16562)."""

import math

import numpy as np
import numpy.typing as npt

from .crops import Crop, intersection

__all__ = ["boundary_distance", "boundary_iou", "boundary_of"]

Bools = npt.NDArray[np.bool_]

_DILATION_RATIO = 0.02  # of the image's diagonal


def boundary_distance(height: int, width: int) -> int:
    """Return the width d of the boundary in an image: 2 % of its diagonal, in whole pixels >= 1."""
    return max(1, round(_DILATION_RATIO * math.hypot(height, width)))


def boundary_of(crop: Crop, distance: int) -> Crop:
    """Return the pixels of a mask that have a pixel outside of it within `distance`.

    "Within" is in rows and in columns (a square of side 2 d + 1), as in the authors' code, which
    erodes d times by 3 x 3. What lies outside of the image is outside of the mask.
    """
    inner = _all_within(_all_within(crop.mask, distance).T, distance).T
    return Crop(crop.top, crop.left, crop.mask & ~inner)


def _all_within(mask: Bools, distance: int) -> Bools:
    """Return where all of the 2 d + 1 pixels around, in the column, are True."""
    sums = np.pad(mask, ((distance + 1, distance), (0, 0))).cumsum(axis=0, dtype=np.int32)
    side = 2 * distance + 1
    return sums[side:] - sums[:-side] == side


def boundary_iou(first: Crop, second: Crop) -> float:
    """Return the IoU of two boundaries, as `boundary_of` gives them; 0 when both are empty."""
    common = intersection(first, second)
    return common / max(1, first.area + second.area - common)
