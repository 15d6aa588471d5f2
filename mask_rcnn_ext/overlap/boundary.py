"""Boundary IoU: how well the outlines of two masks agree (Cheng et al. 2021, arXiv:2103.16562)."""

import math

import numpy as np
from scipy.ndimage import minimum_filter

from ..layers.mask_crops import MaskCrop

__all__ = ["boundary_iou", "compute_boundary_distance", "find_boundary"]

_DILATION_RATIO = 0.02  # share of the image's diagonal


def compute_boundary_distance(height: int, width: int) -> int:
    """Return the width d of a boundary: 2 % of the image's diagonal in whole pixels, at least 1."""
    return max(1, round(_DILATION_RATIO * math.hypot(height, width)))


def find_boundary(crop: MaskCrop, distance: int) -> MaskCrop:
    """Return the pixels of a mask that have a pixel outside of the mask within `distance`.

    The distance is counted in rows and columns, over a square of side 2 d + 1, as in the authors'
    code, which erodes the mask d times by 3 x 3. What lies outside of the image is outside of the
    mask.
    """
    inner = minimum_filter(crop.mask.view(np.uint8), 2 * distance + 1, mode="constant", cval=0)
    return MaskCrop(crop.top, crop.left, crop.mask & (inner == 0))


def boundary_iou(first: MaskCrop, second: MaskCrop) -> float:
    """Return the IoU of two boundaries, made by `find_boundary`; 0 when both are empty."""
    common = first.count_common(second)
    return common / max(1, first.area + second.area - common)
