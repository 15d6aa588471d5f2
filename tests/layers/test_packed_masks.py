"""Packed masks hold the same pixels as whole masks, and give the same RLE."""

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image
from pycocotools import mask as mask_util
from torch.nn import functional as F

from mask_rcnn_ext import UserError
from mask_rcnn_ext.layers.packed_masks import MaskCrop, PackedMasks

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


def test_a_part_of_the_image_is_cut_out():
    masks = masks_of()
    for rows, columns in ((slice(0, H), slice(0, W)), (slice(9, 20), slice(30, 31))):
        cut = PackedMasks.pack(masks).cut(rows, columns)
        assert (cut.unpack().numpy() == masks[:, rows, columns]).all()


def boxes_of(generator: torch.Generator, number: int, height: int, width: int) -> torch.Tensor:
    """Boxes inside the image, across its borders, of less than a pixel, and without an area."""
    sides = torch.rand(number, 2, generator=generator) ** 2 * torch.tensor([width, height])
    centres = torch.rand(number, 2, generator=generator) * torch.tensor([width, height])
    boxes = torch.cat([centres - sides / 2, centres + sides / 2], dim=1)
    boxes[0] = torch.tensor([0.0, 0, width, height])
    boxes[1] = torch.tensor([-0.3 * width, -0.4 * height, 1.2 * width, 1.4 * height])
    boxes[2, 2:] = boxes[2, :2] + 0.1
    boxes[3, 2] = boxes[3, 0]  # no width
    boxes[4, 3] = boxes[4, 1]  # no height
    boxes[5] = boxes[5].round()
    boxes[6, 2] = boxes[6, 0] + 1e-6
    boxes[7::3] = boxes[7::3].clamp(min=0)
    boxes[:, 2:] = boxes[:, 2:].clamp(min=0)  # detectron2 fails where nothing is in the image
    boxes[:, :2] = boxes[:, :2].minimum(torch.tensor([width, height]))
    return boxes


SIZES = [(37, 53), (1, 53), (37, 1), (1, 1), (2, 3), (200, 130)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pasted_masks_and_their_rle_are_those_of_detectron2(size):
    """1,800 masks: half of them blobs, which need little sampling, half of them noise."""
    generator = torch.Generator().manual_seed(size[0])
    for threshold, side in [(0.5, 28), (0.5, 14), (0.4, 28), (0.05, 7), (0.999, 28), (0.0, 5)]:
        noise = torch.rand(25, side, side, generator=generator)
        coarse = torch.rand(25, 1, 4, 4, generator=generator)
        blobs = F.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)
        probs = torch.cat([noise, blobs[:, 0]])[torch.randperm(50, generator=generator)]
        boxes = boxes_of(generator, 50, *size)
        expected = paste_masks_in_image(probs, boxes, size, threshold)
        packed = PackedMasks.paste(probs, boxes, size, threshold)
        assert torch.equal(packed.unpack(), expected)
        assert packed.encode() == [
            mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in expected.numpy()
        ]


def test_few_pixels_of_a_blob_are_sampled(monkeypatch):
    """Only then are the equal masks above a test of the cells that need no sampling."""
    sampled = []
    sample = F.grid_sample
    monkeypatch.setattr(F, "grid_sample", lambda mask, grid, **kwargs: (
        sampled.append(grid.shape[2]) or sample(mask, grid, **kwargs)
    ))  # fmt: skip
    probs = torch.zeros(1, 28, 28)
    probs[0, 5:20, 8:25] = 1
    PackedMasks.paste(probs, torch.tensor([[10.0, 10, 290, 290]]), (300, 300), 0.5)
    assert 0 < sum(sampled) < 280**2 / 10


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.bool])
def test_masks_of_other_dtypes(dtype):
    probs = (torch.rand(8, 28, 28, generator=torch.Generator().manual_seed(0)) * 1.4).to(dtype)
    boxes = boxes_of(torch.Generator().manual_seed(1), 8, H, W)
    try:
        expected = paste_masks_in_image(probs, boxes, (H, W), 0.5)
    except RuntimeError as error:
        pytest.skip(f"detectron2 cannot paste {dtype} with this PyTorch: {error}")
    assert torch.equal(PackedMasks.paste(probs, boxes, (H, W), 0.5).unpack(), expected)


def test_boxes_outside_the_image_have_an_empty_mask():
    boxes = torch.tensor([[-30.0, 2, -10, 20], [5, 60, 20, 90], [80, -9, 90, -5], [2, 2, 2, 1e30]])
    boxes = torch.cat([boxes, torch.full((1, 4), torch.nan)])
    packed = PackedMasks.paste(torch.ones(5, 7, 7), boxes, (H, W), 0.5)
    assert [mask.any().item() for mask in packed.unpack()] == [False] * 5
    assert packed.encode() == [mask_util.encode(np.zeros((H, W), np.uint8, order="F"))] * 5
    assert PackedMasks.paste(torch.ones(0, 7, 7), torch.zeros(0, 4), (H, W), 0.5).encode() == []


def test_a_mask_with_levels_cannot_be_packed():
    """detectron2's negative threshold gives gray masks; COCO's RLE of one is of another mask."""
    probs, boxes = torch.full((1, 7, 7), 0.6), torch.tensor([[5.0, 5, 25, 25]])
    (gray,) = paste_masks_in_image(probs, boxes, (H, W), -1.0).numpy()
    rle = mask_util.encode(np.asfortranarray(gray))
    assert not ((mask_util.decode(rle) > 0) == (gray > 0)).all()
    with pytest.raises(ValueError, match="threshold: expected 0 or more, got -1"):
        PackedMasks.paste(probs, boxes, (H, W), -1.0)


def test_they_take_less_than_an_eighth_of_their_boxes():
    full = np.zeros((3, 800, 800), dtype=bool)
    full[:, 100:180, 40:200] = True
    assert sum(part[-1].nbytes for part in PackedMasks.pack(full)._parts) < 3 * 80 * 160 / 8


def test_the_rle_is_pycocotools_own():
    masks = masks_of(1)
    packed = PackedMasks.pack(masks)
    for mask, rle in zip(masks, packed.encode(), strict=True):
        assert rle == mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
        # A crop may have empty borders.
        assert PackedMasks((H, W), [MaskCrop(0, 0, mask)]).encode() == [rle]


def test_an_image_with_more_pixels_than_pycocotools_counts_is_refused():
    crop = MaskCrop(65_000, 65_000, np.ones((3, 4), dtype=bool))
    (rle,) = PackedMasks((65_535, 65_536), [crop]).encode()
    assert mask_util.toBbox(rle).tolist() == [65_000, 65_000, 4, 3]
    with pytest.raises(UserError, match=r"65,536 x 65,536 .* at most 4,294,967,295 pixels"):
        PackedMasks((65_536, 65_536), [crop]).encode()
