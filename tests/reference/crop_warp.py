"""R-CNN's warp, pixel by pixel, from its description (appendix A): slow and obvious."""

import numpy as np

from .roi_layers import bilinear


def warp_loop(image: np.ndarray, box, size: int, context: int) -> np.ndarray:
    """Warp one box (x1, y1, x2, y2) of an image (C, H, W), with context, to (C, size, size)."""
    x1, y1, x2, y2 = (float(value) for value in box)
    # The box alone is to fill size - 2 * context pixels of the crop.
    scale = size / (size - 2 * context)
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    wide, high = (x2 - x1) * scale, (y2 - y1) * scale
    crop = np.zeros((len(image), size, size))
    for i in range(size):
        for j in range(size):
            x = centre_x - wide / 2 + (j + 0.5) * wide / size
            y = centre_y - high / 2 + (i + 0.5) * high / size
            # Pixel (r, c) has its colour at (c + 0.5, r + 0.5). Outside is 0, the mean, which was
            # subtracted.
            crop[:, i, j] = bilinear(image, x - 0.5, y - 0.5, outside=0.5)
    return crop
