"""The outlines of a mask as polygons with holes, along the sides of its pixels."""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .cracks import Ints, join_loops, trace_loops

__all__ = ["measure_ring", "trace_coco_polygons", "trace_polygons"]


def trace_polygons(mask: npt.NDArray[np.bool_]) -> list[list[Ints]]:
    """Return the parts of a mask (h, w) as polygons: the outer ring, then the rings of its holes.

    Pixels that share a side belong to one part. No ring meets itself, so the polygons are valid for
    geographic software; two rings may touch at a corner. A ring is (M, 2), the corners x, y where
    it turns, M >= 4; the first is not repeated at the end. Pixel (x, y) lies between the corners
    (x, y) and (x + 1, y + 1). The area of `measure_ring` is positive for outer rings and negative
    for holes.
    """
    labels, count = ndimage.label(mask)
    polygons: list[list[Ints]] = [[] for _ in range(count)]
    for loop in trace_loops(mask, join_corners=False):
        for ring in _split_at_touches(loop):
            polygons[labels[_find_pixel(ring)] - 1].append(ring)
    # Only one ring of a part, the outer ring, has a positive area.
    return [sorted(rings, key=measure_ring, reverse=True) for rings in polygons]


def _find_pixel(ring: Ints) -> tuple[int, int]:
    """Return the row and column of the pixel on the right hand of the first side of a ring."""
    (x, y), (next_x, next_y) = ring[:2].tolist()
    return y - (next_x < x or next_y < y), x - (next_x < x or next_y > y)


def _split_at_touches(loop: Ints) -> list[Ints]:
    """Return the rings of a loop that visits some corners twice."""
    rings: list[Ints] = []
    walked: list[tuple[int, int]] = []
    places: dict[tuple[int, int], int] = {}
    for x, y in loop.tolist():
        if (start := places.get((x, y))) is not None:
            rings.append(_drop_straight(np.array(walked[start:])))
            for corner in walked[start:]:
                del places[corner]
            del walked[start:]
        places[x, y] = len(walked)
        walked.append((x, y))
    rings.append(_drop_straight(np.array(walked)))
    return rings


def _drop_straight(ring: Ints) -> Ints:
    """Return a ring without the corners in which it does not turn."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    kept: Ints = ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
    return kept


def measure_ring(ring: npt.NDArray[np.number]) -> float:
    """Return the area of a ring (M, 2) of x, y: positive if it turns from the x to the y axis."""
    x, y = ring.T.astype(np.float64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def trace_coco_polygons(mask: npt.NDArray[np.bool_], top: int, left: int) -> list[list[float]]:
    """Return the parts of a mask as COCO's polygons x, y, x, y, ...; pycocotools draws its pixels.

    COCO has no holes. The outline of a part runs to each hole, around the hole, and back.

    Args:
        mask: (h, w).
        top: the row of the image in which the mask begins.
        left: the column of the image in which the mask begins.
    """
    parts = [join_loops([ring.astype(float) for ring in rings]) for rings in trace_polygons(mask)]
    return [(part + np.array([left, top])).ravel().tolist() for part in parts]
