"""VGG-16 and AlexNet, the classifiers of R-CNN, Fast R-CNN and Faster R-CNN, as backbones.

The layers are torchvision's `vgg16().features` and `alexnet().features`, with the same names, so
that its ImageNet weights load (`mask_rcnn_ext.checkpoint.torchvision_weights`). Building a model
downloads nothing. The fully connected layers are the box head, `ClassifierBoxHead`.

torchvision's AlexNet differs from Caffe's AlexNet, which R-CNN used: it has no local response
normalisation and no groups; it has 64, 192, 384, 256, 256 channels instead of 96, 256, 384, 384,
256; and it pads the image by 2 pixels. With 227 x 227 pixels, pool5 has 6 x 6 x 256 numbers in
both.

Pooling layers round sizes down, where Caffe's round up. Images in a batch are padded to multiples
of the stride, where the two agree for VGG-16.
"""

from collections.abc import Callable, Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torchvision.models import alexnet, vgg16

from ...errors import UserError, nearest
from ..registration import register_as

__all__ = ["ClassifierBackbone", "build_alexnet_backbone", "build_vgg16_backbone"]

# Stride of each map that a backbone can return. conv5 ends with its ReLU; pool5 halves its sides.
_STRIDES = {"conv5": 16, "pool5": 32}
# Where the five stages of convolutions begin in torchvision's `features`.
_VGG16_STAGES = (0, 5, 10, 17, 24)
_ALEXNET_STAGES = (0, 3, 6, 8, 10)


class ClassifierBackbone(Backbone):
    """The convolutions of an image classifier, up to conv5 or pool5.

    Args:
        features: torchvision's layers: five stages of convolutions; the last layer is pool5.
        stages: index in `features` where each of the five stages begins.
        out_features: which of "conv5" (stride 16) and "pool5" (stride 32) to return.
        freeze_at: number of stages to freeze, from the first: 0 none, 5 all.

    Raises:
        UserError: a feature in `out_features` does not exist, or `freeze_at` is not from 0 to 5.
    """

    def __init__(
        self,
        features: nn.Sequential,
        *,
        stages: Sequence[int],
        out_features: Sequence[str],
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        for name in out_features or [""]:
            if name not in _STRIDES:
                raise UserError(
                    f"MODEL.RESNETS.OUT_FEATURES: expected some of {', '.join(_STRIDES)}, which "
                    f"this backbone has, got {name!r}{nearest(name, _STRIDES)}"
                )
        if not 0 <= freeze_at <= len(stages):
            raise UserError(
                "MODEL.BACKBONE.FREEZE_AT: expected a number of stages of this backbone, from 0 to "
                f"{len(stages)}, got {freeze_at}"
            )
        if "pool5" not in out_features:
            features = features[:-1]
        self.features = features
        last = next(m for m in reversed(list(features)) if isinstance(m, nn.Conv2d))
        self._out_features = list(dict.fromkeys(out_features))
        self._out_feature_strides = {name: _STRIDES[name] for name in self._out_features}
        self._out_feature_channels = dict.fromkeys(self._out_features, last.out_channels)
        frozen = [*stages, len(features)][freeze_at]
        for parameter in features[:frozen].parameters():
            parameter.requires_grad = False

    @property
    def size_divisibility(self) -> int:
        """The largest stride."""
        return max(self._out_feature_strides.values())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Map (N, 3, H, W) to {feature: (N, C, h, w)}.

        In VGG-16, h and w are H and W divided by the stride, rounded down.
        """
        maps, last = {}, images
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps["conv5"] = last  # overwritten until the last pooling layer
            last = layer(last)
        maps["pool5" if "pool5" in self._out_features else "conv5"] = last
        return {name: maps[name] for name in self._out_features}


def _build(
    classifier: Callable[..., Any], stages: Sequence[int], cfg: CfgNode, shape: ShapeSpec
) -> ClassifierBackbone:
    if shape.channels != 3:
        raise UserError(
            "MODEL.PIXEL_MEAN: expected 3 numbers, since this backbone takes images of 3 channels, "
            f"got {shape.channels}"
        )
    device = torch.empty(0).device  # the current default device
    with torch.device("meta"):  # most weights are in the fully connected layers, which are dropped
        features = classifier(weights=None).features
    features.to_empty(device=device)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            weight_init.c2_msra_fill(layer)
    return ClassifierBackbone(
        features,
        stages=stages,
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )


@register_as(BACKBONE_REGISTRY, "mask_rcnn_ext_vgg16_backbone")
def build_vgg16_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ClassifierBackbone:
    """Build VGG-16's convolutions, with 512 output channels.

    It reads `MODEL.RESNETS.OUT_FEATURES`, ["conv5"] for Fast and Faster R-CNN and ["pool5"] for
    R-CNN, and `MODEL.BACKBONE.FREEZE_AT`; Fast R-CNN trains conv3_1 and up, which is 2.

    Raises:
        UserError: see `ClassifierBackbone`; or the images do not have 3 channels.
    """
    return _build(vgg16, _VGG16_STAGES, cfg, input_shape)


@register_as(BACKBONE_REGISTRY, "mask_rcnn_ext_alexnet_backbone")
def build_alexnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ClassifierBackbone:
    """Build the convolutions of torchvision's AlexNet, with 256 output channels.

    It reads the same keys as `build_vgg16_backbone`; a stage is one convolution. The padding of the
    layers does not make h and w a fraction of the image's sides: 227 pixels become 13 cells in
    conv5 and 6 in pool5. So this backbone is for crops of one size, as in R-CNN, and ["pool5"].

    Raises:
        UserError: see `ClassifierBackbone`; or the images do not have 3 channels.
    """
    return _build(alexnet, _ALEXNET_STAGES, cfg, input_shape)
