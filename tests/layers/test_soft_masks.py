"""Soft masks: cut at one half they are the masks, to the pixel."""

import numpy as np
import torch
from torch.nn import functional as F

from mask_rcnn_ext.layers.packed_masks import PackedMasks
from mask_rcnn_ext.layers.soft_masks import SoftCrop, SoftMasks

SIZE = (40, 60)


def pasted(number=30, threshold=0.5):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(number, 1, 4, 4, generator=generator)
    probs = F.interpolate(coarse, size=(28, 28), mode="bilinear")[:, 0]
    low = torch.rand(number, 2, generator=generator) * 50 - 8
    boxes = torch.cat([low, low + 1 + torch.rand(number, 2, generator=generator) * 30], dim=1)
    boxes[0] = torch.tensor([70.0, 10, 80, 20])  # outside of the image
    boxes[1] = torch.tensor([-30.0, 10, -20, 20])
    return PackedMasks.paste(probs, boxes, SIZE, threshold)


def unpack(soft, size=SIZE):
    levels = np.zeros((len(soft), *size), dtype=np.uint8)
    for full, (top, left, crop) in zip(levels, soft, strict=True):
        full[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return levels


def test_levels_from_one_half_on_are_the_mask():
    masks = pasted()
    levels = unpack(masks.soft)
    assert ((levels >= 128) == masks.unpack().numpy()).all()
    assert len(np.unique(levels)) > 200
    chosen = masks[[5, 3]]
    assert (unpack(chosen.soft) == levels[[5, 3]]).all()
    assert (unpack(masks[torch.arange(30) > 27].soft) == levels[28:]).all()


def test_another_threshold_leaves_one_level_open():
    masks = pasted(threshold=0.55)
    mask, levels = masks.unpack().numpy(), unpack(masks.soft)
    border = round(255 * 0.55)
    assert mask[levels > border].all()
    assert not mask[levels < border].any()
    assert len(np.unique(mask[levels == border])) == 2  # in and out


def test_masks_without_probabilities_have_no_soft_ones():
    assert PackedMasks.pack(np.ones((2, 3, 4), dtype=bool))[[1]].soft is None


def test_compressed_crops_come_back():
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    (crop,) = SoftMasks.compress([SoftCrop(2, 5, levels)])
    assert (crop.top, crop.left) == (2, 5)
    assert (crop.levels == levels).all()


def test_moved_and_joined_masks_are_those_of_the_larger_image():
    masks, size = pasted(), (50, 90)
    assert masks.unpack()[:, 0].any()  # some begin at the border
    moved = PackedMasks.join(size, [masks.move(10, 30, size), masks[[4]].move(0, 0, size)])
    expected = np.zeros((31, *size), dtype=bool)
    expected[:30, 10:, 30:], expected[30, :40, :60] = masks.unpack(), masks.unpack()[4]
    assert moved.shape == expected.shape
    assert (moved.unpack().numpy() == expected).all()
    assert ((unpack(moved.soft, size) >= 128) == expected).all()
    assert moved.encode() == PackedMasks.pack(expected).encode()
    assert PackedMasks.join(size, [moved, PackedMasks.pack(expected)]).soft is None
