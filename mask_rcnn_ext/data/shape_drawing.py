"""Draws images of overlapping shapes, with the same pixels on every machine.

Random numbers are the raw stream of PCG64 (whose stability NumPy guarantees), outlines are
rasterised in integers, and colours use basic IEEE arithmetic only.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..layers.rle import encode_mask

__all__ = [
    "CLASSES",
    "Canvas",
    "Colour",
    "RandomStream",
    "Shape",
    "draw_background",
    "draw_colour",
    "make_shape",
    "render",
    "shift_colour",
]

Colour = tuple[float, float, float]  # RGB, 0 to 255

CLASSES = ("disk", "box", "triangle", "star", "ring")
MIN_VISIBLE = 0.3

_UNIT = 256  # fixed-point steps per pixel
_SUB = 4  # samples per pixel side
_CONTRAST = 120  # levels, summed over RGB: colours that differ by this much are clearly different


class RandomStream:
    """Uniform numbers from PCG64's raw stream, the same on every platform and NumPy version."""

    def __init__(self, *entropy: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(entropy))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Return a number in [low, high)."""
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
class Shape:
    """A shape of an image.

    Attributes:
        label: index into `CLASSES`.
        size: diameter of the circle around the outline, in pixels.
        x, y: the centre, in pixels.
        angle: in radians.
        colour: RGB, 0 to 255.
        shade: change of brightness per radius, along x and along y.
    """

    label: int
    size: float
    x: float
    y: float
    angle: float
    colour: Colour
    shade: tuple[float, float]


def _make_outline(shape: Shape) -> list[np.ndarray]:
    """Return closed polygons, (V, 2) int64 in 1/256 pixels; a second polygon is a hole."""
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


def _rasterise(polygons: list[np.ndarray], size: int) -> tuple[slice, slice, np.ndarray]:
    """Rasterise polygons inside the image by the even-odd rule, exactly.

    Args:
        polygons: see `_make_outline`.
        size: side of the image, in pixels.

    Returns:
        The rows and the columns of the window of samples around the shape, and which samples of
        the window are inside, bool.
    """
    step = _UNIT // _SUB
    half = step // 2  # a sample lies in the middle of its cell
    starts = np.concatenate(polygons)
    ends = np.concatenate([np.roll(points, -1, axis=0) for points in polygons])
    low, high = starts.min(axis=0) // step, starts.max(axis=0) // step + 1
    high = np.minimum(high, size * _SUB)
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


def draw_background(rng: RandomStream) -> np.ndarray:
    """Return the RGB colour of a background, (3,) float64, 0 to 255."""
    level = rng.uniform(70, 180)
    return np.array([level + rng.uniform(-25, 25) for _ in range(3)])


def draw_colour(rng: RandomStream, *others: Iterable[float]) -> Colour:
    """Return a colour that differs from the others by at least 120 levels, summed over RGB."""
    while True:
        colour = (rng.uniform(30, 225), rng.uniform(30, 225), rng.uniform(30, 225))
        if all(
            sum(abs(c - float(o)) for c, o in zip(colour, other, strict=True)) >= _CONTRAST
            for other in others
        ):
            return colour


def make_shape(
    rng: RandomStream, label: int, size: float, x: float, y: float, colour: Colour
) -> Shape:
    """Return a shape at a random angle, under random light."""
    angle = rng.uniform(0, 2 * math.pi)
    shade = (rng.uniform(-12, 12), rng.uniform(-12, 12))
    return Shape(label, size, x, y, angle, colour, shade)


def shift_colour(colour: Colour, shift: float) -> Colour:
    """Return a colour with each of its channels changed by `shift` levels."""
    return (colour[0] + shift, colour[1] + shift, colour[2] + shift)


class Canvas:
    """The shapes of an image, each in front of those that were added before it.

    Attributes:
        size: side of the image, in pixels.
        shapes: back to front.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.shapes: list[Shape] = []
        # The shape at each sample; -1: none.
        self._owner = np.full((size * _SUB, size * _SUB), -1, dtype=np.int8)
        self._full: list[int] = []  # samples of each whole shape
        self._seen: list[int] = []  # visible samples of each shape

    def add(self, *shapes: Shape) -> bool:
        """Add shapes, if all lie inside the image and leave each shape at least 30 % visible.

        Returns:
            Whether the shapes were added: all of them or none.
        """
        owner, full, seen = self._owner.copy(), list(self._full), list(self._seen)
        for number, shape in enumerate(shapes, start=len(self.shapes)):
            radius = shape.size / 2
            low, high = radius, self.size - radius
            if not (low <= shape.x <= high and low <= shape.y <= high):
                return False
            rows, columns, inside = _rasterise(_make_outline(shape), self.size)
            covered = np.bincount(owner[rows, columns][inside] + 1, minlength=number + 1)[1:]
            seen = [n - int(c) for n, c in zip(seen, covered, strict=True)]
            owner[rows, columns][inside] = number
            full.append(int(inside.sum()))
            seen.append(full[-1])
        if any(n < MIN_VISIBLE * whole for n, whole in zip(seen, full, strict=True)):
            return False
        self.shapes += shapes
        self._owner, self._full, self._seen = owner, full, seen
        return True

    @property
    def visible(self) -> list[float]:
        """The visible share of each shape."""
        return [n / whole for n, whole in zip(self._seen, self._full, strict=True)]

    def count_samples(self, number: int) -> np.ndarray:
        """Return for each pixel how many of its 16 samples show a shape, (size, size) uint8.

        Args:
            number: the number of the shape; -1 is the background.
        """
        samples = self._owner == number
        rows = np.zeros((self.size, self.size * _SUB), dtype=np.uint8)
        counts = np.zeros((self.size, self.size), dtype=np.uint8)
        for i in range(_SUB):
            rows += samples[i::_SUB]
        for i in range(_SUB):
            counts += rows[:, i::_SUB]
        return counts


