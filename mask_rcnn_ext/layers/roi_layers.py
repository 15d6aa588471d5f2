"""The RoI layers that Table 2c of the paper compares.

| layer                 | box corners | samples of a bin          | pooling | source           |
|-----------------------|-------------|---------------------------|---------|------------------|
| FullPrecisionROIPool  | rounded     | every cell that it meets  | max     | Fast R-CNN       |
| ROIWarpMax            | rounded     | 4, bilinear, at top left  | max     | MNC, late code   |
| ROIWarpAve            | rounded     | 4, bilinear, at top left  | average | and Table 2c     |
| ROIWarpV1Max          | rounded     | 9 or more, both ends too  | max     | MNC, first code  |
| ROIWarpV1Ave          | rounded     | 9 or more, both ends too  | average | and Table 2c     |
| ROIAlignMax           | not rounded | 4, bilinear               | max     | Table 2c         |
| FullPrecisionROIAlign | not rounded | 4 or adaptive, bilinear   | average | section 3        |

Every layer maps `input` (N, C, H, W) and `rois` (R, 5) to (R, C, h, w). A row of `rois` is (batch
index, x1, y1, x2, y2) in pixels of the image; `spatial_scale` is 1 / stride of the map. R may be 0.
Gradients flow to `input` only. The layers use torchvision's `roi_align` and `roi_pool` and
PyTorch's pooling, so they run on CPU and CUDA and under autocast.

Precision: float16 and bfloat16 features are pooled in float32, and the result has their dtype.
Boxes are never rounded to half precision. (bfloat16 has 8 bits and would move a corner at 130.4 to
130, the quantisation that RoIAlign removes. detectron2's `ROIAlign` rounds boxes in this way when
the features are in half precision.) With float32 or float64 features the boxes are converted to the
dtype of the features, as in detectron2.

`F.max_pool2d` sends the gradient to one sample where several are the largest.
"""

import torch
from detectron2.layers import ROIAlign
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import RoIPool, roi_align, roi_pool

from ..errors import UserError

__all__ = [
    "FullPrecisionROIAlign",
    "FullPrecisionROIPool",
    "ROIAlignMax",
    "ROIWarpAve",
    "ROIWarpMax",
    "ROIWarpV1Ave",
    "ROIWarpV1Max",
    "restore_dtype",
    "round_half_away",
    "round_to_pixels",
    "to_full_precision",
]


def to_full_precision(features: Tensor) -> Tensor:
    """Return `features` as float64 if they are, else as float32; quantised features are decoded."""
    if features.is_quantized:
        return features.dequantize()
    return features if features.dtype == torch.float64 else features.float()


def restore_dtype(pooled: Tensor, features: Tensor) -> Tensor:
    """Return `pooled` in the dtype of `features`, or unchanged for quantised features."""
    return pooled.to(features.dtype) if features.is_floating_point() else pooled


def round_half_away(values: Tensor) -> Tensor:
    """Round to the nearest whole number and halves away from zero, as C's `round` does.

    `torch.round` rounds halves to the even number. Adding 0.5 and rounding down would be wrong for
    negative halves, and for 0.49999997, which plus 0.5 is 1 in float32.
    """
    size = values.abs()
    whole = torch.floor(size)  # PyTorch's export to ONNX does not know `torch.trunc`
    return torch.sign(values) * (whole + (size - whole >= 0.5).to(values.dtype))


def round_to_pixels(boxes: Tensor) -> Tensor:
    """Round boxes (..., 4), XYXY, to whole pixels as the Python of FCIS's release does.

    `np.round` rounds halves to the even number there. The released boxes end with their last pixel,
    which is rounded, and continuous boxes end 1 later.
    """
    return torch.cat([boxes[..., :2].round(), (boxes[..., 2:] - 1).round() + 1], dim=-1)


# The two stock layers call torchvision directly, since TorchScript cannot compile
# `super().forward()`. detectron2's poolers can be scripted, and so can ours.


