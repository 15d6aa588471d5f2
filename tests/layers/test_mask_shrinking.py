"""Shrunk masks have the pixels of OpenCV's whole images."""

import cv2
import numpy as np
import pytest

from mask_rcnn_ext.layers.mask_crops import MaskCrop
from mask_rcnn_ext.layers.mask_shrinking import shrink_crop

SIZES = [
    ((97, 131), (40, 54)),
    ((97, 131), (97, 60)),  # one side stays
    ((96, 120), (32, 40)),  # whole numbers of pixels are averaged
    ((96, 120), (48, 40)),
    ((75, 200), (24, 64)),  # 3.125 pixels
    ((3, 211), (1, 70)),
    ((1, 300), (1, 1)),
]


@pytest.mark.parametrize(("size", "new_size"), SIZES, ids=str)
def test_the_pixels_are_those_of_opencv(size, new_size):
    rng = np.random.default_rng(0)
    for index in range(40):
        mask = np.zeros(size, dtype=bool)
        top, left = rng.integers(0, size)
        window = mask[top : top + rng.integers(1, 60), left : left + rng.integers(1, 60)]
        window[:] = rng.random(window.shape) < (0.5, 0.9, 1)[index % 3]
        mask |= index == 39
        whole = mask.astype(np.float32)
        expected = cv2.resize(whole, new_size[::-1], interpolation=cv2.INTER_AREA)
        small = shrink_crop(MaskCrop(0, 0, mask).trim(), size, new_size)
        pixels = small.cut(slice(0, new_size[0]), slice(0, new_size[1]))
        sure = abs(expected - 0.5) > 1e-5  # where OpenCV rounds depends on the processor
        np.testing.assert_array_equal(pixels[sure], (expected >= 0.5)[sure])
        assert small.area == pixels.sum()
