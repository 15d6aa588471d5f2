"""Masks of shrunk pictures, made inside their boxes, have the pixels of whole shrunk masks."""

import cv2
import numpy as np
import pytest

from mask_rcnn_ext.layers.rle import encode_mask
from mask_rcnn_ext.report.instances import decode_masks

SIZES = [
    ((97, 131), 0.41),
    ((130, 67), 0.77),
    ((96, 120), 1 / 2),  # whole numbers of pixels are averaged
    ((96, 120), 1 / 3),
    ((75, 200), 0.32),
    ((3, 211), 0.11),  # one side has a single pixel
    ((1, 300), 0.3),
]


@pytest.mark.parametrize(("size", "factor"), SIZES, ids=str)
def test_the_pixels_are_those_of_opencv(size, factor):
    rng = np.random.default_rng(0)
    small = tuple(max(1, round(side * factor)) for side in size)
    for index in range(60):
        mask = np.zeros(size, dtype=bool)
        top, left = rng.integers(0, size)
        window = mask[top : top + rng.integers(1, 60), left : left + rng.integers(1, 60)]
        window[:] = rng.random(window.shape) < (0.5, 0.9, 1)[index % 3]
        mask |= index == 59
        shares = cv2.resize(mask.astype(np.float32), small[::-1], interpolation=cv2.INTER_AREA)
        (crop,) = decode_masks([encode_mask(mask)], *size, factor)
        pixels = crop.cut(slice(0, small[0]), slice(0, small[1]))
        sure = abs(np.asarray(shares) - 0.5) > 1e-3  # OpenCV leaves out shares below 1e-3
        np.testing.assert_array_equal(pixels[sure], (shares >= 0.5)[sure])
        assert crop.area == pixels.sum()


def test_half_a_pixel_is_a_pixel():
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 3] = mask[4, 6] = True
    (crop,) = decode_masks([encode_mask(mask)], 8, 8, 0.5)
    assert (crop.top, crop.left, crop.mask.tolist()) == (1, 1, [[True]])
