"""detectron2's standard RoI heads with this package's RoI layers (Mask R-CNN, Figure 4 right).

They serve every model whose box, mask and keypoint branches pool for themselves: on an FPN, on C5
at stride 32 (Table 2d) and on dilated C5.
"""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import StandardROIHeads

from ...errors import UserError, nearest
from ..poolers import MaskRCNNROIPooler

__all__ = ["MaskRCNNROIHeads", "build_roi_pooler", "with_stock_pooler"]


def build_roi_pooler(
    cfg: CfgNode, input_shape: dict[str, ShapeSpec], head: str
) -> MaskRCNNROIPooler:
    """Build the pooler of one head from its keys `POOLER_{TYPE,RESOLUTION,SAMPLING_RATIO}`.

    Args:
        cfg: the config; `MODEL.ROI_HEADS.IN_FEATURES` names the feature maps, finest first.
        input_shape: of the backbone's feature maps; their strides are powers of 2.
        head: "ROI_BOX_HEAD", "ROI_MASK_HEAD" or "ROI_KEYPOINT_HEAD".

    Raises:
        UserError: a feature map does not exist; or see `MaskRCNNROIPooler`.
    """
    for name in cfg.MODEL.ROI_HEADS.IN_FEATURES:
        if name not in input_shape:
            raise UserError(
                f"MODEL.ROI_HEADS.IN_FEATURES: expected some of {', '.join(input_shape)}, which "
                f"the backbone gives, got {name!r}{nearest(name, input_shape)}"
            )
    keys = cfg.MODEL[head]
    return MaskRCNNROIPooler(
        output_size=keys.POOLER_RESOLUTION,
        scales=tuple(1.0 / input_shape[k].stride for k in cfg.MODEL.ROI_HEADS.IN_FEATURES),
        sampling_ratio=keys.POOLER_SAMPLING_RATIO,
        pooler_type=keys.POOLER_TYPE,
    )


def with_stock_pooler(cfg: CfgNode, head: str) -> CfgNode:
    """Return a copy of `cfg` whose `head` has a `POOLER_TYPE` that detectron2 itself can build.

    detectron2 builds pooler and head in one function; its pooler, which holds no parameters and
    draws no random numbers, is then replaced by that of `build_roi_pooler`.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL[head].POOLER_TYPE = "ROIAlignV2"
    return cfg


@ROI_HEADS_REGISTRY.register()
class MaskRCNNROIHeads(StandardROIHeads):
    """`StandardROIHeads` whose `POOLER_TYPE`s may be any that `MaskRCNNROIPooler` knows.

    With a pooler type of detectron2's, it is `StandardROIHeads`: the same state dict, losses and
    predictions, bit for bit. An empty `POOLER_TYPE` of the mask or keypoint head means no pooler,
    as there: the head gets the feature maps themselves.
    """

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        pooler = build_roi_pooler(cfg, input_shape, "ROI_BOX_HEAD")
        ret = super()._init_box_head(with_stock_pooler(cfg, "ROI_BOX_HEAD"), input_shape)
        return {**ret, "box_pooler": pooler}

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.MASK_ON or not cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE:
            return super()._init_mask_head(cfg, input_shape)
        pooler = build_roi_pooler(cfg, input_shape, "ROI_MASK_HEAD")
        ret = super()._init_mask_head(with_stock_pooler(cfg, "ROI_MASK_HEAD"), input_shape)
        return {**ret, "mask_pooler": pooler}

    @classmethod
    def _init_keypoint_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.KEYPOINT_ON or not cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE:
            return super()._init_keypoint_head(cfg, input_shape)
        pooler = build_roi_pooler(cfg, input_shape, "ROI_KEYPOINT_HEAD")
        ret = super()._init_keypoint_head(with_stock_pooler(cfg, "ROI_KEYPOINT_HEAD"), input_shape)
        return {**ret, "keypoint_pooler": pooler}
