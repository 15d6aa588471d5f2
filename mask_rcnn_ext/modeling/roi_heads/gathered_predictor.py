"""A mask predictor that computes the mask of only one class for each RoI.

The last layer of a mask head computes a mask for each class, but only one mask of each RoI is used:
the loss reads the mask of the true class, prediction the mask of the predicted class. Here only
this mask is computed. The layer's parameters and their names do not change.

Letters: R RoIs of all images, K classes, C channels, masks of M x M.
"""

from contextvars import ContextVar
from typing import Any

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import Tensor, nn

from .mask_heads import MaskRCNNFCNHead

__all__ = ["gather_mask_predictors"]

# The classes of the RoIs that a mask head works on, (R,) int64. This is not an attribute of the
# layer, since several threads may use one model.
_classes: ContextVar[Tensor | None] = ContextVar("classes of the RoIs", default=None)


class _GatheredPredictor(Conv2d):
    """A 1 x 1 convolution (R, C, M, M) -> (R, 1, M, M) with the weights of each RoI's class.

    Where the classes are not known, outside the `forward` of its head, it gives all K maps.
    """

    def forward(self, x: Tensor) -> Tensor:
        classes = _classes.get()
        if classes is None:
            logits: Tensor = super().forward(x)
            return logits
        weight = self.weight.flatten(1)[classes]  # (R, C)
        logits = (weight[:, None] @ x.flatten(2)).unflatten(2, x.shape[2:])
        if self.bias is not None:
            logits = logits + self.bias[classes][:, None, None, None]
        return logits


def gather_mask_predictors(model: nn.Module) -> int:
    """Let the mask heads of a model compute the mask of only one class for each RoI, in place.

    Losses, gradients and masks are equal up to the rounding of float32. The heads are detectron2's
    `MaskRCNNConvUpsampleHead` and our `MaskRCNNFCNHead` with the sigmoid loss and class-specific
    masks. Other heads stay as they are: under softmax a pixel needs the logits of all classes, the
    MLP's last layer is no convolution, and a subclass may use the logits in another way.

    Args:
        model: any model. Its parameters and their names do not change.

    Returns:
        The number of heads that were changed, now or before.
    """
    heads = [head for head in model.modules() if _is_gatherable(head)]
    for head in heads:
        predictor: Any = head.predictor
        if type(predictor) is Conv2d:
            # A new layer in its place would need the parameters and the hooks of the old one.
            predictor.__class__ = _GatheredPredictor
            head.register_forward_pre_hook(_set_classes, with_kwargs=True)
            head.register_forward_hook(_forget_classes, always_call=True)
    return len(heads)


def _is_gatherable(head: nn.Module) -> bool:
    if type(head) not in (MaskRCNNConvUpsampleHead, MaskRCNNFCNHead):
        return False
    predictor: Any = head.predictor
    return (
        getattr(head, "loss_name", "sigmoid") == "sigmoid"
        and type(predictor) in (Conv2d, _GatheredPredictor)
        and predictor.kernel_size == (1, 1)
        and predictor.out_channels > 1
    )


def _set_classes(head: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    instances = args[1] if len(args) > 1 else kwargs["instances"]
    field = "gt_classes" if head.training else "pred_classes"
    found = [image.get(field) for image in instances if len(image)]
    device = head.predictor.weight.device
    empty = torch.zeros(0, dtype=torch.int64, device=device)
    _classes.set(torch.cat([empty, *found]).to(device=device, dtype=torch.int64))


def _forget_classes(head: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    _classes.set(None)
