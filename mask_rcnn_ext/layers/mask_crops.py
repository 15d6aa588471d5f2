"""Masks cut out of their images; pasting with the same pixels as in detectron2.

detectron2's `paste_masks_in_image` samples every pixel of a box, and writes each mask to an image
of its own. Most pixels lie between four values of the mask that are all above the threshold or all
below. Such pixels need no sampling. Letters: N masks of side M; a box covers h rows and w columns.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from detectron2.layers.mask_ops import _do_paste_mask
from torch import Tensor
from torch.nn import functional as F

from ..arrays import Bools, Floats32

__all__ = ["MaskCrop", "paste_crops"]

Codes = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.int64]

_AT_ONCE = 64  # masks whose cells are judged together
_MARGIN = 1e-3  # far above the rounding of grid_sample, for values up to 1
_LEAST_SIDE = 1e-3  # pixels; in smaller boxes the coordinates may overflow
_MOST_POINTS = 1_000_000  # sampled together; each takes some 40 bytes
_SAMPLE = 2  # the code of a cell whose pixels need sampling; 0 and 1 are the pixels themselves


class MaskCrop(NamedTuple):
    """A mask in an image: `mask` (h, w) bool begins at the row `top` and the column `left`.

    The rest of the image does not belong to the mask.
    """

    top: int
    left: int
    mask: Bools

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def rows(self) -> slice:
        """Rows of the image that the crop covers."""
        return slice(self.top, self.top + self.mask.shape[0])

    @property
    def columns(self) -> slice:
        """Columns of the image that the crop covers."""
        return slice(self.left, self.left + self.mask.shape[1])

    def trim(self) -> "MaskCrop":
        """Return the smallest crop with all pixels of the mask; (0, 0) for an empty mask."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return MaskCrop(0, 0, np.zeros((0, 0), dtype=bool))
        window = self.mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return MaskCrop(self.top + int(rows[0]), self.left + int(columns[0]), window)

    def cut(self, rows: slice, columns: slice) -> Bools:
        """Return the image mask at the given rows and columns, which have a start and a stop."""
        out = np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=bool)
        top, bottom = max(rows.start, self.top), min(rows.stop, self.rows.stop)
        left, right = max(columns.start, self.left), min(columns.stop, self.columns.stop)
        if top < bottom and left < right:
            out[
                top - rows.start : bottom - rows.start, left - columns.start : right - columns.start
            ] = self.mask[top - self.top : bottom - self.top, left - self.left : right - self.left]
        return out

    def count_common(self, other: "MaskCrop") -> int:
        """Return how many pixels two masks share."""
        return int(np.count_nonzero(self.mask & other.cut(self.rows, self.columns)))


def paste_crops(
    probs: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float
) -> Iterator[MaskCrop]:
    """Yield each mask, with the same pixels as in `paste_masks_in_image` on the same device.

    The columns of each crop are contiguous in memory, which suits run-length encoding.

    Args:
        probs: (N, M, M).
        boxes: (N, 4), XYXY_ABS. For a box outside the image the mask is empty; detectron2 fails.
        size: (H, W) of the image.
        threshold: a pixel belongs to a mask from this probability on, 0 or more.

    Raises:
        ValueError: the threshold is negative. detectron2 then gives masks with 256 levels, which
            have no run-length encoding.
    """
    if threshold < 0:
        raise ValueError(f"threshold: expected 0 or more, got {threshold}")
    corners = boxes.detach().cpu().numpy()
    plain = probs.dtype == boxes.dtype == torch.float32
    sized = (corners[:, 2:] - corners[:, :2] > _LEAST_SIDE).all(axis=1)
    for first in range(0, len(probs), _AT_ONCE):
        codes = _judge_cells(probs[first : first + _AT_ONCE].detach(), threshold)
        for index, cells in enumerate(codes, start=first):
            values, box = probs[index].detach(), corners[index]
            low, high = _find_window(box, size, values)
            if not np.isfinite(box).all() or (low >= high).any():
                yield MaskCrop(0, 0, np.zeros((0, 0), dtype=bool))
                continue
            if plain and sized[index]:
                mask = _sample(values, box, low, high, threshold, cells)
                yield MaskCrop(int(low[1]), int(low[0]), mask)
            else:  # another dtype, or a box without an area
                box = boxes[index, None].detach()
                pasted, (rows, columns) = _do_paste_mask(values[None, None], box, *size)
                mask = np.asfortranarray((pasted[0] >= threshold).cpu().numpy())
                yield MaskCrop(int(rows.start), int(columns.start), mask)


def _judge_cells(probs: Tensor, threshold: float) -> Codes:
    """Return the codes (N, M + 3, M + 3) of the cells between four values of a mask.

    Outside its values a mask is 0, so two rows of zeros on each side stand for the whole image.
    """
    values = F.pad(probs.float(), (2, 2, 2, 2)).cpu().numpy()
    low, high = (
        function(rows[:, :, 1:], rows[:, :, :-1])
        for function in (np.minimum, np.maximum)
        for rows in [function(values[:, 1:], values[:, :-1])]
    )
    margin = _MARGIN * max(1.0, float(np.abs(values).max(initial=0.0)))
    codes: Codes = np.where(low >= threshold + margin, 1, _SAMPLE).astype(np.uint8)
    codes[high < threshold - margin] = 0
    return codes


def _find_window(box: Floats32, size: tuple[int, int], values: Tensor) -> tuple[Pixels, Pixels]:
    """Return the first x and y of the pixels that detectron2 samples, and the x and y after them.

    These are the pixels of the box and one pixel around the box. On a GPU detectron2 samples the
    whole image, where all values further away than a cell of the mask are 0.
    """
    reach = np.ones(2)
    if values.device.type != "cpu":
        reach = np.ceil((box[2:] - box[:2]) / len(values)) + 1
    limits = np.asarray(size[::-1])
    low = np.nan_to_num(np.floor(box[:2]) - reach).clip(0, limits)
    high = np.nan_to_num(np.ceil(box[2:]) + reach).clip(0, limits)
    return low.astype(int), high.astype(int)


def _sample(
    mask: Tensor, box: Floats32, low: Pixels, high: Pixels, threshold: float, cells: Codes
) -> npt.NDArray[np.bool_]:
    """Return a mask in its window, (h, w); `cells` are of `_judge_cells`."""
    # detectron2's operations, in their order and in float32: the rounding is the same.
    x, y = (
        (np.arange(low[i], high[i], dtype=np.float32) + np.float32(0.5) - box[i])
        / (box[i + 2] - box[i])
        * np.float32(2)
        - np.float32(1)
        for i in (0, 1)
    )
    side = mask.shape[0]
    column_cells, row_cells = (
        np.clip(np.floor(((at + 1) * side - 1) / 2) + 2, 0, side + 2).astype(np.intp)
        for at in (x, y)
    )
    columns: Codes = np.ascontiguousarray(cells[row_cells].T)[column_cells]
    flat = columns.reshape(-1)
    unsure = np.flatnonzero(flat == _SAMPLE)
    for start in range(0, len(unsure), _MOST_POINTS):
        places = unsure[start : start + _MOST_POINTS]
        column, row = np.divmod(places, len(y))
        points = np.empty((1, 1, len(places), 2), dtype=np.float32)
        points[..., 0], points[..., 1] = x[column], y[row]
        grid = torch.from_numpy(points).to(mask.device)
        sampled = F.grid_sample(mask[None, None], grid, align_corners=False)
        flat[places] = (sampled.ravel() >= threshold).cpu().numpy()
    return columns.view(bool).T
