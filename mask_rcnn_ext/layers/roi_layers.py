"""The RoI layers that Table 2c of the paper compares: what a box sees of a feature map.

| layer                 | box corners | samples of a bin             | pooling | source           |
|-----------------------|-------------|------------------------------|---------|------------------|
| FullPrecisionROIPool  | rounded     | every cell that it touches   | max     | Fast R-CNN       |
| ROIWarpMax            | rounded     | bilinear, 4, to its top left | max     | MNC              |
| ROIWarpAve            | rounded     | bilinear, 4, to its top left | average | MNC and Table 2c |
| ROIAlignMax           | as they are | bilinear, 4                  | max     | Table 2c         |
| FullPrecisionROIAlign | as they are | bilinear, 4 or by its size   | average | section 3        |

Every layer maps `input` (N, C, H, W) and `rois` (R, 5) to (R, C, h, w), where a row of `rois` is
(batch index, x1, y1, x2, y2) in pixels of the image, and `spatial_scale` is 1 / stride of the map.
Any number of boxes may be 0. Gradients flow to `input` only. All of it is torchvision's `roi_align`
and `roi_pool` and PyTorch's pooling, so it runs on CPU and CUDA and under autocast.

Precision: float16 and bfloat16 features are pooled in float32 and the result is returned in their
dtype; boxes are never rounded to either. (bfloat16 has 8 bits: it makes 130 of a corner at 130.4,
which is the very quantisation that RoIAlign removes. detectron2's `ROIAlign` does that to boxes
when the features are of half precision.) With float32 or float64 features the boxes are converted
to that dtype, as in detectron2.

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
    "round_half_away",
]


def _is_half(features: Tensor) -> bool:
    return features.dtype == torch.float16 or features.dtype == torch.bfloat16


def _in_full_precision(features: Tensor) -> Tensor:
    """Return `features` as the kernels are to see them: float32 or float64, never quantised."""
    if features.is_quantized:
        return features.dequantize()
    return features.float() if _is_half(features) else features


def _in_precision_of(features: Tensor, pooled: Tensor) -> Tensor:
    """Return `pooled` in the dtype of half-precision `features`, else as it is."""
    return pooled.to(features.dtype) if _is_half(features) else pooled


def round_half_away(values: Tensor) -> Tensor:
    """Round to the nearest whole number and halves away from zero, as C's `round` does.

    `torch.round` rounds halves to the even number. Adding 0.5 and rounding down would be wrong for
    negative halves, and for 0.49999997, which plus 0.5 is 1 in float32.
    """
    whole = torch.trunc(values)
    return whole + torch.sign(values) * ((values - whole).abs() >= 0.5).to(values.dtype)


# The two stock layers call torchvision directly, not `super().forward()`, which TorchScript cannot
# compile: detectron2's poolers can be scripted, and so can these.


class FullPrecisionROIAlign(ROIAlign):
    """detectron2's `ROIAlign`; with float16 or bfloat16 features its boxes keep their precision.

    Arguments and, with float32 or float64 features, results are detectron2's, bit for bit.

    With `aligned=False` it is the paper's RoIAlign (section 3) as Detectron wrote it. A box of W =
    max(x2 * scale - x1 * scale, 1) by H cells is cut into h x w bins, bin (i, j) is sampled at
    n x n points, x = x1 * scale + (j + (k + .5) / n) * W / w for k = 0..n-1 and y likewise, and the
    samples are averaged. The paper takes 4 points: `sampling_ratio` n = 2. With 0, n is
    ceil(W / w) across and ceil(H / h) down, per box. A sample is bilinear in the four cells around
    it, whose centres have whole coordinates; it is clamped to the map, and 0 where it is more than
    a cell outside: x < -1 or x > width.

    With `aligned=True` (`ROIAlignV2`) the box is shifted by -0.5 after scaling, so that cell
    centres lie at .5, and may be smaller than a cell.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring for shapes, units and precision."""
        features = _in_full_precision(input)
        pooled = roi_align(
            features,
            rois.to(features.dtype),
            self.output_size,
            self.spatial_scale,
            self.sampling_ratio,
            self.aligned,
        )
        return _in_precision_of(input, pooled)


class FullPrecisionROIPool(RoIPool):
    """torchvision's `RoIPool`; with float16 or bfloat16 features its boxes keep their precision.

    Arguments and, with float32 or float64 features, results are torchvision's, bit for bit.

    Fast R-CNN's RoIPool: corners X = round(x * scale), halves away from zero; width W =
    max(X2 - X1 + 1, 1) cells; bin j of w holds the cells from X1 + floor(j * W / w) up to, but
    without, X1 + ceil((j + 1) * W / w), clipped to the map; its value is their maximum, and 0 where
    there are none.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring for shapes, units and precision."""
        features = _in_full_precision(input)
        pooled = roi_pool(features, rois.to(features.dtype), self.output_size, self.spatial_scale)
        return _in_precision_of(input, pooled)


class _SampledROILayer(nn.Module):
    """What the layers below share: n x n bilinear samples of a bin, which are then pooled.

    The samples of all bins are one (R, C, n * h, n * w) map, so the layer needs n * n times the
    memory of its output.

    Args:
        output_size: h = w, or (h, w).
        spatial_scale: 1 / stride of the feature map.
        sampling_ratio: n, samples per bin and axis. 0 is 2, the 4 points of the paper and of MNC;
            it is not adaptive as it is in `ROIAlign`. Other numbers are an extension of ours.

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
    """RoIAlign that takes the largest sample of each bin, not their average (Table 2c).

    The samples are those of `FullPrecisionROIAlign` with `aligned=False` and the same n. Where n is
    2 and the paper's "max" means anything else than the largest of its 4 points, this departs from
    it: the paper says no more than the word. The n x n points of a bin are the centres of as many
    smaller bins, hence the recipe: RoIAlign of one point into an n times finer grid, then pooling.

    Args, raises: see `_SampledROILayer`: output_size, spatial_scale, sampling_ratio.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring for shapes, units and precision."""
        features = _in_full_precision(input)
        samples = roi_align(
            features, rois.to(features.dtype), self.grid_size, self.spatial_scale, 1, False
        )
        return _in_precision_of(input, F.max_pool2d(samples, self.samples))


