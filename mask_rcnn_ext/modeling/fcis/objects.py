"""An image's objects, in the form in which `FCISROIHeads` takes them."""

import torch
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from ...errors import UserError

__all__ = ["bitmasks_of", "numbered"]


def bitmasks_of(target: Instances) -> Tensor:
    """Return the (G, H, W) bool masks of an image's objects.

    Raises:
        UserError: they are polygons.
    """
    height, width = target.image_size
    if not target.has("gt_masks"):  # detectron2's mapper gives none where there is no object
        return target.gt_boxes.tensor.new_zeros((0, height, width), dtype=torch.bool)
    if not isinstance(target.gt_masks, BitMasks):
        raise UserError(
            "FCIS samples its mask targets from whole masks: expected INPUT.MASK_FORMAT bitmask, "
            f"got {type(target.gt_masks).__name__}"
        )
    masks: Tensor = target.gt_masks.tensor
    return masks


def numbered(target: Instances) -> Instances:
    """Return the boxes and classes of an image's objects, and their numbers in place of masks.

    detectron2 copies every field that begins with `gt_` for each sampled proposal; whole masks of
    hundreds of proposals would fill the memory.
    """
    index = torch.arange(len(target), device=target.gt_boxes.device)
    return Instances(
        target.image_size,
        gt_boxes=target.gt_boxes,
        gt_classes=target.gt_classes,
        gt_index=index,
    )
