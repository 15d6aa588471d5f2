"""Changes in testing that could take away the lines of a trained FCIS. They cost no training.

configs/shapes/Base-Nested.yaml has the predictions, written down before they were measured. All are
measured on masks in the true boxes. The nine copies are measured for Mask R-CNN as well: it has no
parts, so it shows what an average alone does.
"""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from mask_rcnn_ext.layers import PSROIAlign, PSROIPool

from .contrasts import FCIS
from .given_boxes import DrawMasks, draw_masks

__all__ = ["PLAIN", "SoftPartsPool", "draw_copies", "list_changes", "name_copies"]

Features = dict[str, Tensor]
PLAIN = "none"  # the change that is no change
_STEPS = (-1 / 3, 0.0, 1 / 3)  # shifts of the copies along each axis, in parts


def list_changes(bins: int | None) -> dict[str, DrawMasks]:
    """Return the name of each change -> what makes the masks with it, `PLAIN` first.

    Args:
        bins: k of the model; None: Mask R-CNN, whose copies are shifted as for both k.
    """
    changes: dict[str, DrawMasks] = {PLAIN: draw_masks}
    if bins is not None:
        changes["PSROIAlign"] = partial(_draw_with, pooler=_align)
        changes["soft parts"] = partial(_draw_with, pooler=SoftPartsPool)
    for parts in FCIS if bins is None else (bins,):
        changes[name_copies(parts)] = partial(draw_copies, parts=parts)
    return changes


def name_copies(parts: int) -> str:
    """Return the name of the change that takes copies shifted for k = `parts`."""
    return f"nine copies, k = {parts}"


class SoftPartsPool(nn.Module):
    """`PSROIPool` with parts that blend into each other.

    Each output cell reads the maps of the parts whose centres are nearest to its own, with bilinear
    weights; `PSROIPool` reads the map of the one part that it lies in. The window stays the same.

    Args:
        pooler: the pooler of the trained model.
    """

    def __init__(self, pooler: PSROIPool) -> None:
        super().__init__()
        self.num_bins, self.output_size = pooler.num_bins, pooler.output_size
        self.pool = PSROIPool(self.output_size, self.output_size, pooler.spatial_scale)

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        """See `PSROIPool`."""
        batch, _, height, width = features.shape
        parts = features.reshape(batch, -1, self.num_bins, self.num_bins, height * width)
        parts = parts.movedim(-1, 2).flatten(0, 2)[:, None]  # (N D H W, 1, k, k)
        side = self.output_size
        blended = F.interpolate(parts, size=(side, side), mode="bilinear", align_corners=False)
        blended = blended.reshape(batch, -1, height * width, side, side).movedim(2, -1)
        return self.pool(blended.reshape(batch, -1, height, width), rois)


def _align(pooler: PSROIPool) -> PSROIAlign:
    return PSROIAlign(pooler.num_bins, pooler.output_size, pooler.spatial_scale)


def _draw_with(
    model: Any, features: Features, given: Instances, *, pooler: Callable[[PSROIPool], nn.Module]
) -> Tensor:
    """Return the masks of an FCIS with another RoI layer, see `draw_masks`."""
    heads = model.roi_heads
    trained = heads.pooler
    heads.pooler = pooler(trained)
    try:
        return draw_masks(model, features, given)
    finally:
        heads.pooler = trained


def draw_copies(model: Any, features: Features, given: Instances, *, parts: int) -> Tensor:
    """Return the mean of the masks of nine copies of each box, (R, P, P).

    The copies are shifted by -1/3, 0 and 1/3 of a part along each axis, so that the lines between
    the parts lie at three places each. A cell takes the mean over the copies that contain its
    centre.

    Args:
        model: see `draw_masks`.
        features: the features of one image.
        given: see `draw_masks`.
        parts: k of the parts by which the copies are shifted.
    """
    boxes = given.pred_boxes.tensor
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    copies = []
    for across, down in itertools.product(_STEPS, _STEPS):
        shift = boxes.new_tensor([across, down, across, down]) / parts
        moved = Instances(given.image_size, pred_boxes=Boxes(boxes + shift * sides))
        moved.pred_classes = given.pred_classes
        masks = draw_masks(model, features, moved)
        side = masks.shape[-1]
        centres = (torch.arange(side, device=masks.device) + 0.5) / side
        places = (centres - across / parts, centres - down / parts)  # in the copy, 0 to 1
        grid = torch.stack(torch.meshgrid(*places, indexing="xy"), dim=-1)
        sampled = F.grid_sample(
            masks[:, None],
            (2 * grid - 1).expand(len(masks), side, side, 2),
            padding_mode="border",
            align_corners=False,
        )[:, 0]
        outside = ((grid < 0) | (grid > 1)).any(dim=-1)
        copies.append(sampled.masked_fill(outside, torch.nan))
    return torch.stack(copies).nanmean(dim=0)
