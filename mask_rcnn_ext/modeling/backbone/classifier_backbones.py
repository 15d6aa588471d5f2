"""VGG-16 and AlexNet, the classifiers under R-CNN, Fast R-CNN and Faster R-CNN, as backbones.

The layers are torchvision's `vgg16().features` and `alexnet().features`, under the same names, so
that its ImageNet weights load (`mask_rcnn_ext.checkpoint.torchvision_weights`). Nothing is
downloaded to build them. The fully connected layers are the box head, `ClassifierBoxHead`.

torchvision's AlexNet, on which R-CNN stands here, is not Caffe's, on which it stood: it has no
local response normalisation and no groups; 64, 192, 384, 256, 256 channels in place of 96, 256,
384, 384, 256; it pads the image by 2 pixels. Of 227 x 227 pixels both make 6 x 6 x 256 numbers in
pool5.

Pooling rounds sizes down, Caffe's up. Images in a batch are padded to multiples of the stride,
where the two agree for VGG-16.
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

__all__ = ["ClassifierBackbone", "build_alexnet_backbone", "build_vgg16_backbone"]

# Stride of each map that a backbone can give. conv5 ends with its ReLU; pool5 halves it once more.
_STRIDES = {"conv5": 16, "pool5": 32}
# Where the five stages of convolutions begin in torchvision's `features`.
_VGG16_STAGES = (0, 5, 10, 17, 24)
_ALEXNET_STAGES = (0, 3, 6, 8, 10)


class ClassifierBackbone(Backbone):
    """The convolutions of an image classifier, up to conv5 or pool5.

    Args:
        features: torchvision's; five stages of convolutions, the last layer is pool5.
        stages: index in `features` at which each of the five stages begins.
        out_features: which of "conv5" (stride 16) and "pool5" (stride 32) to return.
        freeze_at: the first so many stages are fixed: 0 none, 5 all.

    Raises:
        UserError: another feature is asked for, or `freeze_at` is not from 0 to 5.
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

        h and w are those of the module docstring's arithmetic, H / stride rounded in VGG-16.
        """
        maps, last = {}, images
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                maps["conv5"] = last  # in the end, what comes before the last pooling layer
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
    device = torch.empty(0).device  # the one that modules are being built on
    with torch.device("meta"):  # its fully connected layers, most of the weights, are not needed
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


@BACKBONE_REGISTRY.register()
def build_vgg16_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ClassifierBackbone:
    """Build VGG-16's convolutions, 512 channels.

    Reads `MODEL.RESNETS.OUT_FEATURES`, ["conv5"] for Fast and Faster R-CNN and ["pool5"] for R-CNN,
    and `MODEL.BACKBONE.FREEZE_AT`: Fast R-CNN trains conv3_1 and up, which is 2.

    Raises:
        UserError: see `ClassifierBackbone`; or images of other than 3 channels.
    """
    return _build(vgg16, _VGG16_STAGES, cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_alexnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ClassifierBackbone:
    """Build torchvision's AlexNet's convolutions, 256 channels.

    Reads the keys of `build_vgg16_backbone`; a stage is one convolution. The layers have no padding
    that would make h and w a fraction of the image's sides: 227 pixels are 13 cells of conv5 and 6
    of pool5. That suits crops of one size, R-CNN's, and ["pool5"].

    Raises:
        UserError: see `ClassifierBackbone`; or images of other than 3 channels.
    """
    return _build(alexnet, _ALEXNET_STAGES, cfg, input_shape)
