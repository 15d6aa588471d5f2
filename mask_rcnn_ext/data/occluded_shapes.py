"""Draws the images of the embedded data set `occluded_shapes`.

Every image is 160 x 160 pixels and holds 2 to 6 shapes of five classes. Shapes overlap, often with
a shape of the same class or colour. Then only outlines separate the instances. One class has a
hole. An instance that is less than 30 % visible is not drawn. Annotations are the visible parts.

The difficulty is fixed: it belongs to the version of the data set and is never tuned towards a
result.
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

SIZE = 160  # pixels, both sides

_SMALL, _SPLIT, _LARGE = 16.0, 32.0, 90.0  # pixels; a third of the sizes lies under _SPLIT


def compose(rng: RandomStream, background: np.ndarray, number: int) -> Canvas:
    """Place the shapes of an image; `number` is that of the image, which does not matter here."""
    wanted = rng.integer(2, 6)
    canvas = Canvas(SIZE)
    for _ in range(200):
        if len(canvas.shapes) == wanted:
            break
        canvas.add(_propose_shape(rng, canvas.shapes, background))
    return canvas


def _propose_shape(rng: RandomStream, placed: list[Shape], background: np.ndarray) -> Shape:
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
        x = partner.x + distance * math.cos(direction)
        y = partner.y + distance * math.sin(direction)
        same = rng.uniform() < 0.5
        label = partner.label if same else rng.integer(0, len(CLASSES) - 1)
        shared = rng.uniform() < 0.4
    colour = partner.colour if partner and shared else draw_colour(rng, background)
    shift = rng.uniform(-10, 10)  # neighbours of the same colour still differ a little
    return make_shape(rng, label, size, x, y, shift_colour(colour, shift))
