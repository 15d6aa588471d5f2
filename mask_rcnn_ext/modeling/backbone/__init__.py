"""Backbones, registered in detectron2's `BACKBONE_REGISTRY`."""

from .tiny_resnet import build_tiny_resnet_fpn_backbone

__all__ = ["build_tiny_resnet_fpn_backbone"]