class _ROIWarp(_SampledROILayer):
    """The samples of MNC's RoIWarp (arXiv:1512.04412), before they are pooled.

    MNC's arithmetic: corners X = round(x * scale), halves away from zero; W = max(X2 - X1, 0),
    without RoIPool's + 1; the box is cut into n * w x n * h cells, and each is sampled once,
    bilinearly, at its top-left corner, x = X1 + j * W / (n * w). A sample is 0 outside
    [-0.5, width - 0.5], and clamped to [0, width - 1] inside; y likewise. So the box is quantised,
    its bins are not.

    Deviations:
    - MNC's layer has a gradient with respect to the box; torchvision's kernel, and so this, has
      none, and needs none in Mask R-CNN, whose proposals are constants of the second stage.
    - n is 2 in MNC (28 x 28 samples, 2 x 2 max pooling); other n are an extension.
    - the paper does not say whether its RoIWarp also samples the top-left corners.

    Args, raises: see `_SampledROILayer`: output_size, spatial_scale, sampling_ratio.
    """

    def _sample(self, features: Tensor, rois: Tensor) -> Tensor:
        """Return the samples, (R, C, n * h, n * w), in the dtype of `features`."""
        rois = rois.to(features.dtype)
        corners = round_half_away(rois[:, 1:] * self.spatial_scale)
        start = corners[:, :2]  # x, y
        size = (corners[:, 2:] - start).clamp(min=0)
        down, across = self.grid_size
        # RoIAlign with one point samples the centre of a cell, so the box goes half a cell back.
        # aligned=True allows boxes smaller than a cell, and takes away the 0.5 that is added here.
        half_cell = torch.stack([size[:, 0] / (2 * across), size[:, 1] / (2 * down)], dim=1)
        shifted = start - half_cell + 0.5
        boxes = torch.cat([rois[:, :1], shifted, shifted + size], dim=1)
        samples = roi_align(features, boxes, self.grid_size, 1.0, 1, True)
        # torchvision's RoIAlign repeats the border for up to a cell (its deterministic CUDA version
        # for ever), MNC for half of one.
        height, width = features.shape[-2:]
        inside_x = self._inside(start[:, 0], size[:, 0], across, width)
        inside_y = self._inside(start[:, 1], size[:, 1], down, height)
        inside = inside_y[:, :, None] & inside_x[:, None, :]
        return samples.masked_fill(~inside[:, None], 0.0)

    def _inside(self, start: Tensor, size: Tensor, cells: int, limit: int) -> Tensor:
        """Return which samples along an axis are on the map, (R, cells), for (R,) boxes."""
        index = torch.arange(cells, dtype=start.dtype, device=start.device)
        # Multiplied before it is divided: the halves, which decide, are then exact in every dtype.
        points = start[:, None] + index * size[:, None] / cells
        return (points >= -0.5) & (points <= limit - 0.5)


class ROIWarpMax(_ROIWarp):
    """MNC's RoIWarp with max pooling over the n x n samples of a bin, as MNC has it (Table 2c).

    See `_ROIWarp` for its samples and for what departs from MNC.

    Args, raises: see `_SampledROILayer`: output_size, spatial_scale, sampling_ratio.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring for shapes, units and precision."""
        samples = self._sample(_in_full_precision(input), rois)
        return _in_precision_of(input, F.max_pool2d(samples, self.samples))


class ROIWarpAve(_ROIWarp):
    """MNC's RoIWarp with average pooling over the n x n samples of a bin (Table 2c).

    See `_ROIWarp` for its samples and for what departs from MNC.

    Args, raises: see `_SampledROILayer`: output_size, spatial_scale, sampling_ratio.
    """

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool, see the module docstring for shapes, units and precision."""
        samples = self._sample(_in_full_precision(input), rois)
        return _in_precision_of(input, F.avg_pool2d(samples, self.samples))
