"""The C4 heads: res5, the last stage of the ResNet, runs on each RoI (Mask R-CNN, Figure 4 left).

The paper pools 7 x 7 cells per RoI and runs res5 with stride 1; detectron2, like the first ResNet
detector, pools 14 x 14 and halves them with a stride of 2. Both end at 7 x 7, with the same
parameters. `MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION` chooses: res5's stride is a seventh of it, the
rule of Detectron, the paper authors' own code.
"""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, build_mask_head
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from ...errors import UserError
from ..backbone.tiny_resnet import build_tiny_res5
from .roi_heads import build_roi_pooler, with_stock_pooler

__all__ = ["RES5_SIDE", "MaskRCNNRes5ROIHeads", "MaskRCNNTinyRes5ROIHeads"]

RES5_SIDE = 7  # of res5's output, in cells


def _res5_stride(cfg: CfgNode) -> int:
    """Return the stride of res5 that makes `RES5_SIDE` of the pooled features' side."""
    side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
    if side not in (RES5_SIDE, 2 * RES5_SIDE):
        raise UserError(
            "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION: with res5 as the head, expected 7 (the paper's "
            f"head: res5 with stride 1) or 14 (detectron2's: stride 2), got {side}"
        )
    return side // RES5_SIDE


def _require_single_map(cfg: CfgNode) -> None:
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


def _remove_stride(block: BottleneckBlock) -> None:
    """Give a block of stride 2 the stride 1, in place; its parameters stay as they are."""
    for conv in block.modules():
        if isinstance(conv, Conv2d):
            conv.stride = (1, 1)
    block.stride = 1


@ROI_HEADS_REGISTRY.register()
class MaskRCNNRes5ROIHeads(Res5ROIHeads):
    """`Res5ROIHeads` with the paper's head, or detectron2's, and this package's RoI layers.

    `MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION` 7 is the paper's head, 14 detectron2's; with 14 and a
    pooler type of detectron2's, it is `Res5ROIHeads`: the same state dict, losses and predictions,
    bit for bit. A checkpoint of either loads into the other, but was not trained for it.

    Box and mask share the pooled features and res5: in training the mask branch takes those of the
    positive proposals, at test they are computed again on the detected boxes. The mask head is told
    the side of what it really gets, 7, where detectron2 tells it 14.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Translate the config into the constructor's arguments.

        Raises:
            UserError: the pooler's resolution is neither 7 nor 14, there is not exactly one
                feature map, or the keypoint branch is on; or see `build_roi_pooler`.
        """
        _res5_stride(cfg)
        _require_single_map(cfg)
        pooler = build_roi_pooler(cfg, input_shape, "ROI_BOX_HEAD")
        # The mask head is built here, for its true input, in the place where `super` builds it: so
        # it draws the same random numbers.
        without_mask = with_stock_pooler(cfg, "ROI_BOX_HEAD")
        without_mask.MODEL.MASK_ON = False
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
        if _res5_stride(cfg) == 1:
            _remove_stride(res5[0])
        return res5, out_channels


@ROI_HEADS_REGISTRY.register()
class MaskRCNNTinyRes5ROIHeads(MaskRCNNRes5ROIHeads):
    """`MaskRCNNRes5ROIHeads` whose res5 is that of the tiny ResNet, for C4 models on small images.

    Reads `MODEL.TINY_RESNET` in place of `MODEL.RESNETS`; belongs to `build_tiny_resnet_backbone`
    with `MODEL.RESNETS.OUT_FEATURES` ["res4"].
    """

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        tiny = cfg.MODEL.TINY_RESNET
        blocks = build_tiny_res5(
            channels=tiny.CHANNELS, blocks=tiny.BLOCKS, norm=tiny.NORM, stride=_res5_stride(cfg)
        )
        return nn.Sequential(*blocks), tiny.CHANNELS[3]
