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

    A line from its nearest corner connects each loop with a loop before it. The outline runs along
    the line in both directions, so the line does not count when a rule such as pycocotools' counts
    how often the outline is crossed.
    """
    links = _find_links(loops)
    firsts = [0, *(corner for corner, _, _ in links)]
    branches: list[list[tuple[int, int]]] = [[] for _ in loops]  # (place in the tour, other loop)
    for loop, (_, parent, corner) in enumerate(links, start=1):
        branches[parent].append(((corner - firsts[parent]) % len(loops[parent]), loop))
    for each in branches:
        each.sort(reverse=True)
    pieces, stack = [], [(0, 0)]  # a loop, and the place in its tour where the outline goes on
    while stack:
        loop, place = stack.pop()
        points, first = loops[loop], firsts[loop]
        tour = np.concatenate([points[first:], points[: first + 1]]) if loop else points
        if branches[loop]:
            stop, other = branches[loop].pop()
            pieces.append(tour[place : stop + 1])
            stack += [(loop, stop), (other, 0)]
        else:
            pieces.append(tour[place:])
    return np.concatenate(pieces).astype(np.float64)


def _find_links(loops: list[Floats]) -> list[tuple[int, int, int]]:
    """Return the line of each loop but the first: its corner, a loop before it, the corner there.

    A new tree of all corners for each loop would take hours for a net of 10,000 meshes. Here, each
    tree has at least twice as many corners as the next one.
    """
    points, starts = np.concatenate(loops), np.cumsum([0, *map(len, loops)])
    trees: list[tuple[int, cKDTree]] = []  # index of the first corner, tree of it and the next ones
    links = []
    for loop, corners in enumerate(loops):
        found = [(*_find_nearest(tree, corners), first) for first, tree in trees]
        if found:
            _, corner, nearest, first = min(found)
            parent = int(np.searchsorted(starts, first + nearest, side="right")) - 1
            links.append((corner, parent, first + nearest - int(starts[parent])))
        trees.append((int(starts[loop]), cKDTree(corners)))
        while len(trees) > 1 and trees[-2][1].n < 2 * trees[-1][1].n:
            trees.pop()
            first, _ = trees.pop()
            trees.append((first, cKDTree(points[first : starts[loop + 1]])))
    return links


def _find_nearest(tree: cKDTree, corners: Floats) -> tuple[float, int, int]:
    """Return the smallest distance, and the indices of the corner and the point of the tree."""
    distances, nearest = tree.query(corners)
    corner = int(np.argmin(distances))
    return float(distances[corner]), corner, int(nearest[corner])
