"""Position-sensitive RoI layers of FCIS (arXiv:1611.07709, section 3).

A RoI is divided into k x k bins, one for each part of an object. A feature map of D * k * k
channels holds D maps in k x k versions, one for each bin: channel (d * k + row) * k + column is the
version of map d for the bin in that row and column. A layer returns (R, D, P, P) for R boxes.
Output cell (i, j) lies in bin (floor(i * k / P), floor(j * k / P)), and is pooled from the channels
of that bin only.

| layer      | box corners             | value of an output cell             | source         |
|------------|-------------------------|-------------------------------------|----------------|
| PSROIPool  | rounded to image pixels | mean of every feature cell in reach | FCIS           |
| PSROIAlign | not rounded             | mean of bilinear samples            | like RoIAlign  |

A row of `rois` (R, 5) is (batch index, x1, y1, x2, y2), in pixels of the network's input and in
continuous coordinates: a box around one pixel has width 1. FCIS's own code counts pixels and writes
x2 - 1 for x2. `spatial_scale` is 1 / stride of the map. R may be 0. Gradients flow to the features
only. The layers consist of operators of PyTorch and torchvision and run on CPU and CUDA.

Precision: float16 and bfloat16 features are pooled in float32, and the result is float32. Boxes are
never rounded to half precision. As in FCIS, PSROIPool computes the ends of its cells in float32.

torchvision's `ps_roi_pool` is another operator: it needs k = P, rounds on the feature map, and
never reads the last row and column of the map.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from ..errors import UserError
from .gathered_roi_align import gathered_roi_align
from .roi_layers import round_half_away, to_full_precision

__all__ = ["PSROIAlign", "PSROIPool"]


class _PSROILayer(nn.Module):
    """The arguments that both layers share.

    Args:
        num_bins: k, the bins of a RoI along each side.
        output_size: P, the cells of the output along each side.
        spatial_scale: 1 / stride of the feature map.

    Raises:
        UserError: by `forward`; the number of channels is not a multiple of k * k.
    """

    def __init__(self, num_bins: int, output_size: int, spatial_scale: float) -> None:
        super().__init__()
        self.num_bins, self.output_size = num_bins, output_size
        self.spatial_scale = float(spatial_scale)

    def extra_repr(self) -> str:
        """Name the arguments in the module's repr."""
        return (
            f"num_bins={self.num_bins}, output_size={self.output_size}, "
            f"spatial_scale={self.spatial_scale}"
        )

    def _split_channels(self, features: Tensor) -> Tensor:
        """Return (N, k * k, H, W, D) maps in full precision."""
        batch, channels, height, width = features.shape
        bins = self.num_bins**2
        if channels % bins:
            raise UserError(
                f"position-sensitive pooling with {self.num_bins} x {self.num_bins} bins: expected "
                f"a multiple of {bins} channels, got {channels}"
            )
        maps = to_full_precision(features).reshape(batch, channels // bins, bins, height, width)
        return maps.permute(0, 2, 3, 4, 1)


class PSROIPool(_PSROILayer):
    """FCIS's pooling: averages whole feature cells, in boxes rounded to whole pixels.

    Along one axis, where "round" rounds halves away from zero, the box begins at
    s = round(x1) * scale and is L = max(round(x2) * scale - s, 0.1) cells long. Output cell j
    averages the feature cells from floor(s + j * L / P) to ceil(s + (j + 1) * L / P), without the
    latter, clipped to the map. It is 0 where no feature cell is left. P need not be a multiple of
    k. For arguments and errors see `_PSROILayer`.
    """

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring for shapes, units and precision."""
        size, num_bins = self.output_size, self.num_bins
        table = self._split_channels(features)
        height, width, depth = table.shape[2:]
        table = table.reshape(-1, depth)  # a row for each bin and cell
        rois = rois.float()
        left, right = _find_windows(rois[:, 1], rois[:, 3], size, self.spatial_scale, width)
        top, bottom = _find_windows(rois[:, 2], rois[:, 4], size, self.spatial_scale, height)
        side = torch.arange(size, device=features.device)
        group = torch.div(side * num_bins, size, rounding_mode="floor")
        maps = rois[:, 0].long()[:, None, None] * num_bins**2 + group[:, None] * num_bins + group

        if torch.onnx.is_in_onnx_export():  # ONNX would turn the bags below into a slow loop
            table = table.reshape(-1, height, width, depth)
            pooled = _average_windows(table, maps, (top, bottom), (left, right))
            return pooled.permute(0, 3, 1, 2)
        across = (right - left)[:, None, :].expand(-1, size, -1).reshape(-1)
        area = ((bottom - top)[:, :, None] * (right - left)[:, None, :]).reshape(-1)
        first = (maps * height + top[:, :, None]) * width + left[:, None, :]
        starts = area.cumsum(0) - area
        # The rows of the table that each output cell averages, one output cell after another. Their
        # number must not become a Python number: a trace would keep it for all other images.
        cell = torch.repeat_interleave(area)
        place = torch.arange(cell.shape[0], device=features.device) - starts[cell]
        row = torch.div(place, across[cell], rounding_mode="floor")
        index = first.reshape(-1)[cell] + row * width + (place - row * across[cell])
        pooled = F.embedding_bag(index, table, starts, mode="mean")  # 0 where there is no row
        return pooled.reshape(rois.shape[0], size, size, depth).permute(0, 3, 1, 2)


def _average_windows(
    table: Tensor, maps: Tensor, rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor]
) -> Tensor:
    """Return the mean of each output cell's window, (R, P, P, D), from sums over the whole map.

    The sums are in float64, so the result differs from `PSROIPool`'s by rounding only.

    Args:
        table: (maps, H, W, D).
        maps: (R, P, P), the map of each output cell.
        rows: the first row of each cell and the one after its last, (R, P) each.
        columns: the same across.
    """
    sums = F.pad(table.double(), (0, 0, 1, 0, 1, 0)).cumsum(1).cumsum(2)
    height, width, depth = sums.shape[1:]
    flat = sums.reshape(-1, depth)
    top, bottom = (end[:, :, None] for end in rows)
    left, right = (end[:, None] for end in columns)
    low, high = (maps * height + end for end in (top, bottom))
    total = flat[high * width + right] - flat[low * width + right]
    total = total - flat[high * width + left] + flat[low * width + left]
    area = ((bottom - top) * (right - left)).clamp(min=1)
    return (total / area[..., None]).to(table.dtype)


def _find_windows(
    low: Tensor, high: Tensor, size: int, scale: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Return each output cell's first feature cell and the one after its last, (R, P) int64."""
    start = round_half_away(low) * scale
    length = (round_half_away(high) * scale - start).clamp(min=0.1) / size
    index = torch.arange(size, dtype=low.dtype, device=low.device)
    begin = torch.floor(index * length[:, None] + start[:, None]).clamp(0, limit).long()
    end = torch.ceil((index + 1) * length[:, None] + start[:, None]).clamp(0, limit).long()
    return begin, torch.maximum(begin, end)


class PSROIAlign(_PSROILayer):
    """Averages bilinear samples without rounding, as RoIAlign does where RoIPool rounds.

    Each of the k x k bins of a box is treated as a box. RoIAlign (`aligned=True`: cell centres at
    .5, no least size) pools it into (P / k) x (P / k) cells of the channels of the bin.

    Args:
        num_bins: k, the bins of a RoI along each side.
        output_size: P, the cells of the output along each side, a multiple of k.
        spatial_scale: 1 / stride of the feature map.
        sampling_ratio: n: a cell averages n x n samples; 0: one sample for each feature cell.

    Raises:
        UserError: by `forward`; the number of channels is not a multiple of k * k, or P is not a
            multiple of k.
    """

    def __init__(
        self, num_bins: int, output_size: int, spatial_scale: float, sampling_ratio: int = 0
    ) -> None:
        super().__init__(num_bins, output_size, spatial_scale)
        self.sampling_ratio = sampling_ratio

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring for shapes, units and precision."""
        size, num_bins = self.output_size, self.num_bins
        maps = self._split_channels(features)
        if size % num_bins:
            raise UserError(
                f"PSROIAlign: expected an output size that is a multiple of the {num_bins} bins, "
                f"got {size}"
            )
        bins, cells, depth = num_bins**2, size // num_bins, maps.shape[-1]
        maps = maps.flatten(0, 1).permute(0, 3, 1, 2)
        rois = rois.to(maps.dtype)
        scale, samples = self.spatial_scale, self.sampling_ratio
        if maps.device.type == "cpu" and not torch.jit.is_tracing():
            # Faster on a CPU, equal up to rounding. Its trace would fit one image only.
            return gathered_roi_align(
                maps,
                rois,
                output_size=(size, size),
                spatial_scale=scale,
                sampling_ratio=samples,
                aligned=True,
                num_bins=num_bins,
            )
        grid = torch.arange(num_bins, dtype=rois.dtype, device=rois.device)
        step = (rois[:, 3:] - rois[:, 1:3]) / num_bins  # (R, 2): x, y
        shape = (rois.shape[0], num_bins, num_bins)
        x1 = (rois[:, 1, None] + grid * step[:, :1])[:, None, :].expand(shape)
        y1 = (rois[:, 2, None] + grid * step[:, 1:])[:, :, None].expand(shape)
        across, down = (step[:, axis, None, None].expand(shape) for axis in (0, 1))
        row = torch.arange(bins, dtype=rois.dtype, device=rois.device).reshape(num_bins, num_bins)
        index = rois[:, 0, None, None] * bins + row
        boxes = torch.stack([index, x1, y1, x1 + across, y1 + down], dim=-1).reshape(-1, 5)
        pooled = roi_align(maps, boxes, cells, scale, samples, True)
        pooled = pooled.reshape(rois.shape[0], num_bins, num_bins, depth, cells, cells)
        return pooled.permute(0, 3, 1, 4, 2, 5).reshape(rois.shape[0], depth, size, size)
