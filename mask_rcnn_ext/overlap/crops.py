"""Binary masks cut to their box, so that all masks of an image fit in memory together.

Coordinates are as in COCO boxes: x to the right, y down, in pixels. The pixel in column c and
row r covers c <= x <= c + 1, r <= y <= r + 1.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..arrays import Floats
from ..layers.mask_crops import MaskCrop
from ..layers.rle import decode_runs, read_runs

__all__ = ["CropCache", "decode_crop", "find_box_window"]


def decode_crop(rle: dict[str, Any]) -> MaskCrop:
    """Decode a compressed RLE of pycocotools to its tight box."""
    height, width = rle["size"]
    return MaskCrop(*decode_runs(read_runs(rle["counts"], height * width), height))


class CropCache:
    """Crops that are made on demand and kept as long as there is room.

    A hundred masks as large as a photo of 100 megapixels would take 10 GB.

    Args:
        make: returns the crop of an index.
        most_pixels: number of pixels to keep; the crops that were used last are kept.
    """

    def __init__(self, make: Callable[[int], MaskCrop], most_pixels: int = 1 << 28) -> None:
        self._make, self._most_pixels, self._num_pixels = make, most_pixels, 0
        self._kept: dict[int, MaskCrop] = {}  # the crop that was used last is the last

    def __getitem__(self, index: int | np.integer[Any]) -> MaskCrop:
        """Return a crop."""
        index = int(index)
        if index in self._kept:
            self._kept[index] = crop = self._kept.pop(index)
            return crop
        self._kept[index] = crop = self._make(index)
        self._num_pixels += crop.mask.size
        while len(self._kept) > 1 and self._num_pixels > self._most_pixels:
            self._num_pixels -= self._kept.pop(next(iter(self._kept))).mask.size
        return crop


def find_box_window(box: Floats, height: int, width: int) -> tuple[slice, slice]:
    """Return the rows and columns of the pixels whose centre lies in a box.

    Args:
        box: (4,) float64, XYXY in pixels; a centre on the left or upper side is inside, a centre
            on the right or lower side is not.
        height: the height of the image in pixels. The window is clipped to the image.
        width: the width of the image in pixels.
    """
    x1, y1, x2, y2 = np.clip(np.ceil(box - 0.5), 0, [width, height, width, height]).astype(int)
    return slice(int(y1), int(max(y1, y2))), slice(int(x1), int(max(x1, x2)))
