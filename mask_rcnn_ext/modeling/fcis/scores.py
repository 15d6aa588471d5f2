"""From pooled inside/outside maps to classes and masks (FCIS, arXiv:1611.07709, section 3).

Letters: R RoIs; K foreground classes, C = K + 1 with the background last, label K; P the side of a
pooled map. `pooled` (R, C, 2, P, P) holds two scores of every class at every cell: [:, :, 0] that
the cell is outside the object but in its box, [:, :, 1] that it is inside the object.
"""

import torch
from torch import Tensor

__all__ = ["INSIDE", "OUTSIDE", "class_logits", "foreground_masks", "mask_logits"]

OUTSIDE, INSIDE = 0, 1


def class_logits(pooled: Tensor) -> Tensor:
    """Return (R, C): the mean over cells of the larger of the two scores.

    Whether a cell is inside or outside the object, it is part of its box; where both scores are low
    it is no part of such an object at all. The gradient of a cell goes to the larger score, and
    where they are equal to the outside one.
    """
    outside, inside = pooled[:, :, OUTSIDE], pooled[:, :, INSIDE]
    return torch.where(inside > outside, inside, outside).mean(dim=(2, 3))


def mask_logits(pooled: Tensor, classes: Tensor) -> Tensor:
    """Return (R, P, P): the logits of the masks of the given classes, inside minus outside.

    Their sigmoid is the softmax over the two scores. Masks of different classes do not compete.

    Args:
        pooled: see the module docstring.
        classes: (R,), int64 in [0, K].
    """
    chosen = pooled[torch.arange(len(pooled), device=pooled.device), classes]
    return chosen[:, INSIDE] - chosen[:, OUTSIDE]


def foreground_masks(pooled: Tensor, probs: Tensor) -> Tensor:
    """Return (R, P, P), probabilities: each RoI's mask of its best foreground class.

    It is that class's even where the background is more probable, and serves for every class that
    the RoI is detected as.

    Args:
        pooled: see the module docstring.
        probs: (R, C), the classes' scores in any monotonous form.
    """
    return mask_logits(pooled, probs[:, :-1].argmax(dim=1)).sigmoid()
