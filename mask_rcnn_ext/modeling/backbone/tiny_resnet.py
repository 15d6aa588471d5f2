"""A small ResNet with an FPN, for small images and for training from scratch.

The stages are detectron2's `BasicBlock`s; the widths and depths are configurable, and the stem is
two 3 x 3 convolutions of stride 2 in place of the 7 x 7 convolution and the max pooling of ResNet,
which throw away what small objects need. Strides are those of every ResNet: res2..res5 at 4, 8, 16,
32.
"""

import itertools
from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, CNNBlockBase
from torch.nn import functional as F

from ...errors import UserError

__all__ = ["TinyStem", "build_tiny_resnet", "build_tiny_resnet_fpn_backbone"]


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
) -> ResNet:
    """Build the bottom-up network.

    Args:
        in_channels: of the images.
        stem_channels: of the stem's output.
        channels: of res2..res5, four numbers.
        blocks: number of basic blocks of res2..res5, four numbers; a block is two 3 x 3
            convolutions.
        norm: a name that `detectron2.layers.get_norm` knows.
        out_features: which of "res2".."res5" to return.

    Raises:
        UserError: `channels` or `blocks` is not four numbers, or a stage that halves the resolution
            keeps the width: detectron2's `BasicBlock` has no shortcut for that.
    """
    if len(channels) != 4 or len(blocks) != 4:
        raise UserError(
            "MODEL.TINY_RESNET: expected four numbers for res2..res5, got CHANNELS "
            f"{list(channels)}, BLOCKS {list(blocks)}"
        )
    if any(a == b for a, b in itertools.pairwise(channels)):
        raise UserError(
            f"MODEL.TINY_RESNET.CHANNELS: expected every stage to change the width, got {channels}"
        )
    stages, previous = [], stem_channels
    for index, (width, depth) in enumerate(zip(channels, blocks, strict=True)):
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                depth,
                stride_per_block=[1 if index == 0 else 2] + [1] * (depth - 1),
                in_channels=previous,
                out_channels=width,
                norm=norm,
            )
        )
        previous = width
    return ResNet(
        TinyStem(in_channels, stem_channels, norm), stages, out_features=list(out_features)
    )


@BACKBONE_REGISTRY.register()
def build_tiny_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a `build_tiny_resnet` with detectron2's FPN on top: p2..p5 and p6 at strides 4..64.

    Reads `MODEL.TINY_RESNET` and detectron2's `MODEL.FPN`.
    """
    tiny, fpn = cfg.MODEL.TINY_RESNET, cfg.MODEL.FPN
    bottom_up = build_tiny_resnet(
        input_shape.channels,
        stem_channels=tiny.STEM_CHANNELS,
        channels=tiny.CHANNELS,
        blocks=tiny.BLOCKS,
        norm=tiny.NORM,
        out_features=fpn.IN_FEATURES,
    )
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=fpn.FUSE_TYPE,
    )
