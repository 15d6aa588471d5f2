"""R-CNN's warp, pixel by pixel, from its description (appendix A): slow and obvious."""

import math

import numpy as np


def warp_loop(image: np.ndarray, box, size: int, context: int) -> np.ndarray:
    """Warp one box (x1, y1, x2, y2) of an image (C, H, W), with context, to (C, size, size)."""
    channels, height, width = image.shape
    x1, y1, x2, y2 = (float(value) for value in box)
    # The box alone is to fill size - 2 * context pixels of the crop.
    scale = size / (size - 2 * context)
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    wide, high = (x2 - x1) * scale, (y2 - y1) * scale
    crop = np.zeros((channels, size, size))
    for i in range(size):
        for j in range(size):
            x = centre_x - wide / 2 + (j + 0.5) * wide / size
            y = centre_y - high / 2 + (i + 0.5) * high / size
            if not (0 <= x <= width and 0 <= y <= height):
                continue  # outside: the mean, which was subtracted
            # Pixel (r, c) has its colour at (c + 0.5, r + 0.5); beyond the border ones, theirs.
            left, top = math.floor(x - 0.5), math.floor(y - 0.5)
            for row, row_weight in ((top, 1 - (y - 0.5 - top)), (top + 1, y - 0.5 - top)):
                for column, weight in ((left, 1 - (x - 0.5 - left)), (left + 1, x - 0.5 - left)):
                    r = min(max(row, 0), height - 1)
                    c = min(max(column, 0), width - 1)
                    crop[:, i, j] += row_weight * weight * image[:, r, c]
    return crop
