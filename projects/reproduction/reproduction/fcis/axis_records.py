"""The axis runs of soft masks, image by image, and where in their RoIs they lie.

A soft mask lies on the P x P grid of its RoI. It is rendered at 8 times this grid before its axis
runs are measured, so that the size of the object in the image plays no role.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from mask_rcnn_ext.arrays import Floats
from mask_rcnn_ext.overlap.axis_runs import measure_axis_lengths
from mask_rcnn_ext.overlap.intervals import bootstrap_ratio

__all__ = ["PLACES", "AxisRecord", "draw_axis_runs", "measure_axis_runs", "render_soft_mask"]

PLACES = 84  # of an `AxisRecord`: four for each of 21 cells
_CELLS = 21
_SCALE = 8  # pixels of a rendered mask per cell of its grid


def render_soft_mask(probabilities: Floats) -> Floats:
    """Return a soft mask at 8 times its grid, by cubic interpolation between cell centres.

    Bilinear interpolation would draw facets that are parallel to the axes.

    Args:
        probabilities: (P, P), 0 to 1. Outside of the outermost centres, the nearest one counts, as
            the cells of a RoI reach to its sides.

    Returns:
        (8 P, 8 P) float64.
    """
    side = probabilities.shape[0] * _SCALE
    places = (np.arange(side) + 0.5) / _SCALE - 0.5
    grid = np.meshgrid(places, places, indexing="ij")
    rendered: Floats = ndimage.map_coordinates(probabilities, grid, order=3, mode="nearest")
    return rendered


@dataclass(frozen=True)
class AxisRecord:
    """The axis runs of one image's soft masks: the unit of the bootstrap.

    Attributes:
        image_id: of the data set.
        length: axis length of all masks, in pixels of the rendered masks.
        rotated: mean axis length of the rotated copies.
        places: (84,), how much of the length lies at each place of the RoI, in 84ths of its side;
            both axes together.
    """

    image_id: Any
    length: float
    rotated: float
    places: list[int] = field(repr=False)


def measure_axis_runs(image_id: Any, soft_masks: Floats, *, threshold: float) -> AxisRecord:
    """Return the axis runs of the soft masks of an image.

    Args:
        image_id: of the data set.
        soft_masks: (R, P, P) float64, 0 to 1, each on the grid of its RoI.
        threshold: a pixel belongs to a mask from this value on.
    """
    places = np.zeros(PLACES, dtype=np.intp)
    length = rotated = 0.0
    for soft in soft_masks:
        rendered = render_soft_mask(soft)
        runs, copies = measure_axis_lengths(rendered, threshold=threshold)
        shares = np.concatenate([runs.vertical, runs.horizontal]) / len(rendered)
        places += np.histogram(shares, bins=PLACES, range=(0.0, 1.0))[0]
        length, rotated = length + runs.length, rotated + copies
    return AxisRecord(image_id, length, rotated, places.tolist())


def draw_axis_runs(
    trainings: Sequence[Sequence[AxisRecord]],
    *,
    draws: int = 1000,
    model: int = 0,
) -> dict[str, Floats]:
    """Return the axis excess, and how strongly runs prefer lattice lines, in each draw too.

    Args:
        trainings: the records of each training of a model, from `measure_axis_runs`, of the same
            images.
        draws: of the bootstrap over images and trainings, see `bootstrap_ratio`.
        model: see `bootstrap_ratio`.

    Returns:
        "excess", see `overlap.axis_runs`, and "lines_7" and "lines_3" -> (1 + draws,).
        "lines_k" is the length within a quarter of a cell of the lines g / k of the RoI's side, per
        line, divided by the same at the sides of the 21 x 21 cells that are lines of neither k = 7
        nor k = 3. It is 1 for runs that do not prefer the lines. The first and the last side of a
        cell do not count, because objects end there. A number that would need a division by
        0 is NaN or infinite, see `bootstrap_ratio`.
    """
    cells = np.arange(2, _CELLS - 1)
    places = np.array([[record.places for record in records] for records in trainings])
    # Sides of cells are every fourth border of the 84 places: half a place on both sides counts.
    near = places[..., cells * 4 - 1] + places[..., cells * 4]
    own = {k: cells % (_CELLS // k) == 0 for k in (7, 3)}
    control = ~(own[7] | own[3])
    length, rotated = (
        np.array([[getattr(record, name) for record in records] for records in trainings])
        for name in ("length", "rotated")
    )
    pairs = {
        "excess": (length, rotated),
        **{
            f"lines_{k}": (near[..., on].mean(-1), near[..., control].mean(-1))
            for k, on in own.items()
        },
    }
    return {
        name: bootstrap_ratio(over, under, draws=draws, seed=0, model=model)
        for name, (over, under) in pairs.items()
    }
