"""FCIS's classes and masks from pooled score maps, and their losses.

Paper: arXiv:1611.07709, section 3. The arithmetic follows the released code, which multiplies the
mask loss by 10, where the paper has a weight of 1.

Letters: R RoIs; K foreground classes, C = K + 1 with the background last, label K; P the side of a
pooled map. `pooled` (R, C, 2, P, P) holds two scores for every class at every cell. The first,
[:, :, 0], says that the cell is outside the object but inside its box; the second, [:, :, 1], that
the cell is inside the object.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ...layers.roi_layers import round_to_pixels

__all__ = [
    "RoILosses",
    "compute_class_logits",
    "compute_mask_logits",
    "compute_roi_losses",
    "predict_masks",
    "sample_mask_targets",
    "select_hardest",
]

OUTSIDE, INSIDE = 0, 1


def compute_class_logits(pooled: Tensor) -> Tensor:
    """Return the class logits (R, C): the mean over cells of the larger of the two scores.

    Every cell of an object's box is either inside or outside the object, so one of its two scores
    is high. Where both are low, there is no such object. The gradient of a cell goes to the larger
    score, or to the outside score where the two are equal.
    """
    outside, inside = pooled[:, :, OUTSIDE], pooled[:, :, INSIDE]
    return torch.where(inside > outside, inside, outside).mean(dim=(2, 3))


def compute_mask_logits(pooled: Tensor, classes: Tensor) -> Tensor:
    """Return the mask logits (R, P, P) of one class per RoI: the inside minus the outside score.

    Their sigmoid is the softmax over the two scores. Masks of different classes do not compete.

    Args:
        pooled: see the module docstring.
        classes: (R,), int64 in [0, K].
    """
    chosen = pooled[torch.arange(pooled.shape[0], device=pooled.device), classes]
    return chosen[:, INSIDE] - chosen[:, OUTSIDE]


def predict_masks(pooled: Tensor, probs: Tensor) -> Tensor:
    """Return the mask of each RoI's best foreground class, (R, P, P), as probabilities.

    A RoI has this mask even where the background is more probable. It has the same mask for every
    class that it is detected as.

    Args:
        pooled: see the module docstring.
        probs: (R, C), scores of the classes; only their order matters.
    """
    return compute_mask_logits(pooled, probs[:, :-1].argmax(dim=1)).sigmoid()


class RoILosses(NamedTuple):
    """The unweighted losses of each RoI, (R,) each; mask and box losses of background are 0."""

    classification: Tensor
    mask: Tensor
    box: Tensor


def sample_mask_targets(
    masks: Tensor, boxes: Tensor, matched: Tensor, *, size: int, threshold: float
) -> Tensor:
    """Return the matched object's mask inside each RoI, (R, P, P) bool.

    The RoI is rounded by `round_to_pixels` and cropped from the mask. The crop is resized
    bilinearly without averaging (half-pixel centres, so a RoI of more than 2 P pixels is sampled at
    points) and compared with the threshold. Pixels of other objects are background. Deviation: the
    released code also crops at the object's rounded box, which cuts off a thin fringe of the mask
    at most.

    Args:
        masks: (G, H, W), bool, of all objects of an image.
        boxes: (R, 4), XYXY_ABS, inside the image.
        matched: (R,), int64 in [0, G), the index of each RoI's object.
        size: P.
        threshold: FCIS uses 0.4.
    """
    height, width = masks.shape[1:]
    corners = round_to_pixels(boxes)
    xs = _find_neighbours(corners[:, 0], corners[:, 2], size, width)
    ys = _find_neighbours(corners[:, 1], corners[:, 3], size, height)
    values = boxes.new_zeros(len(boxes), size, size)
    for rows, down in ys:
        for columns, across in xs:
            at = masks[matched[:, None, None], rows[:, :, None], columns[:, None, :]]
            values += at.to(values.dtype) * down[:, :, None] * across[:, None, :]
    return values >= threshold


def _find_neighbours(
    low: Tensor, high: Tensor, size: int, limit: int
) -> list[tuple[Tensor, Tensor]]:
    """Return the pixel before and the pixel after each sample along one axis.

    Returns:
        Two pairs: pixels, (R, P) int64, and their weights in the interpolation, (R, P).
    """
    low = low.clamp(0, limit - 1)
    last = torch.maximum(high.clamp(max=limit), low + 1) - 1
    index = torch.arange(size, dtype=low.dtype, device=low.device)
    points = low[:, None] + (index + 0.5) * (last - low + 1)[:, None] / size - 0.5
    points = torch.minimum(torch.maximum(points, low[:, None]), last[:, None])
    before = points.floor()
    after = torch.minimum(before + 1, last[:, None])
    return [(before.long(), 1 - (points - before)), (after.long(), points - before)]


def compute_roi_losses(
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
        pooled: (R, C, 2, P, P), see the module docstring.
        deltas: (R, 4), predicted box deltas.
        classes: (R,), int64 in [0, K], the labels; K is the background.
        mask_targets: (F, P, P), for the F RoIs that are not background, in the order of the RoIs.
        delta_targets: (F, 4), for the same RoIs.
        smooth_l1_beta: FCIS uses 1.

    Returns:
        The cross entropy of the classes; the mean over cells of the binary cross entropy of the
        true class's mask; the smooth L1 loss, summed over the four deltas.
    """
    foreground = torch.nonzero(classes < pooled.shape[1] - 1)[:, 0]
    classification = F.cross_entropy(compute_class_logits(pooled), classes, reduction="none")
    zeros = torch.zeros_like(classification)
    logits = compute_mask_logits(pooled[foreground], classes[foreground])
    cell_losses = F.binary_cross_entropy_with_logits(
        logits, mask_targets.to(logits.dtype), reduction="none"
    )
    delta_losses = F.smooth_l1_loss(
        deltas[foreground], delta_targets, reduction="none", beta=smooth_l1_beta
    )
    return RoILosses(
        classification,
        zeros.index_copy(0, foreground, cell_losses.mean(dim=(1, 2))),
        zeros.index_copy(0, foreground, delta_losses.sum(dim=1)),
    )


def select_hardest(losses: RoILosses, count: int, mask_weight: float) -> Tensor:
    """Return the indices of the `count` RoIs of an image with the largest weighted sum of losses.

    This is FCIS's online hard example mining: without NMS among RoIs and without a quota of
    positive RoIs. An image with `count` RoIs or fewer keeps all of them.
    """
    with torch.no_grad():
        total = losses.classification + mask_weight * losses.mask + losses.box
        return total.topk(min(count, len(total))).indices
