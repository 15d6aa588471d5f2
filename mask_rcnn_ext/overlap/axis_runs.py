"""Straight runs of a mask's contour that are parallel to the axes of the image.

Figure 6 of the Mask R-CNN paper (arXiv:1703.06870) shows lines of FCIS where objects overlap. FCIS
reads the k x k parts of a RoI from different score maps, so such lines are parallel to the axes and
lie between the parts. A straight run alone proves little, since every smooth contour has such runs.
So a mask is compared with rotated copies of itself. Its *axis length* is the length of contour in
runs parallel to an axis. The *axis excess* of a set of masks is their axis length divided by the
mean axis length of their rotated copies. It is 1 for masks that prefer no direction, whatever their
shape. These metrics are not the papers'.

A mask is a float array, such as a binary mask that is cut to its box.
"""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from ..arrays import Bools, Floats
from ..layers.mask_crops import MaskCrop
from .contours import trace_contour

__all__ = ["AxisRuns", "find_axis_runs", "measure_axis_lengths"]

_ANGLES = tuple(range(15, 76, 6))  # degrees, of the copies
_SMOOTHING = 0.02  # standard deviation, as a share of the side of the array; at least 1 px
_SHIFT = 0.21  # pixels; interpolation by this much smooths as much as a rotation does on average
_BAND = 1.0  # pixels
_SHARE, _LEAST = 0.12, 8  # of the mask's side; pixels. A part of FCIS's 7 x 7 is 0.143 of it


@dataclass(frozen=True)
class AxisRuns:
    """The pixel sides of a contour that belong to axis runs.

    Attributes:
        vertical: (N,) float64, x of each vertical side, in pixels of the array.
        horizontal: (M,), y of each horizontal side.
    """

    vertical: Floats = field(repr=False)
    horizontal: Floats = field(repr=False)

    @property
    def length(self) -> int:
        """In pixels."""
        return len(self.vertical) + len(self.horizontal)


def find_axis_runs(mask: Floats, *, threshold: float = 0.5, angle: float = 0.0) -> AxisRuns:
    """Return the axis runs of a mask that is smoothed and rotated.

    An axis run is a stretch of at least max(8, 0.12 s) pixel sides of the contour within a band of
    1 px parallel to an axis; s is the longer side of the mask's box before the rotation. Outside
    the array the values at its edge are repeated, and contour there does not count, since no model
    drew a line at the end of its RoI. So pad a mask that is surrounded by background.

    Args:
        mask: (h, w) float64, 0 to 1.
        threshold: a pixel belongs to the mask from this value on.
        angle: the angle of the rotation, in degrees.
    """
    size = np.array(mask.shape, dtype=np.float64)
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    back = np.array([[cosine, sine], [-sine, cosine]])  # (row, column) of the copy -> of the mask
    shape = np.ceil(np.abs(back.T) @ size).astype(int)
    offset = (size - 1) / 2 - back @ ((shape - 1) / 2) + _SHIFT
    smooth = ndimage.gaussian_filter(mask, max(_SMOOTHING * max(mask.shape), 1.0), mode="nearest")
    turned = ndimage.affine_transform(smooth, back, offset, tuple(shape), order=1, mode="nearest")
    inside = turned >= threshold
    found = np.argwhere(smooth >= threshold)
    if not len(found):
        return AxisRuns(np.zeros(0), np.zeros(0))
    side = int(np.ptp(found, axis=0).max()) + 1
    least = max(_LEAST, math.ceil(_SHARE * side))
    contour = trace_contour(MaskCrop(0, 0, inside), *inside.shape)
    places = (contour.points[:, ::-1] - 0.5) @ back.T + offset
    drawn = ~contour.frame & ((places > 0) & (places < size - 1)).all(axis=1)
    runs = []
    for axis in (0, 1):  # vertical runs keep their x, horizontal ones their y
        across = contour.points[:, axis]
        member = np.zeros(len(across), dtype=bool)
        for begin, end in itertools.pairwise(contour.loops):
            member[begin:end] = _find_members(across[begin:end], drawn[begin:end], least)
        runs.append(across[member & (contour.steps[:, axis] == 0)] + _SHIFT)
    return AxisRuns(*runs)


def _find_members(across: Floats, drawn: Bools, least: int) -> Bools:
    """Return (N,): which sides of a closed loop belong to a run parallel to one axis.

    Args:
        across: (N,), the coordinate of each side across the axis.
        drawn: (N,), which sides count.
        least: the least number of sides of a run.
    """
    count = len(across)
    if count < least:
        return np.zeros(count, dtype=bool)
    index = np.arange(count + least - 1) % count
    windows = sliding_window_view(across[index], least)
    held = sliding_window_view(drawn[index], least).all(axis=1)
    run = held & (windows.max(axis=1) - windows.min(axis=1) <= _BAND)
    covered = np.zeros(2 * count + 1, dtype=np.intp)
    covered[:count] += run
    covered[least : least + count] -= run
    depth = np.cumsum(covered)
    member: Bools = (depth[:count] > 0) | (depth[count : 2 * count] > 0)
    return member


def measure_axis_lengths(mask: Floats, *, threshold: float = 0.5) -> tuple[AxisRuns, float]:
    """Return the axis runs of a mask, and the mean axis length of its rotated copies, in pixels.

    The copies are rotated by 15 to 75 degrees and smoothed like the mask.

    Args:
        mask: see `find_axis_runs`.
        threshold: a pixel belongs to the mask from this value on.
    """
    copies = [find_axis_runs(mask, threshold=threshold, angle=angle).length for angle in _ANGLES]
    return find_axis_runs(mask, threshold=threshold), float(np.mean(copies))
