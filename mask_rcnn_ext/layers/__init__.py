"""Tensor functions and modules that know neither configs nor `Instances`."""

from .crop_warp import dilate_boxes, warp_crops
from .ps_roi_layers import PSROIAlign, PSROIPool
from .roi_layers import (
    FullPrecisionROIAlign,
    FullPrecisionROIPool,
    ROIAlignMax,
    ROIWarpAve,
    ROIWarpMax,
    ROIWarpV1Ave,
    ROIWarpV1Max,
)

__all__ = [
    "FullPrecisionROIAlign",
    "FullPrecisionROIPool",
    "PSROIAlign",
    "PSROIPool",
    "ROIAlignMax",
    "ROIWarpAve",
    "ROIWarpMax",
    "ROIWarpV1Ave",
    "ROIWarpV1Max",
    "dilate_boxes",
    "warp_crops",
]
