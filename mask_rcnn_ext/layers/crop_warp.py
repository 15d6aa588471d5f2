"""R-CNN's crops: boxes with context, all warped to the same size (arXiv:1311.2524, appendix A)."""

import torch
from torch import Tensor
from torchvision.ops import roi_align

__all__ = ["dilate_boxes", "warp_crops"]


def dilate_boxes(boxes: Tensor, size: int, context: int) -> Tensor:
    """Enlarge boxes around their centres by the context of their crops.

    Args:
        boxes: (R, 4), XYXY in pixels.
        size: side of the crops.
        context: pixels of the crop on each side of the box, less than half of `size`.

    Returns:
        (R, 4): boxes with sides `size / (size - 2 * context)` times as long.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * (size / (size - 2 * context))
    return torch.cat([centres - half, centres + half], dim=1)


def warp_crops(image: Tensor, boxes: Tensor, *, size: int = 227, context: int = 16) -> Tensor:
    """Cut boxes with their context out of an image and warp each to `size` x `size`.

    Width and height are scaled separately ("warp" in appendix A of R-CNN; `context` is its p). A
    `size` x `size` grid is laid over the dilated box. Pixel (i, j) of the crop is the value of the
    image at the centre of cell (i, j), interpolated bilinearly without antialiasing. Outside the
    image it is 0, the mean colour if the mean was subtracted from the image.

    Deviation from R-CNN's released code: box corners are not rounded to whole pixels.

    Args:
        image: (C, H, W), without padding; pixel (y, x) covers [x, x + 1] x [y, y + 1]. An image in
            half precision is interpolated in float32.
        boxes: (R, 4), XYXY in pixels of the image; R may be 0. Gradients do not flow to them.
        size: side of the crops.
        context: see `dilate_boxes`.

    Returns:
        (R, C, size, size), with the dtype of the image.
    """
    height, width = image.shape[-2:]
    dtype = image.dtype if image.dtype == torch.float64 else torch.float32
    dilated = dilate_boxes(boxes.detach().to(dtype), size, context)
    index = dilated.new_zeros(len(dilated), 1)
    # roi_align repeats the border for one pixel outside the image before it gives 0.
    crops = roi_align(
        image[None].to(dtype),
        torch.cat([index, dilated], dim=1),
        output_size=size,
        sampling_ratio=1,
        aligned=True,
    )
    steps = (torch.arange(size, dtype=dtype, device=dilated.device) + 0.5) / size
    x1, y1, x2, y2 = (side[:, None] for side in dilated.unbind(1))
    xs, ys = x1 + (x2 - x1) * steps, y1 + (y2 - y1) * steps  # (R, size), the sampled points
    inside_x, inside_y = (xs >= 0) & (xs <= width), (ys >= 0) & (ys <= height)
    inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]
    return torch.where(inside, crops, 0.0).to(image.dtype)
