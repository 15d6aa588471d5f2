"""Mask voting: from overlapping RoIs with scores and masks to detections (FCIS's released code).

Letters: M RoIs; K foreground classes; P the side of their masks; D detections in an image of height
H and width W. Boxes are XYXY_ABS in pixels of the image that the masks are for. Their coordinates
are continuous: a box around one pixel has width 1.
"""

from typing import NamedTuple

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor
from torch.nn import functional as F

from ...layers.packed_masks import MaskCrop, PackedMasks
from ...layers.roi_layers import round_to_pixels

__all__ = [
    "RenderedMask",
    "find_voters",
    "paste_masks",
    "render_mask",
    "select_detections",
    "vote_masks",
]


class RenderedMask(NamedTuple):
    """A mask in an image: `mask` (h, w) covers the rows from `top` and the columns from `left`."""

    top: int
    left: int
    mask: Tensor


def select_detections(
    boxes: Tensor, probs: Tensor, *, score_threshold: float, nms_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Return which RoI is detected as which class: indices (D,) and classes (D,), best first.

    NMS runs over all RoIs for each class, by the score of that class; then the best `limit`
    detections of all classes are kept. RoIs below the score threshold are left out first. This
    changes no other detection, since they could only suppress RoIs with even lower scores.
    Deviation: the released code keeps every detection that scores as high as the last one. A model
    that gives all RoIs the same score would then find thousands.

    Args:
        boxes: (M, 4).
        probs: (M, K), of the foreground classes.
        score_threshold: FCIS uses 0.001.
        nms_threshold: a RoI whose IoU with a better RoI is larger is dropped; FCIS uses 0.3.
        limit: FCIS uses 100. As in detectron2, a negative number is no limit.
    """
    rois, classes = torch.nonzero(probs >= score_threshold, as_tuple=True)
    scores = probs[rois, classes]
    kept = batched_nms(boxes[rois], scores, classes, nms_threshold)
    if limit >= 0:
        kept = kept[:limit]
    return rois[kept], classes[kept]


def render_mask(
    mask: Tensor, box: Tensor, height: int, width: int, threshold: float
) -> RenderedMask:
    """Paste a RoI's mask into its box, rounded by `round_to_pixels`, and apply the threshold.

    The mask is resized bilinearly with half-pixel centres; it is constant beyond the centres of its
    outer cells.

    Args:
        mask: (P, P), probabilities.
        box: (4,); the part outside the image is cut off.
        height: height of the image.
        width: width of the image.
        threshold: FCIS uses 0.4.
    """
    corners: list[int] = round_to_pixels(box).long().tolist()
    left, top = corners[0], corners[1]
    right, bottom = max(corners[2], left + 1), max(corners[3], top + 1)
    resized = F.interpolate(
        mask[None, None], size=[bottom - top, right - left], mode="bilinear", align_corners=False
    )[0, 0]
    first_row, first_column = max(-top, 0), max(-left, 0)
    inside = resized[first_row : max(height - top, 0), first_column : max(width - left, 0)]
    return RenderedMask(top + first_row, left + first_column, inside >= threshold)


def find_voters(boxes: Tensor, rois: Tensor, iou_threshold: float) -> Tensor:
    """Return which RoIs vote for each detection, (D, M) bool; its own RoI always does.

    Args:
        boxes: (M, 4).
        rois: (D,), the RoI of each detection.
        iou_threshold: least IoU of a RoI with the detection's RoI; FCIS uses 0.5.
    """
    voters = pairwise_iou(Boxes(boxes[rois]), Boxes(boxes)) >= iou_threshold
    voters[torch.arange(rois.shape[0], device=rois.device), rois] = True
    return voters


def vote_masks(
    boxes: Tensor,
    probs: Tensor,
    masks: Tensor,
    selected: tuple[Tensor, Tensor],
    *,
    image_size: tuple[int, int],
    mask_threshold: float,
    iou_threshold: float,
    keep_empty: bool = False,
    packed: bool = False,
) -> Instances:
    """Give each detection the average of the masks around it, and the box of the result.

    The voters of a detection are all RoIs whose IoU with its box is at least `iou_threshold`. RoIs
    that NMS suppressed vote too, whatever the class of their mask. Each mask is cut at
    `mask_threshold`, the cut masks are averaged with the RoIs' scores of the detected class as
    weights, and the average is cut at `mask_threshold`. A detection with an empty mask is dropped.
    Deviation: the released code resamples the average to P x P and pastes the result; here the
    average is cut in the image.

    Args:
        boxes: (M, 4).
        probs: (M, K).
        masks: (M, P, P), probabilities.
        selected: RoI and class of each detection, see `select_detections`.
        image_size: (H, W).
        mask_threshold: FCIS uses 0.4.
        iou_threshold: FCIS uses 0.5.
        keep_empty: keep detections with an empty mask; their boxes are 0.
        packed: give the masks as `PackedMasks`.

    Returns:
        `pred_boxes`, `scores` (D,) float32, `pred_classes` (D,) int64 in [0, K) and `pred_masks`
        (D, H, W) bool, or `PackedMasks`.
    """
    rois, classes = selected
    voters = find_voters(boxes, rois, iou_threshold)
    weights = voters * probs[:, classes].T
    weights = weights / weights.sum(dim=1, keepdim=True)
    voted: Tensor | PackedMasks
    if packed:
        crops, tight = _vote_crops(boxes, masks, voters, weights, *image_size, mask_threshold)
        voted = _pack(crops, image_size)
    else:
        size = torch.as_tensor(image_size)
        voted, tight = _vote(boxes, masks, voters, weights, size, mask_threshold)
    detections = Instances(
        image_size,
        pred_boxes=Boxes(tight),
        scores=probs[rois, classes],
        pred_classes=classes,
        pred_masks=voted,
    )
    return detections if keep_empty else detections[tight[:, 2] > 0]


def _pack(crops: list[RenderedMask], image_size: tuple[int, int]) -> PackedMasks:
    return PackedMasks(
        image_size, (MaskCrop(top, left, mask.cpu().numpy()) for top, left, mask in crops)
    )


# The loops of the functions below depend on the image. A trace would record only the steps that ran
# on the traced image, so these functions become TorchScript in a trace.


@torch.jit.script_if_tracing
def _vote(
    boxes: Tensor,
    masks: Tensor,
    voters: Tensor,
    weights: Tensor,
    image_size: Tensor,
    threshold: float,
) -> tuple[Tensor, Tensor]:
    """Return the masks (D, H, W) and the boxes of the votes; for the arguments see `_vote_crops`.

    `image_size` is (2,) int, H and W; a trace would keep Python numbers.
    """
    height, width = int(image_size[0]), int(image_size[1])
    crops, tight = _vote_crops(boxes, masks, voters, weights, height, width, threshold)
    return _place(crops, height, width, boxes.device), tight


def _vote_crops(
    boxes: Tensor,
    masks: Tensor,
    voters: Tensor,
    weights: Tensor,
    height: int,
    width: int,
    threshold: float,
) -> tuple[list[RenderedMask], Tensor]:
    """Return the D masks of the votes and their boxes (D, 4), which are 0 for no pixel.

    `voters` (D, M) bool says which RoIs vote for each detection, and `weights` (D, M) has their
    weights. For the other arguments see `vote_masks`.
    """
    voted: list[RenderedMask] = []
    tight = torch.zeros((voters.shape[0], 4), dtype=boxes.dtype, device=boxes.device)
    crops: dict[int, RenderedMask] = {}
    for number in range(voters.shape[0]):
        around: list[int] = torch.nonzero(voters[number])[:, 0].tolist()
        top, left, bottom, right = height, width, 0, 0
        for roi in around:
            if roi not in crops:
                crops[roi] = render_mask(masks[roi], boxes[roi], height, width, threshold)
            crop = crops[roi]
            top, left = min(top, crop.top), min(left, crop.left)
            bottom = max(bottom, crop.top + crop.mask.shape[0])
            right = max(right, crop.left + crop.mask.shape[1])
        total = torch.zeros((bottom - top, right - left), device=boxes.device)
        for roi in around:
            crop = crops[roi]
            window = total[crop.top - top :, crop.left - left :]
            window[: crop.mask.shape[0], : crop.mask.shape[1]] += weights[number, roi] * crop.mask
        mask = total >= threshold
        voted.append(RenderedMask(top, left, mask))
        rows, columns = torch.nonzero(mask.any(dim=1))[:, 0], torch.nonzero(mask.any(dim=0))[:, 0]
        if rows.shape[0] > 0:
            low = torch.stack([columns[0] + left, rows[0] + top])
            tight[number] = torch.cat([low, torch.stack([columns[-1] + left, rows[-1] + top]) + 1])
    return voted, tight


@torch.jit.script_if_tracing
def _paste(boxes: Tensor, masks: Tensor, image_size: Tensor, threshold: float) -> Tensor:
    """Return the masks (D, P, P) in their boxes (D, 4), bool (D, H, W); `image_size` as above."""
    height, width = int(image_size[0]), int(image_size[1])
    crops = _render_masks(boxes, masks, height, width, threshold)
    return _place(crops, height, width, boxes.device)


def _render_masks(
    boxes: Tensor, masks: Tensor, height: int, width: int, threshold: float
) -> list[RenderedMask]:
    crops: list[RenderedMask] = []
    for number in range(boxes.shape[0]):
        crops.append(render_mask(masks[number], boxes[number], height, width, threshold))
    return crops


def _place(crops: list[RenderedMask], height: int, width: int, device: torch.device) -> Tensor:
    """Return the masks, (D, H, W) bool."""
    placed = torch.zeros((len(crops), height, width), dtype=torch.bool, device=device)
    for number, crop in enumerate(crops):
        window = placed[number, crop.top :, crop.left :]
        window[: crop.mask.shape[0], : crop.mask.shape[1]] = crop.mask
    return placed


def paste_masks(
    boxes: Tensor,
    probs: Tensor,
    masks: Tensor,
    selected: tuple[Tensor, Tensor],
    *,
    image_size: tuple[int, int],
    mask_threshold: float,
    packed: bool = False,
) -> Instances:
    """Give each detection the mask and the box of its RoI, without voting.

    For arguments and result see `vote_masks`.
    """
    rois, classes = selected
    pasted: Tensor | PackedMasks
    if packed:
        crops = _render_masks(boxes[rois], masks[rois], *image_size, mask_threshold)
        pasted = _pack(crops, image_size)
    else:
        pasted = _paste(boxes[rois], masks[rois], torch.as_tensor(image_size), mask_threshold)
    return Instances(
        image_size,
        pred_boxes=Boxes(boxes[rois]),
        scores=probs[rois, classes],
        pred_classes=classes,
        pred_masks=pasted,
    )
