"""Backbones, registered in detectron2's `BACKBONE_REGISTRY`."""

from .non_local import build_nonlocal_resnet_fpn_backbone
from .timm_backbone import build_timm_backbone, build_timm_fpn_backbone
from .tiny_resnet import build_tiny_resnet_backbone, build_tiny_resnet_fpn_backbone

__all__ = [
    "build_nonlocal_resnet_fpn_backbone",
    "build_timm_backbone",
    "build_timm_fpn_backbone",
    "build_tiny_resnet_backbone",
    "build_tiny_resnet_fpn_backbone",
]
