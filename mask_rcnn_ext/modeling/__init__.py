"""Backbones, heads and meta-architectures, registered in detectron2's own registries."""

from . import backbone, fcis, meta_arch, rcnn, roi_heads
from .spent_warnings import use_up_warnings

use_up_warnings()
