"""Backbones, registered in detectron2's `BACKBONE_REGISTRY`."""

from .classifier_backbones import build_alexnet_backbone, build_vgg16_backbone
from .non_local import build_nonlocal_resnet_fpn_backbone
from .timm_backbone import build_timm_backbone, build_timm_fpn_backbone
from .tiny_resnet import build_tiny_resnet_backbone, build_tiny_resnet_fpn_backbone

__all__ = [
    "build_alexnet_backbone",
    "build_nonlocal_resnet_fpn_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "build_tiny_resnet_backbone",
    "build_tiny_resnet_fpn_backbone",
    "build_vgg16_backbone",
]
