"""Draws the images of the embedded data set `nested_shapes`, made for a question about FCIS.

Two RoIs of FCIS (arXiv:1611.07709) contradict each other at a pixel only if both read the same part
of the k x k parts of the same class there. This is rare for objects side by side and common for
nested objects, so every image has pairs of both kinds:

- a *nested* pair: the smaller shape is in front, its size is 0.4 to 0.65 of the larger one's, and
  the centres are at most 0.08 of the larger size apart;
- where there is room, a *shifted* pair as a control: the centres are 0.35 to 0.75 of the mean size
  apart;
- where there is room, a single shape.

Half of the pairs of each kind have one class, half have two. Half have colours that differ clearly,
half have similar ones. Images are 224 x 224 pixels, shapes are 40 to 150 pixels large, and the
classes are the same as in `occluded_shapes`. Annotations are the visible parts.

The data set was fixed before any model was trained on it, and is never tuned towards a result.
"""

import math

import numpy as np

from .shape_drawing import (
    CLASSES,
    Canvas,
    RandomStream,
    Shape,
    draw_colour,
    make_shape,
    shift_colour,
)

__all__ = ["SIZE", "compose"]

SIZE = 224  # pixels, both sides
Measures = tuple[float, float, float]  # of a pair, pixels: both sizes, the distance of the centres

_SMALLEST = 40.0  # pixels, of every shape
_OUTER = (70.0, 150.0)  # pixels, the larger shape of a nested pair
_RATIO, _OFFSET = (0.4, 0.65), 0.08  # smaller size / larger size; offset / larger size
_FIRST = (_SMALLEST, 80.0)  # pixels, a single shape and the first shape of a shifted pair
_SHIFT = (0.35, 0.75)  # offset / mean size, of a shifted pair
_SIMILAR = (12.0, 24.0)  # levels of each channel between similar colours; the noise has 6
_TRIES = 300  # for a shifted pair and for a single shape


def compose(rng: RandomStream, background: np.ndarray, number: int) -> Canvas:
    """Place the shapes of an image.

    The number of the image decides which pairs have one class and which have similar colours: 16
    images in a row have each combination equally often.
    """
    canvas = Canvas(SIZE)
    one_class, similar = number % 2 == 0, number // 2 % 2 == 0
    while not canvas.add(*_propose_pair(rng, background, _draw_nested(rng), one_class, similar)):
        pass
    outer = canvas.shapes[0]
    one_class, similar = number // 4 % 2 == 0, number // 8 % 2 == 0
    for _ in range(_TRIES):
        pair = _propose_pair(rng, background, _draw_shifted(rng), one_class, similar)
        if _lie_apart(pair, [outer]) and canvas.add(*pair):
            break
    for _ in range(_TRIES):
        label = rng.integer(0, len(CLASSES) - 1)
        size, place = rng.uniform(*_FIRST), _draw_place(rng)
        shape = make_shape(rng, label, size, *place, draw_colour(rng, background))
        if _lie_apart([shape], [outer, *canvas.shapes[2:]]) and canvas.add(shape):
            break
    return canvas


def _lie_apart(shapes: list[Shape], others: list[Shape]) -> bool:
    """Return whether no circle around a shape meets a circle around one of the others."""
    return all(
        math.hypot(a.x - b.x, a.y - b.y) >= (a.size + b.size) / 2 for a in shapes for b in others
    )


def _draw_place(rng: RandomStream) -> tuple[float, float]:
    return rng.uniform(0, SIZE), rng.uniform(0, SIZE)


def _draw_nested(rng: RandomStream) -> Measures:
    size = rng.uniform(*_OUTER)
    inner = size * rng.uniform(max(_RATIO[0], _SMALLEST / size), _RATIO[1])
    return size, inner, size * _OFFSET * rng.uniform()


def _draw_shifted(rng: RandomStream) -> Measures:
    size = rng.uniform(*_FIRST)
    other = max(_SMALLEST, size * rng.uniform(0.7, 1.3))
    return size, other, (size + other) / 2 * rng.uniform(*_SHIFT)


def _propose_pair(
    rng: RandomStream, background: np.ndarray, measures: Measures, one_class: bool, similar: bool
) -> list[Shape]:
    """Propose two shapes, the second one in front."""
    size, other_size, distance = measures
    label = rng.integer(0, len(CLASSES) - 1)
    step = 0 if one_class else rng.integer(1, len(CLASSES) - 1)
    x, y = _draw_place(rng)
    direction = rng.uniform(0, 2 * math.pi)
    there = x + distance * math.cos(direction), y + distance * math.sin(direction)
    colour = draw_colour(rng, background)
    if similar:
        shift = rng.uniform(*_SIMILAR)
        other = shift_colour(colour, shift if rng.uniform() < 0.5 else -shift)
    else:
        other = draw_colour(rng, background, colour)
    second = (label + step) % len(CLASSES)
    return [
        make_shape(rng, label, size, x, y, colour),
        make_shape(rng, second, other_size, *there, other),
    ]