class FullPrecisionROIAlign(ROIAlign):
    """detectron2's `ROIAlign`, but float16 and bfloat16 features do not round the boxes.

    It takes detectron2's arguments and, with float32 or float64 features, gives the same results,
    bit for bit.

    With `aligned=False` it is the paper's RoIAlign (section 3) in Detectron's version. A box of
    W = max(x2 * scale - x1 * scale, 1) by H cells is divided into h x w bins. Bin (i, j) is sampled
    at n x n points, x = x1 * scale + (j + (k + .5) / n) * W / w for k = 0..n-1 and y likewise, and
    the samples are averaged. The paper uses 4 points: `sampling_ratio` n = 2. With 0, n depends on
    the box: ceil(W / w) across and ceil(H / h) down. A sample is interpolated bilinearly between
    the four cells around it, whose centres have whole coordinates. A point outside the map is
    clamped to the map; the sample is 0 more than a cell outside: x < -1 or x > width.

    With `aligned=True` (`ROIAlignV2`) the box is shifted by -0.5 after scaling, so that cell
    centres lie at .5, and may be smaller than a cell.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring for shapes, units and precision."""
        features = to_full_precision(input)
        pooled = roi_align(
            features,
            rois.to(features.dtype),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )
        return restore_dtype(pooled, input)


class FullPrecisionROIPool(RoIPool):
    """torchvision's `RoIPool`, but float16 and bfloat16 features do not round the boxes.

    It takes torchvision's arguments and, with float32 or float64 features, gives the same results,
    bit for bit.

    It is Fast R-CNN's RoIPool. The corners are X = round(x * scale), halves away from zero, and the
    width is W = max(X2 - X1 + 1, 1) cells. Bin j of w holds the cells from X1 + floor(j * W / w) to
    X1 + ceil((j + 1) * W / w), without the latter, clipped to the map. Its value is the maximum of
    the cells, or 0 if it has none.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring for shapes, units and precision."""
        features = to_full_precision(input)
        pooled = roi_pool(features, rois.to(features.dtype), self.output_size, self.spatial_scale)
        return restore_dtype(pooled, input)


