"""Packed masks hold the same pixels as whole masks, and give the same RLE."""

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from pycocotools import mask as mask_util

from mask_rcnn_ext.layers.packed_masks import PackedMasks
from mask_rcnn_ext.layers.rle import encode_crop

H, W = 37, 53


def masks_of(seed: int = 0) -> np.ndarray:
    """Blobs, single pixels in each corner, an empty and a full mask, (N, H, W) bool."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((12, H, W), dtype=bool)
    for mask in masks[:6]:
        (top, bottom), (left, right) = np.sort(rng.integers(0, (H, W), (2, 2)).T)
        window = mask[top : bottom + 1, left : right + 1]
        window[:] = rng.random(window.shape) < 0.7
    for mask, corner in zip(masks[6:], [(0, 0), (0, -1), (-1, 0), (-1, -1)], strict=False):
        mask[corner] = True
    masks[11] = True
    return masks


def test_packing_and_unpacking_loses_nothing():
    masks = masks_of()
    for given in (masks, torch.from_numpy(masks)):
        packed = PackedMasks.pack(given)
        assert packed.shape == (len(packed), H, W) == masks.shape
        assert (packed.unpack().numpy() == masks).all()
    nothing = PackedMasks.pack(masks[:0])
    assert nothing.unpack().shape == (0, H, W)


@pytest.mark.parametrize("threshold", [0.5, 0.4])
def test_pasted_masks_are_those_of_detectron2(threshold):
    torch.manual_seed(0)
    boxes = torch.rand(40, 4) * torch.tensor([W, H, W, H])
    boxes = torch.cat([boxes[:, :2].minimum(boxes[:, 2:]), boxes[:, :2].maximum(boxes[:, 2:])], 1)
    boxes[0] = torch.tensor([0, 0, W, H])
    boxes[1] = torch.tensor([20.2, 10.1, 20.3, 10.2])  # within one pixel
    probs = torch.rand(40, 28, 28)
    packed = PackedMasks.paste(probs, boxes, (H, W), threshold)
    assert torch.equal(packed.unpack(), paste_masks_in_image(probs, boxes, (H, W), threshold))


def test_they_take_an_eighth_of_their_boxes():
    full = np.zeros((3, 800, 800), dtype=bool)
    full[:, 100:180, 40:200] = True
    assert sum(part[-1].nbytes for part in PackedMasks.pack(full)._parts) == 3 * 80 * 160 / 8


def test_the_rle_is_pycocotools_own():
    masks = masks_of(1)
    for mask, crop in zip(masks, PackedMasks.pack(masks), strict=True):
        ours = encode_crop(crop.mask, crop.top, crop.left, H, W)
        assert ours == mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        whole = encode_crop(mask, 0, 0, H, W)  # the crop may have empty borders
        assert whole == ours
