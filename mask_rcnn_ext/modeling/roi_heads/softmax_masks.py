"""The softmax mask loss of Table 2b, and the masks that a model with this loss predicts.

Shapes: R masks of all images, K foreground classes, masks of M x M.
"""

from collections.abc import Sequence

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch.nn import functional as F

__all__ = ["softmax_mask_inference", "softmax_mask_loss"]


def softmax_mask_loss(
    pred_mask_logits: torch.Tensor, instances: Sequence[Instances], vis_period: int = 0
) -> torch.Tensor:
    """Return the multinomial mask loss: at each pixel a choice among K classes and background.

    Paper: Mask R-CNN (arXiv:1703.06870), Table 2b, "softmax". The paper only says "a per-pixel
    softmax and a multinomial loss". This project chose what is nearest to the sigmoid loss: a
    channel for the background, the RoI's class as the target inside the mask and the background
    outside it, and positive RoIs only. With K = 1 and background logits of 0 the two losses are
    equal.

    It logs the same scalars as detectron2's `mask_rcnn_loss`, `mask_rcnn/{accuracy,false_positive,
    false_negative}`, and so needs an `EventStorage`. A pixel counts as predicted where the
    probability of the RoI's class is above 0.5.

    Args:
        pred_mask_logits: (R, K + 1, M, M), floating; channel K is the background. With two
            channels, masks are class-agnostic (or K is 1) and the classes are not read.
        instances: one per image, with R rows in all, in the order of the logits. Fields:
            `proposal_boxes` (XYXY, absolute pixels of the image), `gt_classes` (int, in [0, K)),
            `gt_masks` (`PolygonMasks` or `BitMasks`, cropped and resized as in detectron2).
        vis_period: number of iterations between two pictures of the masks and their targets, which
            go to the storage, as in detectron2; 0: no pictures.

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
    crops = [i.gt_masks.crop_and_resize(i.proposal_boxes.tensor, side) for i in instances]
    gt_masks = torch.cat(crops).to(pred_mask_logits.device)[:, None]
    if gt_masks.dtype != torch.bool:  # detectron2's loss also accepts masks of floats
        gt_masks = gt_masks > 0.5
    classes = torch.cat([image.gt_classes for image in instances])
    classes = _get_channel(classes, pred_mask_logits)
    background = pred_mask_logits.shape[1] - 1
    targets = torch.where(gt_masks, classes, background)[:, 0]

    log_probabilities = F.log_softmax(_to_float32(pred_mask_logits), dim=1)
    loss = F.nll_loss(log_probabilities, targets)
    with torch.no_grad():
        probabilities = _select_channel(log_probabilities, classes).exp()
        _log_accuracy(probabilities[:, 0], gt_masks[:, 0], vis_period)
    return loss


def softmax_mask_inference(
    pred_mask_logits: torch.Tensor, pred_instances: Sequence[Instances], argmax: bool = False
) -> None:
    """Add the field `pred_masks` to `pred_instances`: probabilities of the predicted class.

    The paper (Table 2b) does not say how masks are predicted under softmax. The literal reading is
    to treat the softmax probability of the predicted class, among all classes and the background,
    as the probability under sigmoid is treated: pasting compares it with the threshold (0.5). Then
    a pixel where no class has half of the probability belongs to no mask.

    With `argmax`, a pixel belongs to the mask where the predicted class is the likeliest of all
    classes and the background. So that pasting can interpolate, the value of a pixel is p / (p + q)
    for the probability p of the predicted class and the largest other one q: it is above 0.5 where
    p is the largest. With two channels the two readings are the same.

    Args:
        pred_mask_logits: (R, K + 1, M, M), as for `softmax_mask_loss`.
        pred_instances: one per image, with R rows in all, changed in place: each gets `pred_masks`,
            (R_image, 1, M, M) in [0, 1], float32 for logits in half precision. The field
            `pred_classes` (int64, in [0, K)) is read, unless there are only two channels.
        argmax: read the masks by the largest probability.
    """
    logits = _to_float32(pred_mask_logits)
    classes = torch.cat([image.pred_classes for image in pred_instances])
    channel = _get_channel(classes, logits)
    if argmax:
        own = _select_channel(logits, channel)
        index = channel.expand_as(own)
        others = logits.scatter(1, index, -float("inf")).amax(dim=1, keepdim=True)
        selected = torch.sigmoid(own - others)
    else:
        selected = _select_channel(logits.softmax(dim=1), channel)
    sizes = [image.pred_classes.shape[0] for image in pred_instances]  # a trace keeps len()
    masks = selected.split(sizes)
    for masks_of_image, image in zip(masks, pred_instances, strict=True):
        image.pred_masks = masks_of_image


def _get_channel(classes: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return each mask's foreground channel, (R, 1, 1, 1), int64; 0 for class-agnostic masks."""
    classes = classes.to(device=logits.device, dtype=torch.int64)
    if logits.shape[1] == 2:
        classes = torch.zeros_like(classes)
    return classes[:, None, None, None]


def _select_channel(values: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
    return values.gather(1, channel.expand(-1, 1, *values.shape[2:]))  # (R, 1, M, M)


def _to_float32(logits: torch.Tensor) -> torch.Tensor:
    """Return logits in float32 or float64: bfloat16's 8 bits cannot sum 81 exponentials."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _log_accuracy(probabilities: torch.Tensor, gt_masks: torch.Tensor, vis_period: int) -> None:
    """Log the same scalars and pictures as detectron2's `mask_rcnn_loss`; both are (R, M, M)."""
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
