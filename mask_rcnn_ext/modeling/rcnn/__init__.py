"""R-CNN, the first detector of the lineage (arXiv:1311.2524): it classifies warped proposals."""

from .rcnn import RCNN
from .roi_heads import RCNNROIHeads, RCNNSVMOutputLayers

__all__ = ["RCNN", "RCNNROIHeads", "RCNNSVMOutputLayers"]
