"""The probabilities of masks inside their boxes, rendered one mask at a time."""

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from detectron2.layers.mask_ops import _do_paste_mask
from torch import Tensor

__all__ = ["SoftCrop", "SoftMasks"]

Levels = npt.NDArray[np.uint8]


class SoftCrop(NamedTuple):
    """Probabilities in an image: `levels` (h, w) uint8, 255 for a probability of 1.

    The crop begins at the row `top` and the column `left`; outside of it the probability is 0. A
    level of 128 or more is a probability of 0.5 or more.
    """

    top: int
    left: int
    levels: Levels


class SoftMasks:
    """N soft masks of an image of (H, W). Iterate over it to get each mask's `SoftCrop`.

    A mask is kept as the values that the model gave it and its box, or as a compressed crop.
    """

    def __init__(self, size: tuple[int, int], parts: Sequence[Any] = ()) -> None:
        self._size, self._parts = size, list(parts)

    @classmethod
    def keep(cls, probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> "SoftMasks":
        """Keep masks (N, M, M) and their boxes (N, 4) XYXY_ABS, to be rendered later."""
        pairs = zip(probs.detach().cpu(), boxes.detach().cpu(), strict=True)
        return cls(size, list(pairs))

    @classmethod
    def compress(cls, size: tuple[int, int], crops: Sequence[SoftCrop]) -> "SoftMasks":
        """Keep rendered masks; they take about a tenth of their pixels."""
        packed = []
        for top, left, levels in crops:
            packed.append((top, left, levels.shape, zlib.compress(levels.tobytes(), level=1)))
        return cls(size, packed)

    def __len__(self) -> int:
        return len(self._parts)

    def select(self, indices: Sequence[int]) -> "SoftMasks":
        """Return some of the masks, in the order of `indices`."""
        return SoftMasks(self._size, [self._parts[index] for index in indices])

    def __iter__(self) -> Iterator[SoftCrop]:
        for part in self._parts:
            if len(part) == 2:
                yield self._render(*part)
            else:
                top, left, shape, data = part
                levels = np.frombuffer(zlib.decompress(data), dtype=np.uint8).reshape(shape)
                yield SoftCrop(top, left, levels)

    def _render(self, probs: Tensor, box: Tensor) -> SoftCrop:
        # detectron2's pasting: rounded at one half, the levels are the mask to the pixel.
        low, high = box[:2], box[2:]
        if not torch.isfinite(box).all() or (low >= torch.tensor(self._size[::-1])).any():
            return SoftCrop(0, 0, np.zeros((0, 0), dtype=np.uint8))
        if (high <= 0).any():
            return SoftCrop(0, 0, np.zeros((0, 0), dtype=np.uint8))
        pasted, (rows, columns) = _do_paste_mask(probs[None, None].float(), box[None], *self._size)
        levels = (pasted[0] * 255).round().to(torch.uint8).numpy()
        return SoftCrop(int(rows.start), int(columns.start), levels)
