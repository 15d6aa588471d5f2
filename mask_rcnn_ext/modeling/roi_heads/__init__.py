"""RoI heads, box heads and mask heads, registered in detectron2's registries."""

from .classifier_head import ClassifierBoxHead
from .mask_heads import MaskRCNNFCNHead, MaskRCNNMLPHead
from .roi_heads import MaskRCNNRes5ROIHeads, MaskRCNNROIHeads, MaskRCNNTinyRes5ROIHeads

__all__ = [
    "ClassifierBoxHead",
    "MaskRCNNFCNHead",
    "MaskRCNNMLPHead",
    "MaskRCNNROIHeads",
    "MaskRCNNRes5ROIHeads",
    "MaskRCNNTinyRes5ROIHeads",
]
