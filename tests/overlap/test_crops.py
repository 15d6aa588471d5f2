import numpy as np

from mask_rcnn_ext.layers.mask_crops import MaskCrop
from mask_rcnn_ext.overlap.crops import CropCache


def test_a_cache_keeps_what_was_asked_for_last_and_fits():
    made = []

    def make(index):
        made.append(index)
        return MaskCrop(index, 0, np.zeros((10, 10), dtype=bool))

    crops = CropCache(make, most_pixels=250)  # two of them
    assert [crops[i].top for i in (0, 1, 0, 2, 0, 1)] == [0, 1, 0, 2, 0, 1]
    assert made == [0, 1, 2, 1]  # 2 took the place of 1, which was asked for before 0


def test_a_crop_that_is_too_large_for_the_cache_is_returned():
    crops = CropCache(lambda index: MaskCrop(index, 0, np.ones((9, 9), dtype=bool)), most_pixels=10)
    assert [crops[i].area for i in (3, 4, 3)] == [81, 81, 81]
