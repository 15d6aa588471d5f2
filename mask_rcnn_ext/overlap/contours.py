"""Contours of masks, as the sides of pixels.

A contour consists of *cracks*: the unit sides between a pixel of the mask and a pixel outside the
mask. The place of a crack is its midpoint, in the coordinates of `crops`. A crack on the frame of
the image does not belong to the contour, since no model drew it. `layers.cracks` finds the loops.

Cracks are used instead of boundary pixels because a horizontal or vertical edge of L pixels then
has the length L, and because the midpoints of a digitised straight line, at any angle, lie within
half a pixel of the line.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from ..arrays import Bools, Floats, Ints
from ..layers.cracks import STEPS, trace_cracks
from ..layers.mask_crops import MaskCrop

__all__ = ["Contour", "find_near_points", "trace_contour"]


@dataclass(frozen=True)
class Contour:
    """The loops of a mask, one after the other. The mask lies to the right of each crack.

    Attributes:
        points: (N, 2) float64, x and y of the midpoints of the cracks.
        steps: (N, 2) float64, the unit step along each crack.
        loops: (L + 1,), where each loop begins, and N.
        frame: (N,) bool, whether a crack is on the frame of the image. Such a crack is part of the
            loop, not of the contour.
    """

    points: Floats = field(repr=False)
    steps: Floats = field(repr=False)
    loops: Ints
    frame: Bools = field(repr=False)


def trace_contour(crop: MaskCrop, height: int, width: int) -> Contour:
    """Return the contour of a mask in an image of the given size."""
    cracks = trace_cracks(crop.mask)
    steps = STEPS[cracks.directions].astype(np.float64)
    points = cracks.corners + (crop.left, crop.top) + steps / 2
    horizontal = cracks.directions % 2 == 0
    place = np.where(horizontal, points[:, 1], points[:, 0])  # across the crack
    frame = (place == 0) | (place == np.where(horizontal, height, width))
    return Contour(points, steps, cracks.loops, frame)


def find_near_points(points: Floats, targets: Floats, radius: float) -> Bools:
    """Return (N,): which points have a target at a distance of `radius` or less.

    Args:
        points: (N, 2), x and y.
        targets: (M, 2).
        radius: positive.
    """
    distances, _ = cKDTree(targets).query(points)  # infinite without targets
    return np.asarray(distances <= radius)
