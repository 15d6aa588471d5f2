"""The two mask losses of Table 2b, and how a mask is read under each.

"sigmoid" is detectron2's own code: one binary mask per class. "softmax" is below: the classes and
the background compete at each pixel. Shapes: R masks of all images, K foreground classes, masks of
M x M. M is the side of the logits, and of nothing else: targets are cropped to it here, and
detectron2's `paste_masks_in_image` resamples whatever side it gets.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch.nn import functional as F

from ...errors import UserError, nearest

__all__ = ["MaskLoss", "get_mask_loss", "softmax_mask_inference", "softmax_mask_loss"]


class MaskLoss(NamedTuple):
    """A way to train masks and the matching way to read them."""

    # (logits, instances, vis_period) -> scalar; as `detectron2...mask_head.mask_rcnn_loss`
    loss: Callable[[torch.Tensor, Sequence[Instances], int], torch.Tensor]
    # (logits, instances) -> None, adds `pred_masks`; as `mask_rcnn_inference`
    inference: Callable[[torch.Tensor, Sequence[Instances]], None]
    extra_channels: int  # logits per pixel beyond one for each class


def get_mask_loss(name: str) -> MaskLoss:
    """Return the loss that `MODEL.ROI_MASK_HEAD.LOSS` names: "sigmoid" or "softmax".

    Raises:
        UserError: there is no such loss.
    """
    if name not in _MASK_LOSSES:
        known = " or ".join(repr(known) for known in _MASK_LOSSES)
        hint = nearest(str(name), _MASK_LOSSES)
        raise UserError(f"MODEL.ROI_MASK_HEAD.LOSS: expected {known}, got {name!r}{hint}")
    return _MASK_LOSSES[name]


def softmax_mask_loss(
    pred_mask_logits: torch.Tensor, instances: Sequence[Instances], vis_period: int = 0
) -> torch.Tensor:
    """Return the multinomial mask loss: at each pixel a choice among K classes and background.

    Paper: Mask R-CNN (arXiv:1703.06870), Table 2b, "softmax". The paper says no more than "a
    per-pixel softmax and a multinomial loss": the background channel, the target (inside the mask
    the RoI's class, outside it the background) and the positive RoIs as the only ones are our
    choice, the one nearest to the sigmoid loss. With K = 1 and background logits of 0 the two are
    the same.

    Logs the scalars of detectron2's `mask_rcnn_loss`, `mask_rcnn/{accuracy,false_positive,
    false_negative}`; a pixel counts as predicted where the probability of the RoI's class is above
    0.5. Call it inside an `EventStorage`.

    Args:
        pred_mask_logits: (R, K + 1, M, M), floating; channel K is the background. With two
            channels, masks are class-agnostic (or K is 1): classes are not looked at.
        instances: one per image, R in all, in the order of the logits. Fields: `proposal_boxes`
            (XYXY, absolute pixels of the image), `gt_classes` (int, in [0, K)), `gt_masks`
            (`PolygonMasks` or `BitMasks`, which are cropped and resized as detectron2 does).
        vis_period: every so many iterations, put the masks beside their targets into the storage as
            images, as detectron2 does; 0: never.

    Returns:
        Scalar, the mean over R * M * M pixels; float32 for logits in half precision. With R == 0
        exactly 0, still attached to the graph.

    Raises:
        ValueError: the masks are not square.
    """
    side = pred_mask_logits.shape[-1]
    if pred_mask_logits.shape[-2] != side:
        raise ValueError(f"expected square mask logits, got {tuple(pred_mask_logits.shape)}")
    instances = [image for image in instances if len(image)]
    if not instances:
        return pred_mask_logits.sum() * 0
    gt_masks = _crop_gt_masks(instances, side, pred_mask_logits.device)
    classes = torch.cat([image.gt_classes for image in instances])
    classes = _channel_of(classes, pred_mask_logits)
    background = pred_mask_logits.shape[1] - 1
    targets = torch.where(gt_masks, classes, background)[:, 0]

    log_probabilities = F.log_softmax(_at_least_float32(pred_mask_logits), dim=1)
    loss = F.nll_loss(log_probabilities, targets)
    with torch.no_grad():
        # Read as `softmax_mask_inference` does.
        probabilities = _select_channel(log_probabilities, classes).exp()
        _log(probabilities[:, 0], gt_masks[:, 0], vis_period)
    return loss


def softmax_mask_inference(
    pred_mask_logits: torch.Tensor, pred_instances: Sequence[Instances]
) -> None:
    """Add the field `pred_masks` to `pred_instances`: probabilities of the predicted class.

    The paper (Table 2b) does not say how masks are read under softmax. Here a pixel's value is the
    softmax probability of the predicted class among all classes and the background, and pasting
    compares it with the threshold (0.5) as it does under sigmoid. A pixel that no class wins by
    more than one half thus belongs to no mask.

    Args:
        pred_mask_logits: (R, K + 1, M, M), as for `softmax_mask_loss`.
        pred_instances: one per image, R in all, changed in place: each gets `pred_masks`, (R_image,
            1, M, M) in [0, 1], float32 for logits in half precision. Field read: `pred_classes`
            (int64, in [0, K)), unless there are two channels only.
    """
    probabilities = _at_least_float32(pred_mask_logits).softmax(dim=1)
    classes = torch.cat([image.pred_classes for image in pred_instances])
    selected = _select_channel(probabilities, _channel_of(classes, pred_mask_logits))
    masks = selected.split([len(image) for image in pred_instances])
    for masks_of_image, image in zip(masks, pred_instances, strict=True):
        image.pred_masks = masks_of_image


def _crop_gt_masks(instances: Sequence[Instances], side: int, device: torch.device) -> torch.Tensor:
    """Return the ground truth inside each proposal box, (R, 1, side, side), bool."""
    cropped = [
        image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, side).to(device)
        for image in instances
    ]
    masks = torch.cat(cropped)[:, None]
    # As in detectron2's loss, a mask class of a user may return floats.
    return masks if masks.dtype == torch.bool else masks > 0.5


def _channel_of(classes: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return each mask's foreground channel, (R, 1, 1, 1), int64; 0 when there is only one."""
    classes = classes.to(device=logits.device, dtype=torch.int64)
    if logits.shape[1] == 2:
        classes = torch.zeros_like(classes)
    return classes[:, None, None, None]


def _select_channel(values: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
    return values.gather(1, channel.expand(-1, 1, *values.shape[2:]))  # (R, 1, M, M)


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    """A sum over 81 exponentials needs more than bfloat16's 8 bits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _log(probabilities: torch.Tensor, gt_masks: torch.Tensor, vis_period: int) -> None:
    """Put into the current storage what detectron2's `mask_rcnn_loss` does; both are (R, M, M)."""
    wrong = (probabilities > 0.5) != gt_masks
    positives = int(gt_masks.sum())
    negatives = gt_masks.numel() - positives
    false_positives = int((wrong & ~gt_masks).sum())
    false_negatives = int((wrong & gt_masks).sum())
    incorrect = false_positives + false_negatives
    storage = get_event_storage()
    storage.put_scalar("mask_rcnn/accuracy", 1 - incorrect / max(wrong.numel(), 1))
    storage.put_scalar("mask_rcnn/false_positive", false_positives / max(negatives, 1))
    storage.put_scalar("mask_rcnn/false_negative", false_negatives / max(positives, 1))
    if vis_period > 0 and storage.iter % vis_period == 0:
        pairs = torch.cat([probabilities, gt_masks.to(probabilities.dtype)], dim=2)
        for index, pair in enumerate(pairs):
            name = f"Left: mask prediction;   Right: mask GT ({index})"
            storage.put_image(name, pair.expand(3, -1, -1))


_MASK_LOSSES = {
    "sigmoid": MaskLoss(mask_rcnn_loss, mask_rcnn_inference, extra_channels=0),
    "softmax": MaskLoss(softmax_mask_loss, softmax_mask_inference, extra_channels=1),
}
