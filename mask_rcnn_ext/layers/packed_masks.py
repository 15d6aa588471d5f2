"""The masks of one image, kept inside their boxes with one bit for each pixel.

One hundred masks of a photo of 24 megapixels are 2.4 GB as bool. Most of each mask is empty; only
the part inside its box is kept here, and eight pixels share a byte.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from detectron2.layers.mask_ops import _do_paste_mask
from torch import Tensor

__all__ = ["MaskCrop", "PackedMasks"]

BoolArray = npt.NDArray[np.bool_]


class MaskCrop(NamedTuple):
    """A mask in an image: `mask` (h, w) bool begins at the row `top` and the column `left`."""

    top: int
    left: int
    mask: BoolArray

    @classmethod
    def cut(cls, full: BoolArray) -> "MaskCrop":
        """Cut a mask (H, W) out of its image: the smallest crop with all its pixels."""
        rows, columns = (np.flatnonzero(full.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return cls(0, 0, np.zeros((0, 0), dtype=bool))
        window = full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return cls(int(rows[0]), int(columns[0]), window)


class PackedMasks:
    """N masks of an image of (H, W). Iterate over it to get each mask's `MaskCrop`.

    Attributes:
        shape: (N, H, W).
    """

    def __init__(self, size: tuple[int, int], crops: Iterator[MaskCrop]) -> None:
        """Pack the crops one by one; `size` is (H, W)."""
        self._parts = [
            (crop.top, crop.left, crop.mask.shape, np.packbits(crop.mask)) for crop in crops
        ]
        self.shape = (len(self._parts), *size)

    @classmethod
    def paste(
        cls, probs: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float
    ) -> "PackedMasks":
        """Paste the masks of RoIs, one at a time, to the same pixels as `paste_masks_in_image`.

        Args:
            probs: (N, M, M), probabilities.
            boxes: (N, 4), XYXY_ABS, inside the image and not empty.
            size: (H, W) of the image.
            threshold: a pixel belongs to a mask from this probability on.
        """

        def paste_one(index: int) -> MaskCrop:
            one = slice(index, index + 1)
            pasted, (rows, columns) = _do_paste_mask(probs[one, None], boxes[one], *size)
            mask = (pasted[0] >= threshold).cpu().numpy()
            return MaskCrop(int(rows.start), int(columns.start), mask)

        return cls(size, map(paste_one, range(len(probs))))

    @classmethod
    def pack(cls, masks: Tensor | BoolArray) -> "PackedMasks":
        """Pack masks (N, H, W) bool."""
        height, width = masks.shape[1:]
        return cls((height, width), (MaskCrop.cut(np.asarray(mask)) for mask in masks))

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[MaskCrop]:
        for top, left, shape, packed in self._parts:
            bits = np.unpackbits(packed, count=shape[0] * shape[1])
            yield MaskCrop(top, left, bits.reshape(shape).astype(bool))

    def unpack(self) -> Tensor:
        """Return the masks as (N, H, W) bool, on the CPU."""
        masks = torch.zeros(self.shape, dtype=torch.bool)
        for full, (top, left, mask) in zip(masks.numpy(), self, strict=True):
            full[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
        return masks
