"""Meta-architectures."""

from .mask_rcnn import MaskRCNN

__all__ = ["MaskRCNN"]
