"""Tensor functions and modules without config or `Instances`."""

from .ps_roi_layers import PSROIAlign, PSROIPool
from .roi_layers import (
    FullPrecisionROIAlign,
    FullPrecisionROIPool,
    ROIAlignMax,
    ROIWarpAve,
    ROIWarpMax,
)

__all__ = [
    "FullPrecisionROIAlign",
    "FullPrecisionROIPool",
    "PSROIAlign",
    "PSROIPool",
    "ROIAlignMax",
    "ROIWarpAve",
    "ROIWarpMax",
]
