"""Contours of masks, as the sides of pixels, and the straight runs in them.

A contour is made of *cracks*: the unit sides between a pixel of the mask and one that is not. Its
place is its midpoint; coordinates are those of `crops`. A crack on the frame of the image is no
contour, since nobody drew it. The cracks of a mask form closed loops, holes included; where two
pixels of the mask touch only at a corner, the loop joins them (8-connected masks).

Cracks rather than boundary pixels: a horizontal or vertical edge of L pixels is L long, and the
midpoints of a digitised straight line, at any angle, lie within half a pixel of it.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .crops import Crop

__all__ = ["Contour", "Run", "arcs", "crack_points", "near", "straight_runs", "trace"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_STEPS = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=np.float64)  # a right turn each
_TOLERANCE = 1.0  # pixels between a straight run and its chord
_BLOCK = 1_000_000  # most elements of a matrix of starts and ends


@dataclass(frozen=True)
class Contour:
    """The loops of a mask, one after the other, the mask on the right hand.

    Attributes:
        points: (N, 2) float64, x and y of the midpoints.
        steps: (N, 2) float64, the unit step along each crack.
        loops: (L + 1,), where each loop begins, and N.
        frame: (N,) bool, on the frame of the image: part of the loop, not of the contour.
    """

    points: Floats = field(repr=False)
    steps: Floats = field(repr=False)
    loops: Ints
    frame: Bools = field(repr=False)


@dataclass(frozen=True)
class Run:
    """A straight run, `points[start:stop]` of an arc.

    Attributes:
        start, stop: indices of its first crack and past its last one.
        length: of its chord, in pixels.
    """

    start: int
    stop: int
    length: float


def _cracks(crop: Crop) -> tuple[Ints, Ints, Ints]:
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


def _places(crop: Crop, rows: Ints, columns: Ints, directions: Ints) -> Floats:
    corners = np.stack([columns + crop.left, rows + crop.top], axis=1).astype(np.float64)
    return corners + _STEPS[directions] / 2


def _on_frame(points: Floats, directions: Ints, height: int, width: int) -> Bools:
    along_x = directions % 2 == 0
    place = np.where(along_x, points[:, 1], points[:, 0])
    return (place == 0) | (place == np.where(along_x, height, width))


def crack_points(crop: Crop, height: int, width: int) -> Floats:
    """Return (N, 2), the midpoints of a mask's contour in an image, in no particular order."""
    rows, columns, directions = _cracks(crop)
    points = _places(crop, rows, columns, directions)
    return points[~_on_frame(points, directions, height, width)]


def trace(crop: Crop, height: int, width: int) -> Contour:
    """Return the contour of a mask in an image of the given size."""
    rows, columns, directions = _cracks(crop)
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
    points = _places(crop, rows, columns, directions)
    frame = _on_frame(points, directions, height, width)
    return Contour(points[index], _STEPS[directions[index]], np.asarray(loops), frame[index])


def arcs(contour: Contour, chosen: Bools) -> list[Ints]:
    """Return the longest stretches of chosen cracks, as indices, in the order of the loop.

    A loop that is chosen whole is one arc; it begins at the crack farthest from the loop's centroid
    (the first of equals): a corner, so that it cuts no straight run in two.

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


def near(points: Floats, targets: Floats, radius: float) -> Bools:
    """Return (N,): which points have a target at a distance of `radius` or less.

    Args:
        points: (N, 2), x and y.
        targets: (M, 2).
        radius: positive.
    """
    close = np.zeros(len(points), dtype=bool)
    if not len(points):
        return close
    low, high = points.min(axis=0) - radius, points.max(axis=0) + radius
    targets = targets[((targets >= low) & (targets <= high)).all(axis=1)]
    if not len(targets):
        return close
    # Cells of side `radius`: only targets of the nine cells around a point can be that near. The
    # three of a row are one stretch of the targets sorted by cell.
    across = int((high[0] - low[0]) // radius) + 3
    cell_of = [((p - low) // radius).astype(np.intp) for p in (points, targets)]
    number = cell_of[1][:, 1] * across + cell_of[1][:, 0] + 1
    order = np.argsort(number, kind="stable")
    number, targets = number[order], targets[order]
    for row in (-1, 0, 1):
        middle = (cell_of[0][:, 1] + row) * across + cell_of[0][:, 0] + 1
        first = np.searchsorted(number, middle - 1, side="left")
        counts = np.searchsorted(number, middle + 1, side="right") - first
        ends = np.cumsum(counts)
        source = np.repeat(np.arange(len(points)), counts)
        index = np.repeat(first - (ends - counts), counts) + np.arange(len(source))
        away = points[source] - targets[index]
        close[source[np.hypot(away[:, 0], away[:, 1]) <= radius]] = True
    return close


def straight_runs(points: Floats, steps: Floats, least: float) -> list[Run]:
    """Return the straight runs of an arc, in its order.

    A run is straight when each of its midpoints lies within 1 px of the chord, the line from its
    first midpoint to its last; none lies farther back than that, and none is farther from the first
    one than the last is. The chord's length counts both outer cracks whole: half of each, projected
    on it, is added to the distance of the midpoints. The longest run is taken first (of equals, the
    one that begins, then the one that ends, first), then the same again in what is left before it
    and after it. A curve whose radius is more than `least`^2 / 8 has such runs, too: 1 px is not
    much.

    Args:
        points: (N, 2), midpoints of consecutive cracks.
        steps: (N, 2), their unit steps.
        least: runs whose chord is shorter are left out; pixels.
    """
    runs, pieces = [], [(0, len(points))]
    while pieces:
        begin, end = pieces.pop()
        if end - begin < least:  # a chord is never longer than the way
            continue
        first, last, length = _longest_run(points[begin:end], steps[begin:end])
        if length < least:
            continue
        runs.append(Run(begin + first, begin + last + 1, length))
        pieces += [(begin, begin + first), (begin + last + 1, end)]
    return sorted(runs, key=lambda run: run.start)


def _longest_run(points: Floats, steps: Floats) -> tuple[int, int, float]:
    """Return first and last index of the longest straight run, and its length."""
    number, best = len(points), (0, 0, -1.0)
    rows = max(1, _BLOCK // number)
    for begin in range(0, number, rows):
        starts = np.arange(begin, min(begin + rows, number))
        lengths = _run_lengths(points, steps, starts)
        flat = int(lengths.argmax())
        row, last = divmod(flat, lengths.shape[1])
        if lengths[row, last] > best[2] + 1e-9:
            best = (begin + row, begin + last, float(lengths[row, last]))
    return best


def _run_lengths(points: Floats, steps: Floats, starts: Ints) -> Floats:
    """Return (S, N - starts[0]): the chord of the run from each start to each end; -1: no run.

    A point at distance d from the start is within 1 px of the chord when the two directions differ
    by no more than asin(1 / d). So each point leaves an interval of directions, and the run is
    straight when the direction of its end is in all of them.
    """
    away = points[None, starts[0] :] - points[starts, None]
    distance = np.hypot(away[..., 0], away[..., 1])
    after = np.arange(away.shape[1]) >= (starts - starts[0])[:, None]
    binding = after & (distance > _TOLERANCE)
    # Directions relative to that of the first point that binds: what is behind it is no run.
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
