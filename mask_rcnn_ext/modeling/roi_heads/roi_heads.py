"""detectron2's RoI heads with this package's RoI layers (Mask R-CNN, Figure 4).

`MaskRCNNROIHeads` are the heads whose box, mask and keypoint branches pool for themselves: on an
FPN, on C5 at stride 32 (Table 2d) and on dilated C5.

`MaskRCNNRes5ROIHeads` are the C4 heads, where res5, the last stage of the ResNet, runs on each RoI.
The paper pools 7 x 7 cells per RoI and runs res5 with stride 1. detectron2, like the first ResNet
detector, pools 14 x 14 cells and halves them with a stride of 2. Both end at 7 x 7 and have the
same parameters. `MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION` chooses between them: the stride of res5 is
a seventh of this number, as in Detectron, the code of the paper's authors.
"""

import copy
from typing import Any, Final

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, build_mask_head
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
from torch import nn

from ...errors import UserError, nearest
from ..backbone.tiny_resnet import build_tiny_res5
from ..poolers import MaskRCNNROIPooler

__all__ = [
    "MaskRCNNROIHeads",
    "MaskRCNNRes5ROIHeads",
    "MaskRCNNTinyRes5ROIHeads",
    "build_roi_pooler",
]

RES5_SIDE = 7  # side of res5's output, in cells


