"""Draws one image of `occluded_shapes`, with the same pixels on every machine.

Random numbers are the raw stream of PCG64 (whose stability NumPy guarantees), outlines are
rasterised in integers, and colours use basic IEEE arithmetic only.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

__all__ = ["CLASSES", "SIZE", "draw_image"]

SIZE = 160  # pixels, both sides
CLASSES = ("disk", "box", "triangle", "star", "ring")
MIN_VISIBLE = 0.3

_UNIT = 256  # fixed-point steps per pixel
_SUB = 4  # samples per pixel side
_SMALL, _SPLIT, _LARGE = 16.0, 32.0, 90.0  # pixels; a third of the sizes lies under _SPLIT


class _Stream:
    """Uniform numbers from PCG64's raw stream, the same on every platform and NumPy version."""

    def __init__(self, *entropy: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(entropy))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * (int(self._bits.random_raw()) >> 11) / 2.0**53

    def integer(self, low: int, high: int) -> int:
        """Return an integer in [low, high]."""
        return low + int(self._bits.random_raw()) % (high - low + 1)

    def noise(self, height: int, width: int) -> np.ndarray:
        """Return (height, width, 3) float64, mean 0, variance 1: centred sums of eight bytes."""
        raw = self._bits.random_raw(height * width * 3).reshape(height, width, 3)
        total = np.zeros(raw.shape, dtype=np.int64)
        for shift in range(0, 64, 8):
            total += ((raw >> np.uint64(shift)) & np.uint64(255)).astype(np.int64)
        return (total - 1020) / 209.0  # 8 uniform bytes: mean 8 * 127.5, deviation 8 ** .5 * 73.9


@dataclass(frozen=True)
class _Shape:
    label: int  # index into CLASSES
    size: float  # pixels, diameter of the circle around the outline
    x: float  # pixels, centre
    y: float
    angle: float  # radians
    colour: tuple[float, float, float]  # 0-255, RGB
    shade: tuple[float, float]  # change of brightness per radius along x and y


def _make_outline(shape: _Shape) -> list[np.ndarray]:
    """Return closed polygons, (V, 2) int64 in 1/256 pixel; a second polygon is a hole."""
    radius = shape.size / 2

    def polygon(radii: list[float]) -> np.ndarray:
        steps = [shape.angle + 2 * math.pi * i / len(radii) for i in range(len(radii))]
        points = [
            (shape.x + radius * r * math.cos(a), shape.y + radius * r * math.sin(a))
            for r, a in zip(radii, steps, strict=True)
        ]
        return np.array([[math.floor(v * _UNIT + 0.5) for v in p] for p in points], dtype=np.int64)

    name = CLASSES[shape.label]
    if name == "disk":
        return [polygon([1.0] * 48)]
    if name == "box":
        return [polygon([1.0] * 4)]
    if name == "triangle":
        return [polygon([1.0] * 3)]
    if name == "star":
        return [polygon([1.0, 0.45] * 5)]
    return [polygon([1.0] * 48), polygon([0.5] * 48)]


