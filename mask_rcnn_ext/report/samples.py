"""Draws the samples of a training loader: images and objects as the model gets them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.structures import BitMasks

from ..data.bands import scale_for_display
from ..layers.packed_masks import PackedMasks
from .drawing.pictures import draw_instances
from .instances import decode_masks

__all__ = ["draw_sample"]


def draw_sample(
    sample: dict[str, Any], class_names: Sequence[str], size: int, image_format: str
) -> npt.NDArray[np.uint8]:
    """Return a sample of `ImageMapper` with its masks, boxes and labels, (H, W, 3) uint8 RGB.

    Args:
        sample: has `image`, (C, H', W') uint8 or float32 (see `scale_for_display`), and
            `instances`, as for training.
        class_names: the name of each class.
        size: the longer side of the picture in pixels.
        image_format: `INPUT.FORMAT`: "BGR", "RGB" or "L".
    """
    pixels = sample["image"].permute(1, 2, 0).numpy()
    if image_format == "BGR" and pixels.shape[2] == 3:
        pixels = pixels[:, :, ::-1]
    if pixels.dtype == np.uint8:
        image = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    else:
        image = scale_for_display(pixels)
    instances = sample["instances"]
    masks: npt.NDArray[np.bool_] | PackedMasks | None = None
    if instances.has("gt_masks"):
        found = instances.gt_masks
        if isinstance(found, BitMasks):
            masks = found.tensor.numpy()
        else:
            masks = decode_masks(found.polygons, *image.shape[:2])
    return draw_instances(
        image,
        masks,
        instances.gt_boxes.tensor.numpy(),
        [class_names[label] for label in instances.gt_classes.tolist()],
        size / max(image.shape[:2]),
    )