def build_roi_pooler(cfg: CfgNode, input_shape: dict[str, ShapeSpec], head: str) -> ROIPooler:
    """Build the pooler of one head from its keys `POOLER_{TYPE,RESOLUTION,SAMPLING_RATIO}`.

    It is a `MaskRCNNROIPooler`, except for rotated boxes ("ROIAlignRotated"): detectron2's.

    Args:
        cfg: the config; `MODEL.ROI_HEADS.IN_FEATURES` names the feature maps, finest first.
        input_shape: shapes of the backbone's feature maps; their strides are powers of 2.
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
    rotated = keys.POOLER_TYPE == "ROIAlignRotated"
    return (ROIPooler if rotated else MaskRCNNROIPooler)(
        output_size=keys.POOLER_RESOLUTION,
        scales=tuple(1.0 / input_shape[k].stride for k in cfg.MODEL.ROI_HEADS.IN_FEATURES),
        sampling_ratio=keys.POOLER_SAMPLING_RATIO,
        pooler_type=keys.POOLER_TYPE,
    )


def _set_stock_pooler(cfg: CfgNode, head: str) -> CfgNode:
    """Return a copy of `cfg` whose `head` has a `POOLER_TYPE` that detectron2 can build.

    detectron2 builds pooler and head in one function. Its pooler has no parameters and draws no
    random numbers, so the heads can replace it by the result of `build_roi_pooler`.
    """
    cfg = copy.deepcopy(cfg)  # an OmegaConf config has no `clone`
    cfg.MODEL[head]["POOLER_TYPE"] = "ROIAlignV2"  # an item can be set in a frozen config
    return cfg


@ROI_HEADS_REGISTRY.register()
class MaskRCNNROIHeads(StandardROIHeads):
    """`StandardROIHeads` with every `POOLER_TYPE` of `MaskRCNNROIPooler`.

    With a pooler type of detectron2 these heads have the same state dict, losses and predictions as
    `StandardROIHeads`, bit for bit. As there, an empty `POOLER_TYPE` of the mask or keypoint head
    means no pooler: the head gets the feature maps. They can be scripted where `StandardROIHeads`
    can, with every pooler type (`detectron2.export.scripting_with_instances`).
    """

    # TorchScript leaves out the branches that these switch off. When detectron2 scripts a model, it
    # annotates its own class in this way, which does not reach subclasses.
    mask_on: Final[bool]  # type: ignore[misc]  # the base class sets it
    keypoint_on: Final[bool]  # type: ignore[misc]

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        pooler = build_roi_pooler(cfg, input_shape, "ROI_BOX_HEAD")
        ret = super()._init_box_head(_set_stock_pooler(cfg, "ROI_BOX_HEAD"), input_shape)
        return {**ret, "box_pooler": pooler}

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.MASK_ON or not cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE:
            return super()._init_mask_head(cfg, input_shape)
        pooler = build_roi_pooler(cfg, input_shape, "ROI_MASK_HEAD")
        ret = super()._init_mask_head(_set_stock_pooler(cfg, "ROI_MASK_HEAD"), input_shape)
        return {**ret, "mask_pooler": pooler}

    @classmethod
    def _init_keypoint_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        if not cfg.MODEL.KEYPOINT_ON or not cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_TYPE:
            return super()._init_keypoint_head(cfg, input_shape)
        pooler = build_roi_pooler(cfg, input_shape, "ROI_KEYPOINT_HEAD")
        ret = super()._init_keypoint_head(_set_stock_pooler(cfg, "ROI_KEYPOINT_HEAD"), input_shape)
        return {**ret, "keypoint_pooler": pooler}


@ROI_HEADS_REGISTRY.register()
class MaskRCNNRes5ROIHeads(Res5ROIHeads):
    """`Res5ROIHeads` with the paper's head or detectron2's, and this package's RoI layers.

    `MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION` 7 is the paper's head, 14 is detectron2's. With 14 and a
    pooler type of detectron2, these heads have the same state dict, losses and predictions as
    `Res5ROIHeads`, bit for bit. A checkpoint of one head loads into the other, but was not trained
    for it.

    Box and mask share the pooled features and res5. In training the mask branch reads the features
    of the positive proposals; in testing the features are computed again on the detected boxes. The
    mask head is built for the side that it gets, 7, where detectron2 announces 14.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Translate the config into the constructor's arguments.

        Raises:
            UserError: the pooler's resolution is neither 7 nor 14, there is not exactly one
                feature map, or the keypoint branch is on; or see `build_roi_pooler`.
        """
        _get_res5_stride(cfg)  # raises an error for other resolutions
        features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        if len(features) != 1:
            raise UserError(
                "MODEL.ROI_HEADS.IN_FEATURES: with res5 as the head, expected one feature map, got "
                f"{list(features)}; several are for MODEL.ROI_HEADS.NAME MaskRCNNROIHeads"
            )
        if cfg.MODEL.KEYPOINT_ON:
            raise UserError(
                f"MODEL.KEYPOINT_ON: {cfg.MODEL.ROI_HEADS.NAME} has no keypoint branch; use "
                "MODEL.ROI_HEADS.NAME MaskRCNNROIHeads, on an FPN or on C5"
            )
        pooler = build_roi_pooler(cfg, input_shape, "ROI_BOX_HEAD")
        # `super` would build the mask head for 14 x 14 cells. It is built below instead, in the
        # same order, so that it draws the same random numbers.
        without_mask = _set_stock_pooler(cfg, "ROI_BOX_HEAD")
        without_mask.MODEL["MASK_ON"] = False
        ret = super().from_config(without_mask, input_shape)
        ret["pooler"] = pooler
        if cfg.MODEL.MASK_ON:
            channels = ret["res5"][-1].out_channels
            shape = ShapeSpec(channels=channels, height=RES5_SIDE, width=RES5_SIDE)
            ret["mask_head"] = build_mask_head(cfg, shape)
        return ret

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        res5, out_channels = super()._build_res5_block(cfg)
        if _get_res5_stride(cfg) == 1:
            for conv in res5[0].modules():
                if isinstance(conv, Conv2d):
                    conv.stride = (1, 1)
            res5[0].stride = 1
        return res5, out_channels


@ROI_HEADS_REGISTRY.register()
class MaskRCNNTinyRes5ROIHeads(MaskRCNNRes5ROIHeads):
    """`MaskRCNNRes5ROIHeads` with the res5 of the tiny ResNet, for C4 models on small images.

    These heads read `MASK_RCNN_EXT.TINY_RESNET` instead of `MODEL.RESNETS`. They belong to
    `mask_rcnn_ext_tiny_resnet_backbone` with `MODEL.RESNETS.OUT_FEATURES` ["res4"].
    """

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        tiny, stride = cfg.MASK_RCNN_EXT.TINY_RESNET, _get_res5_stride(cfg)
        blocks = build_tiny_res5(
            channels=tiny.CHANNELS, blocks=tiny.BLOCKS, norm=tiny.NORM, stride=stride
        )
        return nn.Sequential(*blocks), tiny.CHANNELS[3]


def _get_res5_stride(cfg: CfgNode) -> int:
    """Return the stride of res5 that reduces the pooled features to `RES5_SIDE` cells."""
    side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
    if side not in (RES5_SIDE, 2 * RES5_SIDE):
        raise UserError(
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION: with res5 as the head, expected 7 (the paper's "
            f"head: res5 with stride 1) or 14 (detectron2's: stride 2), got {side}"
        )
    return side // RES5_SIDE
