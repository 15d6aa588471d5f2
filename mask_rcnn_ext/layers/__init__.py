"""Tensor functions and modules without config or `Instances`."""

from .roi_layers import (
    FullPrecisionROIAlign,
    FullPrecisionROIPool,
    ROIAlignMax,
    ROIWarpAve,
    ROIWarpMax,
)