def render(
    rng: RandomStream, background: np.ndarray, canvas: Canvas
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return the image of a canvas and its annotations.

    Args:
        rng: draws the light and the noise.
        background: (3,), RGB.
        canvas: a canvas with at least one shape.

    Returns:
        The image, (size, size, 3) uint8 RGB, and its annotations in COCO format without ids:
        `category_id` from 1, `bbox` XYWH in pixels and compressed RLE `segmentation` of the visible
        part, `area`, `iscrowd`, and `visible`, the visible share of the whole shape.
    """
    size, shapes = canvas.size, canvas.shapes
    # (N + 1, size, size) samples per pixel; entry 0 is the background, entry i + 1 is shape i.
    counts = np.stack([canvas.count_samples(i) for i in range(-1, len(shapes))])
    grid = np.arange(size) + 0.5
    image = counts[0] * background[:, None, None]  # (3, size, size)
    for shape, count in zip(shapes, counts[1:], strict=True):
        light = (
            shape.shade[0] * ((grid - shape.x) / (shape.size / 2))[None, :]
            + shape.shade[1] * ((grid - shape.y) / (shape.size / 2))[:, None]
        )
        image += count * (np.array(shape.colour)[:, None, None] + light)
    image /= _SUB * _SUB
    ramp_x, ramp_y = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
    image *= 1.0 + ramp_x * (grid / size - 0.5)[None, :] + ramp_y * (grid / size - 0.5)[:, None]
    image = image.transpose(1, 2, 0) + 6.0 * rng.noise(size, size)
    pixels = np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)

    # A pixel belongs to the entry with most of its samples; ties go to the front.
    front = len(shapes) - np.argmax(counts[::-1], axis=0)
    annotations = []
    for i, (shape, visible) in enumerate(zip(shapes, canvas.visible, strict=True)):
        mask = front == i + 1
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        annotations.append(
            {
                "category_id": shape.label + 1,
                "bbox": [float(v) for v in box],
                "area": int(mask.sum()),
                "segmentation": encode_mask(mask),
                "iscrowd": 0,
                "visible": round(visible, 4),
            }
        )
    return pixels, annotations
