"""Tensor functions and modules that know neither configs nor `Instances`."""

from .crop_warp import dilate_boxes, warp_crops
from .ps_roi_layers import PSROIAlign, PSROIPool
from .roi_layers import ROIAlignMax, ROIWarpAve, ROIWarpMax

__all__ = [
    "PSROIAlign",
    "PSROIPool",
    "ROIAlignMax",
    "ROIWarpAve",
    "ROIWarpMax",
    "dilate_boxes",
    "warp_crops",
]
