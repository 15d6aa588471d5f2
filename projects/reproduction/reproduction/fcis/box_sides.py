"""Contour of a mask where the masks that voted for it end at their boxes.

In FCIS's mask voting, the mask of each RoI is made binary before the average is taken. Where a
mask still reaches the side of its box, the sum of the votes has a step along this side.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mask_rcnn_ext.arrays import Floats
from mask_rcnn_ext.layers.mask_crops import MaskCrop
from mask_rcnn_ext.overlap.contours import find_near_points, trace_contour

__all__ = ["BoxEnds", "SideLengths", "find_box_ends", "measure_box_sides"]

_NEAR = 1.0  # pixels from a side of a box
_FAR = 2.0  # pixels from the contours of all objects


@dataclass(frozen=True)
class BoxEnds:
    """Where a mask ends at the sides of its box: midpoints of pixel sides, x and y.

    Attributes:
        vertical: (N, 2).
        horizontal: (M, 2).
    """

    vertical: Floats = field(repr=False)
    horizontal: Floats = field(repr=False)


@dataclass(frozen=True)
class SideLengths:
    """Lengths of a contour, in pixel sides. Those on the image's frame do not count.

    Attributes:
        length: the length of the whole contour.
        on_sides: within 1 px of a piece of a voter's box side that the voter's mask reaches, and
            parallel to it.
        wrong: farther than 2 px from the contours of all objects.
        wrong_on_sides: both.
    """

    length: int = 0
    on_sides: int = 0
    wrong: int = 0
    wrong_on_sides: int = 0


def find_box_ends(mask: MaskCrop, height: int, width: int) -> BoxEnds:
    """Return where a mask ends at the sides of its box, but not at the image's frame.

    Args:
        mask: its array is the part of the box that lies in the image.
        height: the height of the image.
        width: the width of the image.
    """
    contour = trace_contour(mask, height, width)
    ends = []
    for axis, span in enumerate((mask.columns, mask.rows)):
        across = contour.points[:, axis]
        on_side = (across == span.start) | (across == span.stop)
        ends.append(contour.points[on_side & (contour.steps[:, axis] == 0) & ~contour.frame])
    return BoxEnds(*ends)


def measure_box_sides(
    mask: MaskCrop, ends: Sequence[BoxEnds], objects: Floats, height: int, width: int
) -> SideLengths:
    """Return how much of a mask's contour lies where a voter's mask ends at its box.

    Args:
        mask: the mask of a detection.
        ends: the ends of each voter's mask.
        objects: (M, 2), the contours of all objects of the image.
        height: the height of the image.
        width: the width of the image.
    """
    contour = trace_contour(mask, height, width)
    points, steps = contour.points[~contour.frame], contour.steps[~contour.frame]
    near = np.zeros(len(points), dtype=bool)
    for axis, name in enumerate(("vertical", "horizontal")):
        targets = np.concatenate([np.zeros((0, 2)), *(getattr(end, name) for end in ends)])
        parallel = steps[:, axis] == 0
        near[parallel] = find_near_points(points[parallel], targets, _NEAR)
    wrong = ~find_near_points(points, objects, _FAR)
    return SideLengths(
        *(int(np.count_nonzero(w)) for w in (points[:, 0] >= 0, near, wrong, near & wrong))
    )
