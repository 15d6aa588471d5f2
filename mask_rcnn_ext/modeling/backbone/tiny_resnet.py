"""A small ResNet, with an FPN or without, for small images and for training from scratch.

The stages are made of detectron2's `BasicBlock`; their widths and depths are configurable. The stem
is two 3 x 3 convolutions of stride 2 instead of ResNet's 7 x 7 convolution and max pooling, which
lose the detail of small objects. The strides are the same as in ResNet: res2..res5 at 4, 8, 16, 32.
`MODEL.BACKBONE.FREEZE_AT` is not read, since there are no pre-trained weights to freeze.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, Backbone, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, CNNBlockBase
from torch.nn import functional as F

from ...errors import UserError, nearest
from ..registration import register_as

__all__ = [
    "TinyStem",
    "build_fpn",
    "build_tiny_res5",
    "build_tiny_resnet",
    "build_tiny_resnet_backbone",
    "build_tiny_resnet_fpn_backbone",
]

STAGES = ("res2", "res3", "res4", "res5")


class TinyStem(CNNBlockBase):
    """Two 3 x 3 convolutions, each with stride 2, norm and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, norm: str) -> None:
        """Build the stem; both convolutions have `out_channels` channels, the total stride is 4."""
        super().__init__(in_channels, out_channels, 4)
        for index, channels in enumerate((in_channels, out_channels), start=1):
            conv = Conv2d(
                channels,
                out_channels,
                kernel_size=3,
                stride=2,
                padding=1,
                bias=False,
                norm=get_norm(norm, out_channels),
            )
            weight_init.c2_msra_fill(conv)
            self.add_module(f"conv{index}", conv)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to (N, out_channels, H / 4, W / 4)."""
        return F.relu_(self.conv2(F.relu_(self.conv1(images))))


def build_tiny_resnet(
    in_channels: int,
    *,
    stem_channels: int,
    channels: Sequence[int],
    blocks: Sequence[int],
    norm: str,
    out_features: Sequence[str],
    res4_dilation: int = 1,
    res5_dilation: int = 1,
) -> ResNet:
    """Build the bottom-up network.

    Args:
        in_channels: channels of the images.
        stem_channels: channels of the stem.
        channels: channels of res2..res5, four numbers.
        blocks: number of basic blocks of res2..res5, four numbers; a block is two 3 x 3
            convolutions.
        norm: a name that `detectron2.layers.get_norm` knows.
        out_features: which of "res2".."res5" to return. The network ends with the last feature.
        res4_dilation: 1, or 2 for a res4 that stays at stride 8; works as `res5_dilation`.
        res5_dilation: 1, or 2 for a res5 that stays at the stride of res4. Its convolutions after
            the first are dilated by 2, so every second cell is a cell of the strided res5. (In
            detectron2's `build_resnet_backbone` the stride is in a 1 x 1 convolution, so there all
            3 x 3 convolutions are dilated.) On a dilated res4, the first convolution is dilated by
            2 and the others by 4.

    Raises:
        UserError: `channels` or `blocks` is not four numbers; two consecutive stages have the same
            width (detectron2's `BasicBlock` would have no shortcut to halve the resolution); a
            stage is unknown; a dilation is neither 1 nor 2; or res4 is dilated and res5 is not.
    """
    _require_four_stages(channels, blocks)
    for name in out_features:
        if name not in STAGES:
            raise UserError(
                f"expected some of {', '.join(STAGES)} as features of the tiny ResNet, got "
                f"{name!r}{nearest(name, STAGES)}"
            )
    _require_dilations(res4_dilation, res5_dilation, out_features)
    stages = []
    dilation = 1  # of the stages so far
    for index, (width, depth) in enumerate(zip(channels, blocks, strict=True)):
        more = {"res4": res4_dilation, "res5": res5_dilation}.get(STAGES[index], 1)
        stage = _build_stage(
            channels[index - 1] if index else stem_channels,
            width,
            depth,
            stride=1 if index == 0 or more == 2 else 2,
            norm=norm,
        )
        _dilate(stage, first=dilation, later=dilation * more)
        dilation *= more
        stages.append(stage)
    return ResNet(
        TinyStem(in_channels, stem_channels, norm), stages, out_features=list(out_features)
    )


def build_tiny_res5(
    *, channels: Sequence[int], blocks: Sequence[int], norm: str, stride: int
) -> list[BasicBlock]:
    """Build only res5, for a head that applies it to each RoI.

    Args:
        channels: channels of res2..res5, four numbers; res5 maps `channels[2]` to `channels[3]`.
        blocks: number of basic blocks of res2..res5, four numbers.
        norm: a name that `detectron2.layers.get_norm` knows.
        stride: stride of the first block.

    Raises:
        UserError: see `build_tiny_resnet`.
    """
    _require_four_stages(channels, blocks)
    return _build_stage(channels[2], channels[3], blocks[3], stride=stride, norm=norm)


def _require_four_stages(channels: Sequence[int], blocks: Sequence[int]) -> None:
    if len(channels) != 4 or len(blocks) != 4:
        raise UserError(
            "MASK_RCNN_EXT.TINY_RESNET: expected four numbers for res2..res5, got CHANNELS "
            f"{list(channels)}, BLOCKS {list(blocks)}"
        )
    if any(a == b for a, b in itertools.pairwise(channels)):
        raise UserError(
            f"MASK_RCNN_EXT.TINY_RESNET.CHANNELS: expected every stage to change the width, got "
            f"{channels}"
        )


def _build_stage(
    in_channels: int, out_channels: int, depth: int, *, stride: int, norm: str
) -> list[BasicBlock]:
    return ResNet.make_stage(
        BasicBlock,
        depth,
        stride_per_block=[stride] + [1] * (depth - 1),
        in_channels=in_channels,
        out_channels=out_channels,
        norm=norm,
    )


def _require_dilations(res4: int, res5: int, out_features: Sequence[str]) -> None:
    for key, value in (("MASK_RCNN_EXT.TINY_RESNET.RES4", res4), ("MODEL.RESNETS.RES5", res5)):
        if value not in (1, 2):
            raise UserError(f"{key}_DILATION: expected 1 or 2, got {value}")
    if res4 == 2 and res5 == 1 and "res5" in out_features:
        raise UserError(
            "MASK_RCNN_EXT.TINY_RESNET.RES4_DILATION is 2, which needs MODEL.RESNETS.RES5_DILATION "
            "2: expected a res5 at the same stride, got RES5_DILATION 1"
        )


def _dilate(stage: list[BasicBlock], *, first: int, later: int) -> None:
    """Dilate the stage's first convolution by `first` and the others by `later`, in place.

    `BasicBlock` takes no dilation. In the strided stage the first convolution has the stride, and
    the others read cells that are twice as far apart; the dilation keeps these distances.
    """
    convs = [conv for block in stage for conv in (block.conv1, block.conv2)]
    for index, conv in enumerate(convs):
        dilation = later if index else first
        conv.dilation = conv.padding = (dilation, dilation)


def _build_from_config(cfg: CfgNode, input_shape: ShapeSpec, **options: Any) -> ResNet:
    tiny = cfg.MASK_RCNN_EXT.TINY_RESNET
    return build_tiny_resnet(
        input_shape.channels,
        stem_channels=tiny.STEM_CHANNELS,
        channels=tiny.CHANNELS,
        blocks=tiny.BLOCKS,
        norm=tiny.NORM,
        **options,
    )


@register_as(BACKBONE_REGISTRY, "mask_rcnn_ext_tiny_resnet_backbone")
def build_tiny_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build the tiny ResNet without an FPN, for heads on C4 or C5.

    It reads `MASK_RCNN_EXT.TINY_RESNET`, and detectron2's keys `MODEL.RESNETS.OUT_FEATURES`
    (["res4"] for C4, ["res5"] for C5) and `MODEL.RESNETS.RES5_DILATION` (2: the dilated C5).

    Raises:
        UserError: see `build_tiny_resnet`.
    """
    resnets = cfg.MODEL.RESNETS
    return _build_from_config(
        cfg,
        input_shape,
        out_features=resnets.OUT_FEATURES,
        res4_dilation=cfg.MASK_RCNN_EXT.TINY_RESNET.RES4_DILATION,
        res5_dilation=resnets.RES5_DILATION,
    )


@register_as(BACKBONE_REGISTRY, "mask_rcnn_ext_tiny_resnet_fpn_backbone")
def build_tiny_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build the tiny ResNet with detectron2's FPN on top: p2..p5 and p6 at strides 4..64.

    It reads `MASK_RCNN_EXT.TINY_RESNET` and detectron2's `MODEL.FPN`.
    """
    return build_fpn(
        cfg, _build_from_config(cfg, input_shape, out_features=cfg.MODEL.FPN.IN_FEATURES)
    )


def build_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Build detectron2's FPN on a backbone; it reads `MODEL.FPN`."""
    fpn = cfg.MODEL.FPN
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )
