"""RoIAlign as a weighted sum of feature cells, for the CPU.

Bilinear sampling and averaging are linear, so an output cell of RoIAlign is a sum of feature cells
with weights that depend on the box only. This layer first computes the weights, separately along
each axis. Then it sums with PyTorch's `embedding_bag`, which reads all channels of a cell at once
and uses all threads. torchvision's kernel for CPUs reads one channel at a time, in one thread.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .roi_layers import FullPrecisionROIAlign, restore_dtype, to_full_precision

__all__ = ["GatheredROIAlign", "gathered_roi_align"]

_BLOCK = 1_000_000  # feature cells that are summed at once; their indices take 8 MB


class GatheredROIAlign(FullPrecisionROIAlign):
    """`FullPrecisionROIAlign` that sums feature cells on a CPU; on other devices it is the same.

    Results and gradients are equal up to the rounding of float32. The layer takes detectron2's
    arguments. It cannot be scripted, and its trace is valid for one image only.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring of `roi_layers` for shapes, units and precision."""
        if input.device.type != "cpu":
            return super().forward(input, rois)
        features = to_full_precision(input)
        height, width = self.output_size
        pooled = gathered_roi_align(
            features,
            rois.to(features.dtype),
            output_size=(int(height), int(width)),
            spatial_scale=self.spatial_scale,
            sampling_ratio=self.sampling_ratio,
            aligned=self.aligned,
        )
        return restore_dtype(pooled, input)


def gathered_roi_align(
    features: Tensor,
    rois: Tensor,
    *,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    num_bins: int = 1,
) -> Tensor:
    """Do the same as torchvision's `roi_align`, up to rounding.

    Args:
        features: (N, C, H, W), float32 or float64. Fastest in the channels_last format; another
            format is copied.
        rois: (R, 5) in the same dtype, batch index and XYXY, pixels of the image. R may be 0.
        output_size: (h, w).
        spatial_scale: 1 / stride.
        sampling_ratio: samples per cell and axis; 0: one for each feature cell, see
            `FullPrecisionROIAlign`.
        aligned: shift by half a feature cell, and let boxes be smaller than a cell.
        num_bins: k of a position-sensitive layer, by which h and w are divisible. A box is divided
            into k x k bins, each of which is a box with features of its own: `features` is
            (N * k * k, C, H, W), a map for each image, bin row and bin column.

    Returns:
        (R, C, h, w), with the channels of a cell next to each other in memory.
    """
    _, channels, height, width = features.shape
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)  # a row for each feature cell
    shape = (sampling_ratio, spatial_scale, aligned)
    down = _weigh_bins(num_bins, rois[:, 2], rois[:, 4], output_size[0], height, *shape)
    across = _weigh_bins(num_bins, rois[:, 1], rois[:, 3], output_size[1], width, *shape)
    bins = torch.zeros(1, 1, dtype=torch.long, device=rois.device)  # the bin of each output cell
    if num_bins > 1:
        side = torch.arange(num_bins, device=rois.device)
        row, column = (side.repeat_interleave(size // num_bins) for size in output_size)
        bins = row[:, None] * num_bins + column
    per_roi = down[2] * across[2] * (output_size[0] * output_size[1])
    pooled = [table[:0]]  # with its gradient where there are no boxes
    for part in _split(per_roi):
        rows, columns = (tuple(item[part] for item in axis) for axis in (down, across))
        first = rois[part, 0].long()[:, None, None] * num_bins**2 + bins
        index, weights, starts = _list_cells(first * (height * width), rows, columns, width)
        pooled.append(F.embedding_bag(index, table, starts, mode="sum", per_sample_weights=weights))
    sums = pooled[1] if len(pooled) == 2 else torch.cat(pooled)  # a single part needs no copy
    grid = sums.reshape(rois.shape[0], *output_size, channels)
    return grid.permute(0, 3, 1, 2)


def _split(sizes: Tensor) -> list[slice]:
    """Return slices of consecutive boxes with at most `_BLOCK` cells, or one box, each."""
    ends, begin, total = [], 0, 0
    counts = sizes.tolist()
    for i, count in enumerate(counts):
        if total and total + count > _BLOCK:
            ends.append(slice(begin, i))
            begin, total = i, 0
        total += count
    return [*ends, slice(begin, len(counts))] if counts else []


def _weigh_bins(
    num_bins: int, low: Tensor, high: Tensor, size: int, *more: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same as `_weigh_cells`, with each bin of a box weighed as a box of its own."""
    if num_bins == 1:
        return _weigh_cells(low, high, size, *more)
    side = (high - low) / num_bins
    grid = torch.arange(num_bins, dtype=low.dtype, device=low.device)
    start = low[:, None] + grid * side[:, None]
    places, weights, counts = _weigh_cells(
        start.flatten(), (start + side[:, None]).flatten(), size // num_bins, *more
    )
    shape = (low.shape[0], size, places.shape[2])
    # A bin that uses fewer entries has weights of 0 in the others.
    return places.reshape(shape), weights.reshape(shape), counts.reshape(-1, num_bins).amax(1)


