"""R-CNN's warp: against a literal loop, by hand, at borders, empty, and backward."""

import numpy as np
import pytest
import torch
from reference.crop_warp import warp_loop

from mask_rcnn_ext.layers import dilate_boxes, warp_crops

# Of an image of 13 x 17 (height x width): name -> XYXY.
BOXES = {
    "inside": (4.0, 3.0, 9.0, 8.0),
    "between pixels": (3.3, 2.7, 11.9, 9.2),
    "at the border": (0.0, 0.0, 6.5, 4.0),
    "over the far border": (12.0, 8.0, 19.5, 15.0),
    "the whole image": (0.0, 0.0, 17.0, 13.0),
    "flat and long": (1.0, 6.0, 16.0, 6.8),
    "smaller than a pixel": (5.2, 5.4, 5.6, 5.7),
    "outside": (-9.0, -8.0, -5.0, -4.0),
}


def an_image(dtype=torch.float64) -> torch.Tensor:
    return torch.rand(3, 13, 17, generator=torch.Generator().manual_seed(3), dtype=dtype) * 9 + 1


@pytest.mark.parametrize(("size", "context"), [(11, 2), (16, 0), (8, 3)])
@pytest.mark.parametrize("box", BOXES.values(), ids=BOXES)
def test_warp_equals_the_loop(box, size, context):
    image = an_image()
    warped = warp_crops(image, torch.tensor([box], dtype=torch.float64), size=size, context=context)
    expected = warp_loop(image.numpy(), box, size, context)
    np.testing.assert_allclose(warped[0].numpy(), expected, atol=1e-12)


def test_the_papers_numbers_are_the_defaults():
    dilated = dilate_boxes(torch.tensor([[100.0, 50.0, 295.0, 440.0]]), 227, 16)
    # 195 x 390 pixels fill 195 x 195 of a crop; 16 more on each side are 16 and 32 in the image.
    torch.testing.assert_close(dilated, torch.tensor([[84.0, 18.0, 311.0, 472.0]]))
    assert warp_crops(torch.ones(3, 600, 600), dilated).shape == (1, 3, 227, 227)


def test_a_box_of_the_size_of_the_crop_is_copied():
    image = an_image()
    crops = warp_crops(image, torch.tensor([[4.0, 2.0, 14.0, 12.0]]), size=14, context=2)
    assert torch.equal(crops[0, :, 2:12, 2:12], image[:, 2:12, 4:14])
    assert torch.equal(
        crops[0, :, :, 2:12], torch.nn.functional.pad(image[:, 0:13, 4:14], (0, 0, 0, 1))
    )  # fmt: skip - its rows 0 to 14: the last one is outside


def test_outside_is_the_mean():
    crops = warp_crops(an_image(), torch.tensor([[0.0, 0.0, 4.0, 4.0]]), size=8, context=2)
    assert not crops[0, :, :2].any()
    assert not crops[0, :, :, :2].any()
    assert (crops[0, :, 2:, 2:] >= 1).all()


def test_boxes_do_not_see_one_another():
    image, boxes = an_image(), torch.tensor(list(BOXES.values()))
    together = warp_crops(image, boxes, size=9, context=2)
    alone = [warp_crops(image, box[None], size=9, context=2) for box in boxes]
    assert torch.equal(together, torch.cat(alone))


def test_no_box_and_backward():
    image = an_image(torch.float32).requires_grad_()
    crops = warp_crops(image, torch.zeros(0, 4), size=9, context=2)
    assert crops.shape == (0, 3, 9, 9)
    crops.sum().backward()
    assert torch.equal(image.grad, torch.zeros_like(image))


def test_gradients_reach_the_image():
    image = an_image()[:, :6, :5].contiguous().requires_grad_()
    boxes = torch.tensor([[0.4, 1.1, 4.7, 5.9]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: warp_crops(x, boxes, size=5, context=1), image)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_moves_no_box(dtype):
    image = torch.arange(400.0).expand(1, 4, 400).contiguous()  # its colour is its column
    boxes = torch.tensor([[260.4, 0.0, 300.4, 4.0]])
    warped = warp_crops(image.to(dtype), boxes, size=40, context=0)
    assert warped.dtype == dtype
    exact = warp_crops(image.to(dtype).float(), boxes, size=40, context=0)
    assert torch.equal(warped, exact.to(dtype))
