"""Masks of a smaller image, with the same pixels as OpenCV makes of the whole masks.

OpenCV's INTER_AREA averages the pixels below each new pixel. It would need an image for each mask;
here only the box of a mask is averaged, with the same weights, in the same order and in float32.
"""

from functools import lru_cache

import numpy as np

from ..arrays import Bools, Floats32, Ints
from .mask_crops import MaskCrop

__all__ = ["shrink_crop"]

_LEAST_SHARE = 1e-3  # of a pixel; OpenCV leaves out smaller shares of the pixels at an edge


def shrink_crop(crop: MaskCrop, size: tuple[int, int], new_size: tuple[int, int]) -> MaskCrop:
    """Return a mask in a smaller image: the pixels of which it covers half or more.

    Args:
        crop: the mask in an image of `size`.
        size: (H, W).
        new_size: (H', W'), on neither side larger than `size`.
    """
    if new_size == size or not crop.mask.size:
        return crop
    exact = all(old % new == 0 for old, new in zip(size, new_size, strict=True))
    top, row_places, row_weights = _find_cells(crop.rows, size[0], new_size[0])
    left, column_places, column_weights = _find_cells(crop.columns, size[1], new_size[1])
    if exact:  # OpenCV counts the pixels first, and divides once
        row_weights, column_weights = np.sign(row_weights), np.sign(column_weights)
    first, last = int(column_places.min()), int(column_places.max())
    source = crop.cut(slice(row_places.min(), row_places.max() + 1), slice(first, last + 1))
    narrow = _average(source.T, column_places - first, column_weights).T
    small = _average(narrow, row_places - row_places.min(), row_weights)
    if exact:
        small *= np.float32(1) / np.float32(size[0] // new_size[0] * (size[1] // new_size[1]))
    return MaskCrop(top, left, small >= 0.5).trim()


def _find_cells(part: slice, size: int, new_size: int) -> tuple[int, Ints, Floats32]:
    """Return the first new pixel that a part of an axis reaches, and `_lay_cells` from there on."""
    places, weights = _lay_cells(size, new_size)
    begin = max(0, part.start * new_size // size - 1)
    end = min(new_size, -(-part.stop * new_size // size) + 1)
    return begin, places[begin:end], weights[begin:end]


@lru_cache(maxsize=8)
def _lay_cells(size: int, new_size: int) -> tuple[Ints, Floats32]:
    """Return the pixels (n, K) of an axis that are averaged to each new pixel, and their weights.

    Pixels with the weight 0 may lie outside the image.
    """
    scale = 1 / (new_size / size)
    low = np.arange(new_size) * scale
    high = low + scale
    side = np.minimum(scale, size - low)  # of a new pixel
    last = np.minimum(np.floor(high), size - 1)
    first = np.minimum(np.ceil(low), last)
    places = (first - 1).astype(np.intp)[:, None] + np.arange(int((last - first).max()) + 2)
    inside = (places >= first[:, None]) & (places < last[:, None])
    weights = np.where(inside, 1 / side[:, None], 0)
    before, after = first - low, high - last
    weights[:, 0] = np.where(before > _LEAST_SHARE, before / side, 0)
    place = (last - first).astype(np.intp)[:, None] + 1
    rest = np.where(after > _LEAST_SHARE, np.minimum(np.minimum(after, 1), side) / side, 0)
    np.put_along_axis(weights, place, rest[:, None], axis=1)
    return places, weights.astype(np.float32)


def _average(values: Bools | Floats32, places: Ints, weights: Floats32) -> Floats32:
    """Return the weighted sums (n, w) of the rows `places` (n, K) of `values` (h, w)."""
    sums = np.zeros((len(places), values.shape[1]), dtype=np.float32)
    for place, weight in zip(places.T, weights.T, strict=True):
        sums += values[place] * weight[:, None]
    return sums
