"""Masks of shrunk pictures, made inside their boxes, have the pixels of whole shrunk masks."""

import cv2
import numpy as np
import pytest

from mask_rcnn_ext.layers.rle import encode_mask
from mask_rcnn_ext.report.instances import decode_masks


def shrink(mask, factor):
    """Return the decoded mask, and the share of each new pixel that the mask covers."""
    (crop,) = decode_masks([encode_mask(mask)], *mask.shape, factor)
    size = tuple(max(1, round(side * factor)) for side in mask.shape)
    shares = cv2.resize(mask.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return crop.cut(slice(0, size[0]), slice(0, size[1])), np.asarray(shares)


def draw(rng, size):
    mask = np.zeros(size, dtype=bool)
    top, left = rng.integers(0, size)
    mask[top : top + rng.integers(1, 90), left : left + rng.integers(1, 90)] = True
    return mask


@pytest.mark.parametrize("factor", [1 / 2, 1 / 3, 1 / 4])
def test_whole_pixels_are_averaged_exactly(factor):
    rng = np.random.default_rng(0)
    for _ in range(40):
        pixels, shares = shrink(draw(rng, (96, 120)), factor)
        np.testing.assert_array_equal(pixels, shares >= 0.5)


@pytest.mark.parametrize("size", [(97, 131), (130, 67), (300, 2), (1, 300)])
@pytest.mark.parametrize("factor", [0.11, 0.31, 0.5, 0.77])
def test_parts_of_pixels_change_the_edge_only(size, factor):
    """Pillow gives a pixel to the new pixel in which its centre lies."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        pixels, shares = shrink(draw(rng, size), factor)
        assert pixels[shares > 0.99].all()
        assert not pixels[shares < 0.01].any()


def test_a_mask_that_fills_the_image_fills_the_small_one():
    for size in ((777, 1001), (1, 300), (300, 1)):
        pixels, _ = shrink(np.ones(size, dtype=bool), 0.3)
        assert pixels.all()
