"""The closed loops of cracks around a mask.

A *crack* is the unit side between a pixel of the mask and a pixel outside the mask. The cracks of a
mask form closed loops, also around its holes. Where two pixels of the mask touch only at a corner,
one loop goes around both (8-connected masks) or each has its own loop (4-connected masks).
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from ..arrays import Bools, Floats, Ints

__all__ = ["STEPS", "Cracks", "join_loops", "trace_cracks", "trace_loops"]

STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=np.intp)  # x, y; a right turn each


class Cracks(NamedTuple):
    """The cracks of a mask, loop after loop. The mask lies to the right of each crack.

    Attributes:
        corners: (N, 2) x and y of the first end of each crack; pixel (x, y) lies between the
            corners (x, y) and (x + 1, y + 1).
        directions: (N,) indices of `STEPS`.
        loops: (L + 1,), where each loop begins, and N.
    """

    corners: Ints
    directions: Ints
    loops: Ints


def _find_cracks(mask: Bools) -> tuple[Ints, Ints, Ints]:
    """Return row and column of each crack's first corner, and its direction."""
    padded = np.pad(mask, 1).view(np.int8)
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


def trace_cracks(mask: Bools, *, join_corners: bool = True) -> Cracks:
    """Return the loops of cracks of a mask (h, w); without `join_corners` it is 4-connected."""
    rows, columns, directions = _find_cracks(mask)
    across = mask.shape[1] + 1
    leaving = np.full(((mask.shape[0] + 1) * across, 4), -1, dtype=np.intp)
    leaving[rows * across + columns, directions] = np.arange(len(rows))
    steps = STEPS[directions]
    vertices = (rows + steps[:, 1]) * across + columns + steps[:, 0]
    # At a corner that joins, a left turn is preferred to straight on, and this to a right turn.
    last, *better = (1, 0, 3) if join_corners else (3, 0, 1)
    following = leaving[vertices, (directions + last) % 4]
    for turn in better:
        other = leaving[vertices, (directions + turn) % 4]
        following = np.where(other >= 0, other, following)

    chain, order, loops = following.tolist(), [], [0]
    for first in range(len(chain)):
        at = first
        while chain[at] >= 0:  # -1 marks a crack that was visited
            order.append(at)
            chain[at], at = -1, chain[at]
        if len(order) > loops[-1]:
            loops.append(len(order))
    index = np.asarray(order, dtype=np.intp)
    corners = np.stack([columns[index], rows[index]], axis=1)
    return Cracks(corners, directions[index], np.asarray(loops))


def trace_loops(mask: Bools, *, join_corners: bool = True) -> list[Ints]:
    """Return the outlines of a mask (h, w): for each loop its (M, 2) corners x, y, M >= 4.

    Only corners where the outline turns are kept. pycocotools inverts the pixels
    inside each polygon, so all loops together give exactly the mask.
    """
    cracks = trace_cracks(mask, join_corners=join_corners)
    loops = []
    for start, end in zip(cracks.loops[:-1], cracks.loops[1:], strict=True):
        directions = cracks.directions[start:end]
        loops.append(cracks.corners[start:end][directions != np.roll(directions, 1)])
    return loops


def join_loops(loops: list[Floats]) -> Floats:
    """Return one closed outline (M, 2) that runs through all loops.

    A line from its nearest corner connects each loop with the outline. The outline runs along the
    line in both directions, so the line does not count when a rule such as pycocotools' counts how
    often the outline is crossed.
    """
    joined = np.asarray(loops[0], dtype=np.float64)
    for loop in loops[1:]:
        here, there = _find_nearest(joined, loop)
        tour = np.concatenate([loop[there:], loop[: there + 1]])
        joined = np.concatenate([joined[: here + 1], tour, joined[here:]])
    return joined


def _find_nearest(points: Floats, others: Floats) -> tuple[int, int]:
    """Return the indices of the two points that are nearest to each other."""
    distances, nearest = cKDTree(points).query(others)
    there = int(np.argmin(distances))
    return int(nearest[there]), there
