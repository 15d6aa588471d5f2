"""detectron2's RoI pooler with the RoI layers that the paper compares (Table 2c)."""

from collections.abc import Callable, Sequence
from typing import Any

from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import nn

from ..errors import require_choice
from ..layers.gathered_roi_align import GatheredROIAlign
from ..layers.roi_layers import (
    FullPrecisionROIAlign,
    FullPrecisionROIPool,
    ROIAlignMax,
    ROIWarpAve,
    ROIWarpMax,
    ROIWarpV1Ave,
    ROIWarpV1Max,
)
from ..layers.threaded_roi_layer import ThreadedROILayer

__all__ = ["OUR_TYPES", "POOLER_TYPES", "MaskRCNNROIPooler", "gather_roi_align", "thread_roi_align"]

OUR_TYPES = {
    "ROIAlignMax": ROIAlignMax,
    "ROIWarpMax": ROIWarpMax,
    "ROIWarpAve": ROIWarpAve,
    "ROIWarpV1Max": ROIWarpV1Max,
    "ROIWarpV1Ave": ROIWarpV1Ave,
}

# Values of MODEL.ROI_{BOX,MASK,KEYPOINT}_HEAD.POOLER_TYPE; the first three are detectron2's.
POOLER_TYPES = ("ROIAlign", "ROIAlignV2", "ROIPool", *OUR_TYPES)


class MaskRCNNROIPooler(ROIPooler):
    """detectron2's `ROIPooler` with five more values of `pooler_type`.

    - "ROIAlign" (the paper's, unaligned), "ROIAlignV2", "ROIPool": the same as detectron2's layers,
      bit for bit, except that float16 and bfloat16 features do not round the boxes
      (`mask_rcnn_ext.layers.roi_layers`);
    - "ROIAlignMax", "ROIWarpMax", "ROIWarpAve": the other layers of Table 2c;
    - "ROIWarpV1Max", "ROIWarpV1Ave": RoIWarp in the form of MNC's first release.

    The pooler has no parameters. It assigns boxes to levels as detectron2 does (FPN's equation 1).
    It is called in the same way: `forward(features, boxes)` takes a list of (N, C, H, W) maps, one
    map per scale, and a list of N `Boxes` (XYXY, pixels of the image). It returns (R, C, h, w) in
    the dtype of the features.

    Args:
        output_size: h = w, or (h, w); equal where there are several scales.
        scales: 1 / stride of each feature map; each scale is half of the scale before.
        sampling_ratio: samples per bin and axis. 0 is adaptive for "ROIAlign" and "ROIAlignV2" and
            2 for the added types; "ROIPool" does not use it.
        pooler_type: one of `POOLER_TYPES`.
        canonical_box_size: side in pixels of a box that goes to `canonical_level`.
        canonical_level: log2 of the stride of this level.

    Raises:
        UserError: an unknown `pooler_type`, or a negative `sampling_ratio` for an added type.
    """

    def __init__(
        self,
        output_size: int | Sequence[int],
        scales: Sequence[float],
        sampling_ratio: int,
        pooler_type: str,
        canonical_box_size: int = 224,
        canonical_level: int = 4,
    ) -> None:
        require_choice("POOLER_TYPE", pooler_type, POOLER_TYPES)
        # The base class checks the arguments. Its layers, which have no parameters, are replaced.
        super().__init__(
            output_size=output_size,
            scales=scales,
            sampling_ratio=sampling_ratio,
            pooler_type="ROIAlign",
            canonical_box_size=canonical_box_size,
            canonical_level=canonical_level,
        )
        self.pooler_type = pooler_type
        size = tuple(self.output_size)
        self.level_poolers = nn.ModuleList(
            _build_roi_layer(pooler_type, size, scale, sampling_ratio) for scale in scales
        )


def _build_roi_layer(
    pooler_type: str, output_size: tuple[int, int], scale: float, sampling_ratio: int
) -> nn.Module:
    """Return the layer of one level; `pooler_type` is one of `POOLER_TYPES`."""
    if pooler_type in ("ROIAlign", "ROIAlignV2"):
        aligned = pooler_type == "ROIAlignV2"
        return FullPrecisionROIAlign(output_size, scale, sampling_ratio, aligned=aligned)
    if pooler_type == "ROIPool":
        return FullPrecisionROIPool(output_size, scale)
    return OUR_TYPES[pooler_type](output_size, scale, sampling_ratio)


def gather_roi_align(model: nn.Module) -> None:
    """Replace the RoIAlign layers of all poolers in a model, in place, by `GatheredROIAlign`.

    Args:
        model: any model with detectron2's `ROIPooler` or ours. Layers of other kinds stay.
    """
    _replace_roi_align(
        model,
        lambda old: GatheredROIAlign(
            old.output_size, old.spatial_scale, old.sampling_ratio, old.aligned
        ),
    )


def thread_roi_align(model: nn.Module) -> None:
    """Let the RoIAlign layers of all poolers in a model, in place, use all threads of a CPU.

    The results stay equal, bit for bit, and training is as before: see `ThreadedROILayer`.

    Args:
        model: any model with detectron2's `ROIPooler` or ours. Layers of other kinds stay.
    """
    _replace_roi_align(model, ThreadedROILayer)


def _replace_roi_align(model: nn.Module, build: Callable[[Any], nn.Module]) -> None:
    for pooler in model.modules():
        if isinstance(pooler, ROIPooler):
            for level, layer in enumerate(pooler.level_poolers):
                old = layer.layer if isinstance(layer, ThreadedROILayer) else layer
                if type(old) in (ROIAlign, FullPrecisionROIAlign):
                    pooler.level_poolers[level] = build(old)
