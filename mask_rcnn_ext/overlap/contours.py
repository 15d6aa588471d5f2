"""Contours of masks, as the sides of pixels, and the straight runs in them.

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

__all__ = [
    "Contour",
    "StraightRun",
    "find_arcs",
    "find_near_points",
    "find_straight_runs",
    "trace_contour",
]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=np.float64)  # a right turn each
_TOLERANCE = 1.0  # pixels between a straight run and its chord
_BLOCK = 1_000_000  # most elements of a matrix of starts and ends


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


@dataclass(frozen=True)
class StraightRun:
    """A straight run: `points[start:stop]` of an arc.

    Attributes:
        start, stop: index of the first crack, and of the crack after the last one.
        length: of the chord, in pixels.
    """

    start: int
    stop: int
    length: float


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


def find_arcs(contour: Contour, chosen: Bools) -> list[Ints]:
    """Return the longest stretches of chosen cracks, as indices, in the order of the loop.

    A loop whose cracks are all chosen is one arc. It begins at the crack farthest from the centroid
    of the loop (the first of equals): a corner, so that the beginning cuts no straight run in two.

    Args:
        contour: of one mask.
        chosen: (N,) bool.
    """
    found = []
    for begin, end in zip(contour.loops[:-1], contour.loops[1:], strict=True):
        loop = np.arange(begin, end)
        if chosen[loop].all():
            away = contour.points[loop] - contour.points[loop].mean(axis=0)
            found.append(np.roll(loop, -int(np.hypot(*away.T).argmax())))
            continue
        loop = np.roll(loop, -int(chosen[loop].argmin()))  # begins with one that is not chosen
        edges = np.flatnonzero(np.diff(np.concatenate([chosen[loop], [False]]).astype(np.int8)))
        found += [loop[a + 1 : b + 1] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return found


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


def find_straight_runs(points: Floats, steps: Floats, least: float) -> list[StraightRun]:
    """Return the straight runs of an arc, in its order.

    The chord of a run is the line from its first midpoint to its last one. A run is straight when
    each of its midpoints lies within 1 px of the chord, none lies farther back than 1 px, and none
    is farther from the first midpoint than the last one is. The length of a chord counts both outer
    cracks completely: half of each, projected on the chord, is added to the distance of the
    midpoints. The longest run is taken first (of equals, the one that begins first, then the one
    that ends first), then the longest ones in what is left before it and after it.

    The tolerance of 1 px is not small: a curve whose radius is more than `least`^2 / 8 also has
    such runs.

    Args:
        points: (N, 2), midpoints of consecutive cracks.
        steps: (N, 2), their unit steps.
        least: the least length of a chord, in pixels; shorter runs are left out.
    """
    runs, pieces = [], [(0, len(points))]
    while pieces:
        begin, end = pieces.pop()
        if end - begin < least:  # a chord is never longer than its run
            continue
        first, last, length = _find_longest_run(points[begin:end], steps[begin:end])
        if length < least:
            continue
        runs.append(StraightRun(begin + first, begin + last + 1, length))
        pieces += [(begin, begin + first), (begin + last + 1, end)]
    return sorted(runs, key=lambda run: run.start)


def _find_longest_run(points: Floats, steps: Floats) -> tuple[int, int, float]:
    """Return first and last index of the longest straight run, and its length."""
    number, best = len(points), (0, 0, -1.0)
    rows = max(1, _BLOCK // number)
    for begin in range(0, number, rows):
        starts = np.arange(begin, min(begin + rows, number))
        lengths = _measure_runs(points, steps, starts)
        flat = int(lengths.argmax())
        row, last = divmod(flat, lengths.shape[1])
        if lengths[row, last] > best[2] + 1e-9:
            best = (begin + row, begin + last, float(lengths[row, last]))
    return best


def _measure_runs(points: Floats, steps: Floats, starts: Ints) -> Floats:
    """Return (S, N - starts[0]): length of the run from each start to each end; -1 if not straight.

    A point at distance d from the start is within 1 px of the chord when the directions of the
    point and of the chord differ by at most asin(1 / d). So each point allows an interval of
    directions, and the run is straight when the direction of its end is in all of them.
    """
    away = points[None, starts[0] :] - points[starts, None]
    distance = np.hypot(away[..., 0], away[..., 1])
    after = np.arange(away.shape[1]) >= (starts - starts[0])[:, None]
    binding = after & (distance > _TOLERANCE)
    # Directions are relative to the direction of the first binding point.
    reference = away[np.arange(len(starts)), binding.argmax(axis=1)]
    cross = reference[:, None, 0] * away[..., 1] - reference[:, None, 1] * away[..., 0]
    dot = (reference[:, None] * away).sum(axis=2)
    angle = np.arctan2(cross, dot)
    width = np.arcsin(_TOLERANCE / np.maximum(distance, _TOLERANCE)) + 1e-9
    low = np.maximum.accumulate(np.where(binding, angle - width, -np.inf), axis=1)
    high = np.minimum.accumulate(np.where(binding, angle + width, np.inf), axis=1)
    farthest = np.maximum.accumulate(np.where(after, distance, 0.0), axis=1)
    straight = after & (low <= angle) & (angle <= high) & (distance >= farthest - 1e-9)
    # Half of the first and of the last crack, along the chord.
    unit = away / np.maximum(distance, 1e-12)[..., None]
    ends = np.abs((unit * steps[starts, None]).sum(axis=2))
    ends += np.abs((unit * steps[None, starts[0] :]).sum(axis=2))
    return np.where(straight, np.where(distance > 0, distance + ends / 2, 1.0), -1.0)