def _rasterise(polygons: list[np.ndarray]) -> tuple[slice, slice, np.ndarray]:
    """Rasterise polygons inside the image by the even-odd rule, exactly.

    Args:
        polygons: see `_make_outline`.

    Returns:
        The rows and the columns of the window of samples around the shape, and which samples of
        the window are inside, bool.
    """
    step = _UNIT // _SUB
    half = step // 2  # a sample lies in the middle of its cell
    starts = np.concatenate(polygons)
    ends = np.concatenate([np.roll(points, -1, axis=0) for points in polygons])
    low, high = starts.min(axis=0) // step, starts.max(axis=0) // step + 1
    high = np.minimum(high, SIZE * _SUB)
    down = (starts[:, 1] > ends[:, 1])[:, None]
    (x1, y1), (x2, y2) = np.where(down, ends, starts).T, np.where(down, starts, ends).T
    dx, dy = x2 - x1, y2 - y1
    # The sample rows that each edge crosses: y1 <= row * step + half < y2.
    first, stop = -((half - y1) // step), -((half - y2) // step)
    counts = stop - first
    edge = np.repeat(np.arange(len(starts)), counts)
    row = np.arange(len(edge)) + np.repeat(first - (np.cumsum(counts) - counts), counts)
    # The first column whose sample lies right of the edge: floor division keeps it exact.
    rise = (row * step + half - y1[edge]) * dx[edge]
    column = ((x1[edge] - half) * dy[edge] + rise) // (step * dy[edge]) + 1
    crossings = np.zeros((high[1] - low[1], high[0] - low[0] + 1), dtype=bool)
    np.logical_xor.at(crossings, (row - low[1], column - low[0]), True)
    inside = np.logical_xor.accumulate(crossings, axis=1)[:, :-1]
    return slice(low[1], high[1]), slice(low[0], high[0]), inside


def _propose_shape(rng: _Stream, placed: list[_Shape], background: np.ndarray) -> _Shape:
    """Propose the next shape, usually next to a placed one and often of its class or colour."""
    partner = placed[rng.integer(0, len(placed) - 1)] if placed and rng.uniform() < 0.7 else None
    if partner is None:
        small = rng.uniform() < 0.27  # large shapes are refused more often; a third is left
        size = rng.uniform(_SMALL, _SPLIT) if small else rng.uniform(_SPLIT, _LARGE)
        x, y = rng.uniform(size / 2, SIZE - size / 2), rng.uniform(size / 2, SIZE - size / 2)
        label, shared = rng.integer(0, len(CLASSES) - 1), False
    else:
        size = min(max(partner.size * rng.uniform(0.7, 1.3), _SMALL), _LARGE)
        direction, reach = rng.uniform(0, 2 * math.pi), (size + partner.size) / 2
        distance = reach * rng.uniform(0.35, 0.75)
        x, y = (
            partner.x + distance * math.cos(direction),
            partner.y + distance * math.sin(direction),
        )
        same = rng.uniform() < 0.5
        label = partner.label if same else rng.integer(0, len(CLASSES) - 1)
        shared = rng.uniform() < 0.4
    colour = partner.colour if partner and shared else _draw_colour(rng, background)
    shift = rng.uniform(-10, 10)  # neighbours of the same colour still differ a little
    return _Shape(
        label=label,
        size=size,
        x=x,
        y=y,
        angle=rng.uniform(0, 2 * math.pi),
        colour=(colour[0] + shift, colour[1] + shift, colour[2] + shift),
        shade=(rng.uniform(-12, 12), rng.uniform(-12, 12)),
    )


def _draw_colour(rng: _Stream, background: np.ndarray) -> tuple[float, float, float]:
    """Return a colour that differs from `background` by at least 120 levels, summed over RGB."""
    while True:
        colour = (rng.uniform(30, 225), rng.uniform(30, 225), rng.uniform(30, 225))
        if sum(abs(c - float(b)) for c, b in zip(colour, background, strict=True)) >= 120:
            return colour


def _compose(rng: _Stream, background: np.ndarray) -> tuple[list[_Shape], np.ndarray, list[float]]:
    """Return the shapes back to front, the shape at each sample (-1: none), the visible shares."""
    wanted = rng.integer(2, 6)
    owner = np.full((SIZE * _SUB, SIZE * _SUB), -1, dtype=np.int8)
    shapes: list[_Shape] = []
    full: list[int] = []
    seen: list[int] = []
    for _ in range(200):
        if len(shapes) == wanted:
            break
        shape = _propose_shape(rng, shapes, background)
        radius = shape.size / 2
        if not (radius <= shape.x <= SIZE - radius and radius <= shape.y <= SIZE - radius):
            continue
        rows, columns, inside = _rasterise(_make_outline(shape))
        covered = np.bincount(owner[rows, columns][inside] + 1, minlength=len(shapes) + 1)[1:]
        left = [n - int(c) for n, c in zip(seen, covered, strict=True)]
        if all(n >= MIN_VISIBLE * whole for n, whole in zip(left, full, strict=True)):
            owner[rows, columns][inside] = len(shapes)
            shapes.append(shape)
            full.append(int(inside.sum()))
            seen = [*left, full[-1]]
    visible = [n / whole for n, whole in zip(seen, full, strict=True)]
    return shapes, owner, visible


def _count_samples(samples: np.ndarray) -> np.ndarray:
    """Return the number of true samples in each pixel, (160, 160) uint8, of (640, 640) bool."""
    rows = np.zeros((SIZE, SIZE * _SUB), dtype=np.uint8)
    counts = np.zeros((SIZE, SIZE), dtype=np.uint8)
    for i in range(_SUB):
        rows += samples[i::_SUB]
    for i in range(_SUB):
        counts += rows[:, i::_SUB]
    return counts


def draw_image(*entropy: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draw one image.

    Args:
        entropy: non-negative integers; each combination gives another image.

    Returns:
        The image, (160, 160, 3) uint8 RGB, and its annotations in COCO format without ids:
        `category_id` from 1, `bbox` XYWH in pixels and compressed RLE `segmentation` of the visible
        part, `area`, `iscrowd`, and `visible`, the visible share of the whole shape.
    """
    rng = _Stream(*entropy)
    level = rng.uniform(70, 180)
    background = np.array([level + rng.uniform(-25, 25) for _ in range(3)])
    shapes, owner, visible = _compose(rng, background)

    # (N + 1, SIZE, SIZE) samples per pixel; entry 0 is the background, entry i + 1 is shape i.
    counts = np.stack([_count_samples(owner == i) for i in range(-1, len(shapes))])
    grid = np.arange(SIZE) + 0.5
    image = counts[0] * background[:, None, None]  # (3, SIZE, SIZE)
    for shape, count in zip(shapes, counts[1:], strict=True):
        light = (
            shape.shade[0] * ((grid - shape.x) / (shape.size / 2))[None, :]
            + shape.shade[1] * ((grid - shape.y) / (shape.size / 2))[:, None]
        )
        image += count * (np.array(shape.colour)[:, None, None] + light)
    image /= _SUB * _SUB
    ramp_x, ramp_y = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
    image *= 1.0 + ramp_x * (grid / SIZE - 0.5)[None, :] + ramp_y * (grid / SIZE - 0.5)[:, None]
    image = image.transpose(1, 2, 0) + 6.0 * rng.noise(SIZE, SIZE)
    pixels = np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)

    # A pixel belongs to the entry with most of its samples; ties go to the front.
    front = len(shapes) - np.argmax(counts[::-1], axis=0)
    annotations = []
    for i, shape in enumerate(shapes):
        mask = front == i + 1
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        annotations.append(
            {
                "category_id": shape.label + 1,
                "bbox": [float(v) for v in box],
                "area": int(mask.sum()),
                "segmentation": {"size": [SIZE, SIZE], "counts": rle["counts"].decode("ascii")},
                "iscrowd": 0,
                "visible": round(visible[i], 4),
            }
        )
    return pixels, annotations
