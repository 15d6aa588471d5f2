"""R-CNN, the beginning of the line (arXiv:1311.2524): a classifier on every warped proposal."""

from .rcnn import RCNN
from .roi_heads import RCNNROIHeads
from .svm_layers import RCNNSVMOutputLayers

__all__ = ["RCNN", "RCNNROIHeads", "RCNNSVMOutputLayers"]
