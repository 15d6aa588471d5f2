"""Where two RoIs of FCIS read the same one of their k x k parts.

FCIS (arXiv:1611.07709) divides each RoI into k x k parts and reads each part from its own score
maps. Two RoIs of one class therefore give a pixel the same scores exactly where the pixel lies in
the same part of both. Only there, one RoI can't call the pixel inside and the other outside.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["find_parts", "measure_part_share"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


def find_parts(low: float, high: float, k: int, pixels: slice) -> Ints:
    """Return the part that each pixel of a row or a column lies in, by the pixel's centre.

    Args:
        low: where the box begins in this direction, in pixels.
        high: where the box ends.
        k: parts in this direction.
        pixels: the columns, or the rows, to look at.

    Returns:
        (N,), 0 to k - 1; -1 for a pixel whose centre lies outside of the box.
    """
    centres = np.arange(pixels.start, pixels.stop) + 0.5
    inside = (centres >= low) & (centres < high)
    parts = np.floor((centres - low) * k / max(high - low, 1e-9)).astype(np.intp)
    return np.where(inside, np.clip(parts, 0, k - 1), -1)


def measure_part_share(first: Floats, second: Floats, k: int) -> tuple[float, float]:
    """Return the area that two boxes read from the same part, and their common area.

    Args:
        first: (4,), XYXY in pixels.
        second: (4,).
        k: parts of a RoI in each direction.
    """
    same = common = 1.0
    for low, high in ((0, 2), (1, 3)):
        steps = [np.linspace(box[low], box[high], k + 1) for box in (first, second)]
        starts = np.maximum(steps[0][:-1], steps[1][:-1])
        stops = np.minimum(steps[0][1:], steps[1][1:])
        same *= float(np.maximum(stops - starts, 0).sum())
        common *= max(0.0, min(first[high], second[high]) - max(first[low], second[low]))
    return same, common
