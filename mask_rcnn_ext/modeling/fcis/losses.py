"""What FCIS learns from: mask targets, a loss for each RoI, and which RoIs count.

The arithmetic is that of the released code, which differs from the paper (arXiv:1611.07709) in the
weight of the mask loss, 10 in place of 1. Letters as in `scores`.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...layers.roi_layers import round_half_away
from .scores import class_logits, mask_logits

__all__ = ["RoILosses", "hardest", "roi_losses", "sample_mask_targets"]


class RoILosses(NamedTuple):
    """The unweighted losses of each RoI, (R,) each; those of mask and box are 0 for background."""

    classification: Tensor
    mask: Tensor
    box: Tensor


def sample_mask_targets(
    masks: Tensor, boxes: Tensor, matched: Tensor, *, size: int, threshold: float
) -> Tensor:
    """Return (R, P, P) bool: the matched object's mask inside each RoI.

    The RoI is rounded to whole pixels, cropped, resized bilinearly without averaging (half-pixel
    centres, so a RoI of more than 2 P pixels is sampled at points) and cut at the threshold; pixels
    of other objects are background. Deviation: the released code also crops at the object's rounded
    box, outside of which a mask has at most a fringe.

    Args:
        masks: (G, H, W), bool, of all objects of an image.
        boxes: (R, 4), XYXY_ABS, inside the image.
        matched: (R,), int64 in [0, G).
        size: P.
        threshold: FCIS takes 0.4.
    """
    height, width = masks.shape[1:]
    corners = round_half_away(boxes)
    xs = _taps(corners[:, 0], corners[:, 2], size, width)
    ys = _taps(corners[:, 1], corners[:, 3], size, height)
    values = boxes.new_zeros(len(boxes), size, size)
    for rows, down in ys:
        for columns, across in xs:
            at = masks[matched[:, None, None], rows[:, :, None], columns[:, None, :]]
            values += at.to(values.dtype) * down[:, :, None] * across[:, None, :]
    return values >= threshold


def _taps(low: Tensor, high: Tensor, size: int, limit: int) -> list[tuple[Tensor, Tensor]]:
    """Return the two pixels, (R, P) int64, between which each sample lies, and their weights."""
    low = low.clamp(0, limit - 1)
    last = torch.maximum(high.clamp(max=limit), low + 1) - 1
    index = torch.arange(size, dtype=low.dtype, device=low.device)
    points = low[:, None] + (index + 0.5) * (last - low + 1)[:, None] / size - 0.5
    points = torch.minimum(torch.maximum(points, low[:, None]), last[:, None])
    before = points.floor()
    after = torch.minimum(before + 1, last[:, None])
    return [(before.long(), 1 - (points - before)), (after.long(), points - before)]


def roi_losses(
    pooled: Tensor,
    deltas: Tensor,
    classes: Tensor,
    mask_targets: Tensor,
    delta_targets: Tensor,
    *,
    smooth_l1_beta: float,
) -> RoILosses:
    """Return the losses of each RoI.

    Args:
        pooled: (R, C, 2, P, P).
        deltas: (R, 4), predicted.
        classes: (R,), int64 in [0, K]; K is the background.
        mask_targets: (F, P, P), of the F RoIs that are no background, in their order.
        delta_targets: (F, 4), the same.
        smooth_l1_beta: FCIS takes 1.

    Returns:
        Cross entropy of the classes; the mean over cells of the two-way cross entropy of the masks
        of the true class; the smooth L1 loss, summed over the four deltas.
    """
    foreground = torch.nonzero(classes < pooled.shape[1] - 1)[:, 0]
    classification = F.cross_entropy(class_logits(pooled), classes, reduction="none")
    zeros = torch.zeros_like(classification)
    logits = mask_logits(pooled[foreground], classes[foreground])
    of_cells = F.binary_cross_entropy_with_logits(
        logits, mask_targets.to(logits.dtype), reduction="none"
    )
    of_deltas = F.smooth_l1_loss(
        deltas[foreground], delta_targets, reduction="none", beta=smooth_l1_beta
    )
    return RoILosses(
        classification,
        zeros.index_copy(0, foreground, of_cells.mean(dim=(1, 2))),
        zeros.index_copy(0, foreground, of_deltas.sum(dim=1)),
    )


def hardest(losses: RoILosses, count: int, mask_weight: float) -> Tensor:
    """Return the indices of an image's `count` RoIs with the largest weighted sum of losses.

    Online hard example mining as in FCIS: no NMS among RoIs, no quota of positive ones. All are
    kept when there are no more than `count`.
    """
    with torch.no_grad():
        total = losses.classification + mask_weight * losses.mask + losses.box
        return total.topk(min(count, len(total))).indices
