"""The RoI layers as literal loops over boxes, bins and samples, in float64.

Written from the published arithmetic (Fast R-CNN, section 2.1; Mask R-CNN, section 3, in the form
Detectron gave it; MNC, arXiv:1512.04412, in both forms of its code), one scalar coordinate at a
time. `features` is an array (N, C, H, W), `rois` (R, 5): batch index, x1, y1, x2, y2 in image
pixels; the result is (R, C, size, size) float64.
"""

import math
from decimal import ROUND_HALF_UP, Decimal

import numpy as np


def c_round(value: float) -> int:
    """Round to the nearest integer, halves away from zero (which `decimal` calls "half up")."""
    return int(Decimal(float(value)).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def bilinear(plane: np.ndarray, x: float, y: float, outside: float) -> np.ndarray:
    """Sample a (C, H, W) map, whose cell centres are at whole coordinates, at one point.

    The value is 0 where the point is farther than `outside` from the first and the last centre: 1
    cell in RoIAlign, half a cell in RoIWarp; nearer points are clamped to the centres.
    """
    _, height, width = plane.shape
    if not (-outside <= x <= width - 1 + outside and -outside <= y <= height - 1 + outside):
        return np.zeros(len(plane))
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = math.floor(x), math.floor(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    a, b = x - left, y - top
    upper = plane[:, top, left] * (1 - a) + plane[:, top, right] * a
    lower = plane[:, bottom, left] * (1 - a) + plane[:, bottom, right] * a
    return upper * (1 - b) + lower * b


def roi_pool(features: np.ndarray, rois: np.ndarray, size: int, scale: float) -> np.ndarray:
    """RoIPool: rounded corners, + 1, bins from floor to ceil, maximum.

    A bin's edges are computed in the features' dtype: where they are whole numbers, the last bit
    decides whether one more cell belongs to the bin.
    """
    number = features.dtype.type
    _, channels, height, width = features.shape
    output = np.zeros((len(rois), channels, size, size))
    for r, (batch, *box) in enumerate(rois.astype(np.float64)):
        x1, y1, x2, y2 = (c_round(v * scale) for v in box)
        bin_w = number(max(x2 - x1 + 1, 1)) / number(size)
        bin_h = number(max(y2 - y1 + 1, 1)) / number(size)
        for i in range(size):
            rows = range(y1 + math.floor(number(i) * bin_h), y1 + math.ceil(number(i + 1) * bin_h))
            for j in range(size):
                left, right = number(j) * bin_w, number(j + 1) * bin_w
                columns = range(x1 + math.floor(left), x1 + math.ceil(right))
                values = [
                    features[int(batch), :, y, x].astype(np.float64)
                    for y in rows
                    for x in columns
                    if 0 <= x < width and 0 <= y < height
                ]
                if values:
                    output[r, :, i, j] = np.max(values, axis=0)
    return output


def roi_align(
    features: np.ndarray,
    rois: np.ndarray,
    size: int,
    scale: float,
    *,
    samples: int = 2,
    aligned: bool = False,
    largest: bool = False,
) -> np.ndarray:
    """RoIAlign with samples x samples points per bin (0: as many as a bin has cells)."""
    features, rois = features.astype(np.float64), rois.astype(np.float64)
    output = np.zeros((len(rois), features.shape[1], size, size))
    for r, (batch, *box) in enumerate(rois):
        x1, y1, x2, y2 = (v * scale - (0.5 if aligned else 0.0) for v in box)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        across = samples or math.ceil(width / size)
        down = samples or math.ceil(height / size)
        for i in range(size):
            for j in range(size):
                values = []
                for k in range(down):
                    for m in range(across):
                        x = x1 + (j + (m + 0.5) / across) * width / size
                        y = y1 + (i + (k + 0.5) / down) * height / size
                        values.append(bilinear(features[int(batch)], x, y, outside=1))
                if values:
                    reduce = np.max if largest else np.mean
                    output[r, :, i, j] = reduce(values, axis=0)
    return output


def pool_windows(fine: np.ndarray, samples: int, largest: bool) -> np.ndarray:
    """Reduce each window of samples x samples cells of (C, H, W) to its maximum or mean."""
    channels, height, width = fine.shape
    output = np.zeros((channels, height // samples, width // samples))
    for i in range(height // samples):
        for j in range(width // samples):
            window = fine[:, i * samples : (i + 1) * samples, j * samples : (j + 1) * samples]
            output[:, i, j] = (np.max if largest else np.mean)(window, axis=(1, 2))
    return output


def roi_warp(
    features: np.ndarray,
    rois: np.ndarray,
    size: int,
    scale: float,
    *,
    samples: int,
    largest: bool,
    first: bool,
) -> np.ndarray:
    """MNC's RoIWarp: rounded corners, no + 1; the values of fine cells, which are then pooled.

    A fine cell has one point, at its top left; in the `first` form of the code it walks over itself
    in steps, both ends included.
    """
    features = features.astype(np.float64)
    _, channels, map_height, map_width = features.shape
    cells = size * samples
    output = np.zeros((len(rois), channels, size, size))
    for r, (batch, *box) in enumerate(rois.astype(np.float64)):
        x1, y1, x2, y2 = (c_round(v * scale) for v in box)
        width, height = max(x2 - x1, 0), max(y2 - y1, 0)
        across, down = (max(-(-v // cells), 1) if first else 1 for v in (width, height))
        fine = np.zeros((channels, cells, cells))
        for i in range(cells):
            for j in range(cells):
                values = []
                for k in range(down + first):
                    for m in range(across + first):
                        y = y1 + (i * down + k) * height / (cells * down)
                        x = x1 + (j * across + m) * width / (cells * across)
                        if -0.5 <= y <= map_height - 0.5 and -0.5 <= x <= map_width - 0.5:
                            values.append(bilinear(features[int(batch)], x, y, outside=0.5))
                if values:
                    fine[:, i, j] = (np.max if largest else np.mean)(values, axis=0)
        output[r] = pool_windows(fine, samples, largest)
    return output


def roi_layer(
    name: str, features: np.ndarray, rois: np.ndarray, size: int, scale: float, samples: int
) -> np.ndarray:
    """Run the layer that the config calls `name`, with POOLER_SAMPLING_RATIO `samples`."""
    if name == "ROIPool":
        return roi_pool(features, rois, size, scale)
    if name in ("ROIAlign", "ROIAlignV2"):
        aligned = name == "ROIAlignV2"
        return roi_align(features, rois, size, scale, samples=samples, aligned=aligned)
    if name == "ROIAlignMax":
        return roi_align(features, rois, size, scale, samples=samples or 2, largest=True)
    form = {"largest": {"Max": True, "Ave": False}[name[-3:]], "first": "V1" in name}
    return roi_warp(features, rois, size, scale, samples=samples or 2, **form)
