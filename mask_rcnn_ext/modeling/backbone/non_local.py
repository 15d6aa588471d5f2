"""The non-local block in detectron2's ResNet-FPN (Mask R-CNN, appendix B, Table 8 "+Non-local").

The block comes from X. Wang, R. Girshick, A. Gupta, K. He, "Non-local Neural Networks"
(arXiv:1711.07971), section 3: embedded Gaussian, bottleneck, residual connection. For detection,
that paper puts one block before the last residual block of res4 (its section 6).

Letters: N images, C channels, E = C // 2 embedding channels, H x W positions.
"""

from collections import OrderedDict

import torch
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, ResNet
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone
from torch import nn

from ...errors import UserError, nearest
from ..registration import register_as

__all__ = ["NonLocalBlock", "build_nonlocal_resnet_fpn_backbone", "insert_non_local"]


class NonLocalBlock(CNNBlockBase):
    """Add to each position a weighted sum over all positions of its image.

        z_i = x_i + W_z sum_j softmax_j(theta(x_i) . phi(x_j)) g(x_j)

    theta, phi and g are 1 x 1 convolutions to C // 2 channels; W_z is a 1 x 1 convolution back to
    C. As in the paper, the block starts as the identity and the dot product is not scaled.
    Differences from the paper: W_z is a convolution whose weight and bias start at zero, where the
    paper adds a batch normalisation whose scale starts at zero, because a batch of one or two
    images gives no useful statistics; and the optional subsampling of phi and g is left out.

    In a batch of images of different sizes the padding takes part, as in every layer.
    """

    def __init__(self, channels: int) -> None:
        """Build the block for feature maps of `channels` channels; the stride is 1."""
        super().__init__(channels, channels, 1)
        embedding = channels // 2
        self.theta = Conv2d(channels, embedding, kernel_size=1)
        self.phi = Conv2d(channels, embedding, kernel_size=1)
        self.g = Conv2d(channels, embedding, kernel_size=1)
        self.out = Conv2d(embedding, channels, kernel_size=1)
        for conv in (self.theta, self.phi, self.g):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, C, H, W) to the same shape.

        Memory grows with the square of H * W: with 800 x 1333 pixels, res4 has 50 x 84 positions,
        and their weights take 67 MiB per image in float32.
        """
        count, _, height, width = features.shape
        queries = self.theta(features).flatten(2).transpose(1, 2)  # (N, HW, E)
        keys = self.phi(features).flatten(2)  # (N, E, HW)
        values = self.g(features).flatten(2).transpose(1, 2)  # (N, HW, E)
        weights = torch.softmax(torch.bmm(queries, keys), dim=2)  # over j, for each i
        summed = torch.bmm(weights.to(values.dtype), values).transpose(1, 2)
        return features + self.out(summed.reshape(count, -1, height, width))


def insert_non_local(resnet: ResNet, stage_name: str) -> None:
    """Put a `NonLocalBlock` before the last residual block of a stage, in place.

    The block's parameters are `<stage>.non_local.*`. No other name in the state dict changes, so
    pre-trained weights of the plain network fit.

    Args:
        resnet: a network without a non-local block in this stage.
        stage_name: "res2".."res5".

    Raises:
        UserError: the network has no such stage, or the stage already has the block.
    """
    if stage_name not in resnet.stage_names:
        raise UserError(
            f"MASK_RCNN_EXT.NON_LOCAL.STAGES: expected some of {', '.join(resnet.stage_names)}, "
            f"got {stage_name!r}{nearest(stage_name, resnet.stage_names)}"
        )
    blocks = OrderedDict(getattr(resnet, stage_name).named_children())
    if "non_local" in blocks:
        raise UserError(
            f"MASK_RCNN_EXT.NON_LOCAL.STAGES: {stage_name!r} is listed twice; list it once"
        )
    last_name, last_block = blocks.popitem()
    # `nn.Sequential` runs its children in their order; their names do not matter.
    blocks["non_local"] = NonLocalBlock(last_block.in_channels)
    blocks[last_name] = last_block
    stage = nn.Sequential(blocks)
    setattr(resnet, stage_name, stage)
    resnet.stages[resnet.stage_names.index(stage_name)] = stage  # `stages` is a plain list


@register_as(BACKBONE_REGISTRY, "mask_rcnn_ext_nonlocal_resnet_fpn_backbone")
def build_nonlocal_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build detectron2's `build_resnet_fpn_backbone` with non-local blocks in some stages.

    It reads `MASK_RCNN_EXT.NON_LOCAL.STAGES` and the keys of detectron2's builder. In a stage that
    `MODEL.BACKBONE.FREEZE_AT` freezes, the block is still trained.

    Raises:
        UserError: see `insert_non_local`.
    """
    backbone = build_resnet_fpn_backbone(cfg, input_shape)
    for stage_name in cfg.MASK_RCNN_EXT.NON_LOCAL.STAGES:
        insert_non_local(backbone.bottom_up, stage_name)
    return backbone
