"""The probabilities of masks inside their boxes, rendered one mask at a time."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from detectron2.layers.mask_ops import _do_paste_mask
from torch import Tensor

__all__ = ["SoftCrop", "SoftMasks"]

Levels = npt.NDArray[np.uint8]


class SoftCrop(NamedTuple):
    """Probabilities in an image: `levels` (h, w) uint8, 255 for a probability of 1.

    The crop begins at the row `top` and the column `left`; outside the crop the probability is 0. A
    level of 128 or more is a probability of 0.5 or more. For another threshold t, levels above
    round(255 * t) are at least t, levels below are less, and this level itself may be either.
    """

    top: int
    left: int
    levels: Levels


class _Values(NamedTuple):
    """A mask (M, M) as the model gave it, and its box, in an image of `size` (H, W)."""

    probs: Tensor
    box: Tensor
    size: tuple[int, int]

    def render(self) -> SoftCrop:
        low, high = self.box[:2], self.box[2:]
        inside = (low < torch.tensor(self.size[::-1])).all() and (high > 0).all()
        if not torch.isfinite(self.box).all() or not inside:
            return SoftCrop(0, 0, np.zeros((0, 0), dtype=np.uint8))
        # detectron2's pasting: at the threshold 0.5, levels of 128 or more are exactly the mask.
        masks, boxes = self.probs[None, None].float(), self.box[None]
        pasted, (rows, columns) = _do_paste_mask(masks, boxes, *self.size)
        levels = (pasted[0] * 255).round().to(torch.uint8).numpy()
        return SoftCrop(int(rows.start), int(columns.start), levels)


class _Compressed(NamedTuple):
    """A rendered mask; it takes about a tenth of its pixels."""

    top: int
    left: int
    shape: tuple[int, ...]
    data: bytes

    def render(self) -> SoftCrop:
        levels = np.frombuffer(zlib.decompress(self.data), dtype=np.uint8)
        return SoftCrop(self.top, self.left, levels.reshape(self.shape))


class _Moved(NamedTuple):
    """A mask of a tile that begins at the row `top` and the column `left` of a larger image."""

    mask: _Values | _Compressed
    top: int
    left: int

    def render(self) -> SoftCrop:
        top, left, levels = self.mask.render()
        return SoftCrop(top + self.top, left + self.left, levels)


class SoftMasks:
    """N soft masks. Iterate over it to get each mask's `SoftCrop`."""

    def __init__(self, masks: Iterable[_Values | _Compressed | _Moved] = ()) -> None:
        self._masks = list(masks)

    @classmethod
    def keep(cls, probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> "SoftMasks":
        """Keep masks (N, M, M) and their boxes (N, 4) XYXY_ABS in an image of (H, W)."""
        pairs = zip(probs.detach().cpu(), boxes.detach().cpu(), strict=True)
        return cls(_Values(*pair, (int(size[0]), int(size[1]))) for pair in pairs)

    @classmethod
    def compress(cls, crops: Iterable[SoftCrop]) -> "SoftMasks":
        """Keep rendered masks."""
        return cls(
            _Compressed(top, left, levels.shape, zlib.compress(levels.tobytes(), level=1))
            for top, left, levels in crops
        )

    @classmethod
    def join(cls, parts: Iterable["SoftMasks"]) -> "SoftMasks":
        """Return the masks of all parts, one after the other."""
        return cls(mask for part in parts for mask in part._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __iter__(self) -> Iterator[SoftCrop]:
        return (mask.render() for mask in self._masks)

    def select(self, indices: Sequence[int]) -> "SoftMasks":
        """Return some of the masks, in the order of `indices`."""
        return SoftMasks(self._masks[index] for index in indices)

    def move(self, top: int, left: int) -> "SoftMasks":
        """Return the masks in a larger image in which this image begins at `top` and `left`."""
        return SoftMasks(_Moved(mask, top, left) for mask in self._masks)  # type: ignore[arg-type]
