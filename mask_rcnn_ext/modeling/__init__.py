"""Backbones, heads and meta-architectures, registered in detectron2's own registries."""

from . import backbone, meta_arch, roi_heads
