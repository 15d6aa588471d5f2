"""RoI heads and mask heads, registered in detectron2's registries."""

from .mask_heads import MaskRCNNFCNHead, MaskRCNNMLPHead
from .res5_heads import MaskRCNNRes5ROIHeads, MaskRCNNTinyRes5ROIHeads
from .roi_heads import MaskRCNNROIHeads

__all__ = [
    "MaskRCNNFCNHead",
    "MaskRCNNMLPHead",
    "MaskRCNNROIHeads",
    "MaskRCNNRes5ROIHeads",
    "MaskRCNNTinyRes5ROIHeads",
]