class _SampledROILayer(nn.Module):
    """The base of the layers below, which pool n x n bilinear samples of each bin.

    The samples of all bins form one (R, C, n * h, n * w) map, so the layer needs n * n times the
    memory of its output.

    Args:
        output_size: h = w, or (h, w).
        spatial_scale: 1 / stride of the feature map.
        sampling_ratio: n, samples per bin and axis. 0 means 2, the 4 points of the paper and of
            MNC; it is not adaptive as in `ROIAlign`. Other numbers are an extension.

    Raises:
        UserError: `sampling_ratio` is negative.
    """

    def __init__(
        self, output_size: int | tuple[int, int], spatial_scale: float, sampling_ratio: int = 0
    ) -> None:
        super().__init__()
        if sampling_ratio < 0:
            raise UserError(
                f"{type(self).__name__}: expected a sampling ratio of 0 (2 x 2 points per bin) or "
                f"more, got {sampling_ratio}"
            )
        height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
        self.spatial_scale = float(spatial_scale)
        self.samples = sampling_ratio or 2
        self.grid_size = (height * self.samples, width * self.samples)

    def extra_repr(self) -> str:
        """Name the arguments in the module's repr."""
        height, width = (side // self.samples for side in self.grid_size)
        return (
            f"output_size=({height}, {width}), spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.samples}"
        )


class ROIAlignMax(_SampledROILayer):
    """RoIAlign with the largest sample of each bin instead of the average (Table 2c).

    It uses the same samples as `FullPrecisionROIAlign` with `aligned=False` and the same n. The
    paper says only "max"; here it is the maximum of the n x n points. These points are the centres
    of n x n smaller bins, so the layer runs RoIAlign with one point on an n times finer grid and
    then pools.

    For arguments and errors see `_SampledROILayer`.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring for shapes, units and precision."""
        features = to_full_precision(input)
        samples = roi_align(
            features, rois.to(features.dtype), self.grid_size, self.spatial_scale, 1, False
        )
        return restore_dtype(F.max_pool2d(samples, self.samples), input)


class _ROIWarp(_SampledROILayer):
    """The base of the layers that pool the samples of MNC's RoIWarp (arXiv:1512.04412).

    MNC's code exists in two forms. This is the form from 2016-10-22 on (commit 37e896e of
    daijifeng001/caffe-mnc); `_ROIWarpV1` is the form of the first release.

    MNC rounds the corners to X = round(x * scale), halves away from zero, and takes the width
    W = max(X2 - X1, 0), without RoIPool's + 1. It divides the box into n * w x n * h cells and
    samples each cell once, bilinearly, at its top-left corner, x = X1 + j * W / (n * w). A point
    outside [-0.5, width - 0.5] gives 0; a point inside is clamped to [0, width - 1]; y likewise.
    So the box is quantised, but its bins are not. The middle of a bin's samples lies 1 / (2 * n) of
    the bin's side left of and above the middle of the bin: a quarter of the side with n = 2.
    RoIPool, RoIAlign and MNC's first form have no such shift.

    Deviations:
    - MNC's layer has a gradient with respect to the box. torchvision's kernel, and so this layer,
      has none. Mask R-CNN needs none: its proposals are constants in the second stage.
    - MNC uses n = 2 (28 x 28 samples, 2 x 2 max pooling). Other n are an extension.
    - The paper does not say whether its RoIWarp is one of the two forms, and which.

    For arguments and errors see `_SampledROILayer`.
    """

    __constants__ = ("largest",)  # for TorchScript
    largest: bool  # a bin is the maximum of its samples, or else their average

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring for shapes, units and precision."""
        samples = self._sample(to_full_precision(input), rois)
        if self.largest:
            return restore_dtype(F.max_pool2d(samples, self.samples), input)
        return restore_dtype(F.avg_pool2d(samples, self.samples), input)

    def _sample(self, features: Tensor, rois: Tensor) -> Tensor:
        """Return the samples, (R, C, n * h, n * w), with the dtype of `features`."""
        rois = rois.to(features.dtype)
        samples, inside = self._sample_grid(features, rois, self.grid_size, 0)
        return samples.masked_fill(~inside, 0.0)

    def _round(self, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rounded top left corner (x, y) and the size (W, H) of each box, in cells."""
        corners = round_half_away(rois[:, 1:] * self.spatial_scale)
        start = corners[:, :2]
        return start, (corners[:, 2:] - start).clamp(min=0)

    def _sample_grid(
        self, features: Tensor, rois: Tensor, intervals: tuple[int, int], ends: int
    ) -> tuple[Tensor, Tensor]:
        """Sample each box where its division into `intervals` (down, across) begins.

        Args:
            features: (N, C, H, W).
            rois: (R, 5), with the dtype of `features`.
            intervals: into how many parts a box is divided, down and across.
            ends: 1 to sample the end of the last part too, or 0.

        Returns:
            The samples, (R, C, down + ends, across + ends), and which samples are on the map,
            (R, 1, down + ends, across + ends) bool.
        """
        start, size = self._round(rois)
        down, across = intervals
        grid = (down + ends, across + ends)
        # RoIAlign with one point samples the centre of a cell, so the box is moved back by half a
        # cell. aligned=True allows boxes smaller than a cell; it subtracts the 0.5 added here.
        half_cell = torch.stack([size[:, 0] / (2 * across), size[:, 1] / (2 * down)], dim=1)
        shifted = start - half_cell + 0.5
        extent = torch.stack([size[:, 0] * grid[1] / across, size[:, 1] * grid[0] / down], dim=1)
        boxes = torch.cat([rois[:, :1], shifted, shifted + extent], dim=1)
        samples = roi_align(features, boxes, grid, 1.0, 1, True)
        # torchvision's RoIAlign repeats the border for up to one cell outside the map (its
        # deterministic CUDA version without limit), MNC for half a cell.
        height, width = features.shape[-2:]
        inside_x = self._find_inside(start[:, 0], size[:, 0], across, ends, width)
        inside_y = self._find_inside(start[:, 1], size[:, 1], down, ends, height)
        return samples, (inside_y[:, :, None] & inside_x[:, None, :])[:, None]

    def _find_inside(
        self, start: Tensor, size: Tensor, intervals: int, ends: int, limit: int
    ) -> Tensor:
        """Return which points of each box are on the map along an axis, (R, points) bool."""
        index = torch.arange(intervals + ends, dtype=start.dtype, device=start.device)
        # Multiplying before dividing keeps halves exact in every dtype; halves are on the border.
        points = start[:, None] + index * size[:, None] / intervals
        return (points >= -0.5) & (points <= limit - 0.5)


class ROIWarpMax(_ROIWarp):
    """MNC's RoIWarp with max pooling over the n x n samples of a bin, as in MNC (Table 2c).

    See `_ROIWarp` for the samples and the deviations, `_SampledROILayer` for arguments and errors.
    """

    largest = True


class ROIWarpAve(_ROIWarp):
    """MNC's RoIWarp with average pooling over the n x n samples of a bin (Table 2c).

    See `_ROIWarp` for the samples and the deviations, `_SampledROILayer` for arguments and errors.
    """

    largest = False


class _ROIWarpV1(_ROIWarp):
    """The base of the layers that pool the samples of the first release of MNC's RoIWarp.

    It is the form of 2016-06-12 (commit 17b56bd of daijifeng001/caffe-mnc). The box and its cells
    are as in `_ROIWarp`. A cell has more points: it is divided into ceil(W / (n * w)) parts
    across and likewise down, and sampled where a part begins and at the end of the last part. So a
    cell of at most one cell of the map has its four corners, and neighbours share points. Points
    outside the map are left out; a cell without points is 0.

    Deviations:
    - MNC takes the maximum of a cell's points and then of 2 x 2 cells. `ROIWarpV1Ave`, for Table
      2c, averages in both steps.
    - MNC adds up the step in float32 and so misses the end of some cells that have several parts.
    - The deviations of `_ROIWarp`.

    Boxes with the same numbers of parts are sampled together. They need (parts across * parts down)
    times the memory of the other form. The layers can be scripted; a trace holds only for boxes
    with the numbers of parts of its example.

    For arguments and errors see `_SampledROILayer`.
    """

    def _sample(self, features: Tensor, rois: Tensor) -> Tensor:
        """Return the cells, (R, C, n * h, n * w): the maximum of each, or else the average."""
        rois = rois.to(features.dtype)
        _, size = self._round(rois)
        down, across = self.grid_size
        parts_x = torch.ceil(size[:, 0] / across).clamp(min=1).long()
        parts_y = torch.ceil(size[:, 1] / down).clamp(min=1).long()
        # One call of RoIAlign per pair of numbers. The pair (1, 1) is always there: without boxes,
        # the result still belongs to the graph of the features.
        pairs = torch.stack([parts_y, parts_x], dim=1)
        every = torch.cat([pairs, pairs.new_ones((1, 2))])
        groups: list[Tensor] = []
        cells: list[Tensor] = []
        for pair in torch.unique(every, dim=0):
            group = torch.nonzero((pairs == pair).all(dim=1))[:, 0]
            parts = (int(pair[0]), int(pair[1]))
            groups.append(group)
            cells.append(self._pool_cells(features, rois[group], parts))
        return torch.cat(cells)[torch.argsort(torch.cat(groups))]

    def _pool_cells(self, features: Tensor, rois: Tensor, parts: tuple[int, int]) -> Tensor:
        """Return the cells of boxes whose cells have `parts` (down, across); see `_sample`."""
        down, across = parts
        grid = (self.grid_size[0] * down, self.grid_size[1] * across)
        samples, inside = self._sample_grid(features, rois, grid, 1)
        window, stride = [down + 1, across + 1], [down, across]
        share = F.avg_pool2d(inside.to(samples.dtype), window, stride)  # of the points, on the map
        if self.largest:
            pooled = F.max_pool2d(samples.masked_fill(~inside, -float("inf")), window, stride)
        else:
            pooled = F.avg_pool2d(samples.masked_fill(~inside, 0.0), window, stride)
            pooled = pooled / share.clamp(min=1e-6)
        return pooled.masked_fill(share == 0, 0.0)


class ROIWarpV1Max(_ROIWarpV1):
    """MNC's first RoIWarp with maxima over a cell's points and a bin's cells, as in MNC (Table 2c).

    See `_ROIWarpV1` for the samples and deviations, `_SampledROILayer` for arguments and errors.
    """

    largest = True


class ROIWarpV1Ave(_ROIWarpV1):
    """MNC's first RoIWarp with averages over a cell's points and a bin's cells (Table 2c).

    See `_ROIWarpV1` for the samples and deviations, `_SampledROILayer` for arguments and errors.
    """

    largest = False