def _weigh_cells(
    low: Tensor, high: Tensor, size: int, limit: int, ratio: int, scale: float, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, along one axis, the feature cells that each output cell sums, and their weights.

    Returns:
        Places (R, size, K) int64 and weights (R, size, K); and for each box how many of the K
        entries it uses, (R,) int64.
    """
    offset = 0.5 if aligned else 0.0
    start = low * scale - offset
    length = high * scale - offset - start
    if not aligned:
        length = length.clamp(min=1.0)
    step = length / size  # of an output cell
    samples = torch.full_like(step, ratio) if ratio > 0 else step.ceil().clamp(min=0)
    most = int(samples.max()) if len(samples) else 0
    number = torch.arange(most, dtype=step.dtype, device=step.device)
    cell = torch.arange(size, dtype=step.dtype, device=step.device)
    inside = (number + 0.5) * (step / samples)[:, None]  # (R, most)
    at = start[:, None, None] + cell[:, None] * step[:, None, None] + inside[:, None, :]
    used = (at >= -1) & (at <= limit) & (number < samples[:, None])[:, None, :]
    at = at.nan_to_num(0.0).clamp(0, limit - 1)
    left = at.floor()
    right_share = at - left
    share = used / samples.clamp(min=1)[:, None, None]
    places = torch.stack([left, (left + 1).clamp(max=limit - 1)], dim=-1).long()
    weights = torch.stack([(1 - right_share) * share, right_share * share], dim=-1)
    places, weights = places.flatten(2), weights.flatten(2)  # (R, size, 2 * most)
    # Samples that are at most a cell apart touch neighbours: n of them at most n + 1, and not 2 n.
    if ratio == 1 or (ratio > 0 and not bool((step.abs() <= ratio).all())):
        return places, weights, torch.full_like(low, 2 * ratio, dtype=torch.long)
    first = places.amin(dim=2, keepdim=True) if most else places.new_zeros(len(low), size, 1)
    window = torch.arange(most + 1, device=places.device)
    merged = weights.new_zeros(len(low), size, most + 1)
    merged.scatter_add_(2, (places - first).clamp(max=most), weights)
    return (first + window).clamp(max=limit - 1), merged, samples.long() + 1


def _list_cells(
    first: Tensor,
    rows: tuple[Tensor, ...],
    columns: tuple[Tensor, ...],
    width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells of the table that the output cells sum, one output cell after another.

    Args:
        first: (R, h, w), the row of the table at which the map of an output cell begins; or
            (R, 1, 1), if it is the same for all cells of a box.
        rows: places (R, h, K), weights (R, h, K) and their number (R,), down.
        columns: the same across, with w in place of h.
        width: the width of the feature map in cells.

    Returns:
        Index and weight of each cell; where each of the R * h * w output cells begins.
    """
    (y, y_weights, y_count), (x, x_weights, x_count) = rows, columns
    shape = (y.shape[0], y.shape[1], x.shape[1])
    y = y * width
    if bool((y_count == y_count[0]).all()) and bool((x_count == x_count[0]).all()):
        y, y_weights = y[:, :, : y_count[0]], y_weights[:, :, : y_count[0]]
        x, x_weights = x[:, :, : x_count[0]], x_weights[:, :, : x_count[0]]
        index = (first[..., None] + y[:, :, None, :])[..., None] + x[:, None, :, None, :]
        weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
        step = int(y_count[0] * x_count[0])
        starts = torch.arange(0, index.numel(), step, device=y.device)
        return index.reshape(-1), weights.reshape(-1), starts
    area = (y_count * x_count)[:, None, None].expand(shape).reshape(-1)
    starts = area.cumsum(0) - area
    cell = torch.repeat_interleave(area)
    place = torch.arange(cell.shape[0], device=y.device) - starts[cell]
    box = torch.div(cell, shape[1] * shape[2], rounding_mode="floor")
    inside = cell - box * (shape[1] * shape[2])
    line = torch.div(inside, shape[2], rounding_mode="floor")
    row = torch.div(place, x_count[box], rounding_mode="floor")
    column = place - row * x_count[box]
    y_at = (box * shape[1] + line) * y.shape[2] + row
    x_at = (box * shape[2] + inside - line * shape[2]) * x.shape[2] + column
    index = y.reshape(-1)[y_at] + x.reshape(-1)[x_at] + first.expand(shape).reshape(-1)[cell]
    weights = y_weights.reshape(-1)[y_at] * x_weights.reshape(-1)[x_at]
    return index, weights, starts
