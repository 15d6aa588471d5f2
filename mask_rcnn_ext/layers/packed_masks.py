"""The masks of one image, stored as the runs of their pixels inside their boxes.

One hundred masks of a photo of 24 megapixels are 2.4 GB as bool. A mask of one object has a few
runs in each column of its box, and only the ends of these runs are stored here.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .mask_crops import MaskCrop, paste_crops
from .rle import encode_edges, fill_edges, find_edges
from .soft_masks import SoftMasks

__all__ = ["MaskCrop", "PackedMasks"]


class PackedMasks:
    """N masks of an image of (H, W). Iterate over it to get each mask's `MaskCrop`.

    Attributes:
        shape: (N, H, W).
        soft: the probabilities of the same masks; None if they are not known.
    """

    soft: SoftMasks | None = None

    def __init__(self, size: tuple[int, int], crops: Iterable[MaskCrop]) -> None:
        """Pack the crops one by one; `size` is (H, W)."""
        self._parts = [
            (crop.top, crop.left, crop.mask.shape, find_edges(crop.mask.T)) for crop in crops
        ]
        self.shape = (len(self._parts), *size)

    @classmethod
    def paste(
        cls, probs: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float
    ) -> "PackedMasks":
        """Paste the masks of RoIs, see `paste_crops`, and keep their probabilities."""
        packed = cls(size, paste_crops(probs, boxes, size, threshold))
        packed.soft = SoftMasks.keep(probs, boxes, size)
        return packed

    @classmethod
    def pack(cls, masks: Tensor | npt.NDArray[np.bool_]) -> "PackedMasks":
        """Pack masks (N, H, W) bool."""
        height, width = masks.shape[1:]
        return cls((height, width), (MaskCrop(0, 0, np.asarray(mask)).trim() for mask in masks))

    @classmethod
    def join(cls, size: tuple[int, int], parts: Sequence["PackedMasks"]) -> "PackedMasks":
        """Return the masks of all parts, one after the other, in an image of (H, W)."""
        joined = cls(size, ())
        joined._parts = [mask for part in parts for mask in part._parts]
        joined.shape = (len(joined), *size)
        soft = [part.soft for part in parts if part.soft is not None]
        joined.soft = SoftMasks.join(soft) if len(soft) == len(parts) else None
        return joined

    def move(self, top: int, left: int, size: tuple[int, int]) -> "PackedMasks":
        """Return the masks in an image (H, W) in which this image begins at `top` and `left`."""
        moved = PackedMasks(size, ())
        moved._parts = [
            (row + top, column + left, shape, edges) for row, column, shape, edges in self._parts
        ]
        moved.shape = (len(moved), *size)
        moved.soft = None if self.soft is None else self.soft.move(top, left)
        return moved

    def cut(self, rows: slice, columns: slice) -> "PackedMasks":
        """Return the masks in a part of the image; the rows and columns have a start and a stop."""
        size = (rows.stop - rows.start, columns.stop - columns.start)
        return PackedMasks(size, (_cut(crop, rows, columns) for crop in self))

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, item: Any) -> "PackedMasks":
        """Return some of the masks; `item` is a slice, indices, or (N,) bool, of any library."""
        kept = PackedMasks(self.shape[1:], ())
        chosen = item if isinstance(item, slice) else np.asarray(torch.as_tensor(item).cpu())
        indices = np.arange(len(self))[chosen].tolist()
        kept._parts = [self._parts[index] for index in indices]
        kept.shape = (len(kept), *self.shape[1:])
        kept.soft = None if self.soft is None else self.soft.select(indices)
        return kept

    def __iter__(self) -> Iterator[MaskCrop]:
        for top, left, (height, width), edges in self._parts:
            yield MaskCrop(top, left, fill_edges(edges, width, height).T)

    def encode(self) -> list[dict[str, Any]]:
        """Return each mask as pycocotools' compressed RLE of the image, with counts as bytes."""
        return [
            encode_edges(edges, shape[0], top, left, *self.shape[1:])
            for top, left, shape, edges in self._parts
        ]

    def unpack(self) -> Tensor:
        """Return the masks as (N, H, W) bool, on the CPU."""
        masks = torch.zeros(self.shape, dtype=torch.bool)
        for full, crop in zip(masks.numpy(), self, strict=True):
            full[crop.rows, crop.columns] = crop.mask
        return masks


def _cut(crop: MaskCrop, rows: slice, columns: slice) -> MaskCrop:
    """Return a crop in a part of its image, cut to this part."""
    top, bottom = np.clip([crop.rows.start, crop.rows.stop], rows.start, rows.stop).tolist()
    left, right = np.clip(
        [crop.columns.start, crop.columns.stop], columns.start, columns.stop
    ).tolist()
    mask = crop.cut(slice(top, bottom), slice(left, right))
    return MaskCrop(top - rows.start, left - columns.start, mask)
