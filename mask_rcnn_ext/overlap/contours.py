"""Contours of masks, as the sides of pixels.

A contour is made of *cracks*: the unit sides between a pixel of the mask and a pixel outside of it.
The place of a crack is its midpoint, in the coordinates of `crops`. A crack on the frame of the
image does not belong to the contour, since no model drew it. The cracks of a mask form closed
loops, also around its holes; where two pixels of the mask touch only at a corner, the loop joins
them (8-connected masks).

Why cracks and not boundary pixels: a horizontal or vertical edge of L pixels is L long, and the
midpoints of a digitised straight line, at any angle, lie within half a pixel of the line.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from .crops import Crop

__all__ = ["Contour", "find_near_points", "trace_contour"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=np.float64)  # a right turn each


@dataclass(frozen=True)
class Contour:
    """The loops of a mask, one after the other, with the mask on the right hand.

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


def _find_cracks(crop: Crop) -> tuple[Ints, Ints, Ints]:
    """Return row and column of each crack's first vertex in the crop, and its direction."""
    padded = np.pad(crop.mask, 1).view(np.int8)
    across = padded[1:, 1:-1] - padded[:-1, 1:-1]  # (h + 1, w): +1 where the mask begins, below
    down = padded[1:-1, 1:] - padded[1:-1, :-1]  # (h, w + 1): +1 where it begins, to the right
    ends = []
    for where, direction, offset in (
        (across == 1, 0, (0, 0)),
        (down == -1, 1, (0, 0)),
        (across == -1, 2, (0, 1)),
        (down == 1, 3, (1, 0)),
    ):
        rows, columns = np.nonzero(where)
        ends.append((rows + offset[0], columns + offset[1], np.full(len(rows), direction)))
    rows, columns, directions = (np.concatenate(part) for part in zip(*ends, strict=True))
    return rows, columns, directions


def trace_contour(crop: Crop, height: int, width: int) -> Contour:
    """Return the contour of a mask in an image of the given size."""
    rows, columns, directions = _find_cracks(crop)
    across = crop.mask.shape[1] + 1
    leaving = np.full(((crop.mask.shape[0] + 1) * across, 4), -1, dtype=np.intp)
    leaving[rows * across + columns, directions] = np.arange(len(rows))
    steps = _STEPS[directions].astype(np.intp)
    vertices = (rows + steps[:, 1]) * across + columns + steps[:, 0]
    following = leaving[vertices, (directions + 1) % 4]
    for turn in (0, 3):  # left goes before straight on, and that before right
        other = leaving[vertices, (directions + turn) % 4]
        following = np.where(other >= 0, other, following)

    chain, order, loops = following.tolist(), [], [0]
    for first in range(len(chain)):
        at = first
        while chain[at] >= 0:  # a crack that was visited leads nowhere
            order.append(at)
            chain[at], at = -1, chain[at]
        if len(order) > loops[-1]:
            loops.append(len(order))
    index = np.asarray(order, dtype=np.intp)
    directions = directions[index]
    corners = np.stack([columns[index] + crop.left, rows[index] + crop.top], axis=1)
    points = corners + _STEPS[directions] / 2
    horizontal = directions % 2 == 0
    place = np.where(horizontal, points[:, 1], points[:, 0])  # across the crack
    frame = (place == 0) | (place == np.where(horizontal, height, width))
    return Contour(points, _STEPS[directions], np.asarray(loops), frame)


def find_near_points(points: Floats, targets: Floats, radius: float) -> Bools:
    """Return (N,): which points have a target at a distance of `radius` or less.

    Args:
        points: (N, 2), x and y.
        targets: (M, 2).
        radius: positive.
    """
    if not len(targets):
        return np.zeros(len(points), dtype=bool)
    distances, _ = cKDTree(targets).query(points)
    return np.asarray(distances <= radius)
