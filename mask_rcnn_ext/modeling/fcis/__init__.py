"""FCIS, the rival of Mask R-CNN (arXiv:1611.07709): heads and meta-architecture."""

from .fcis import FCIS
from .roi_heads import FCISROIHeads

__all__ = ["FCIS", "FCISROIHeads"]
