"""Mask voting: from overlapping RoIs with scores and masks to detections (FCIS's released code).

Letters: M RoIs; K foreground classes; P the side of their masks. Boxes are XYXY_ABS in pixels of
the image that the masks are for, continuous: the box of one pixel is 1 wide.
"""

from typing import NamedTuple

import torch
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor
from torch.nn import functional as F

from ...layers.roi_layers import round_half_away

__all__ = ["Detected", "MaskCrop", "render_mask", "select_detections", "single_masks", "vote_masks"]


class MaskCrop(NamedTuple):
    """A mask in an image: `mask` (h, w) covers the rows from `top` and the columns from `left`."""

    top: int
    left: int
    mask: Tensor


class Detected(NamedTuple):
    """D detections of an image of height H and width W.

    Attributes:
        boxes: (D, 4) float32.
        scores: (D,) float32.
        classes: (D,) int64 in [0, K).
        masks: (D, H, W) bool.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor


def select_detections(
    boxes: Tensor, probs: Tensor, *, score_threshold: float, nms_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Return which RoI is detected as which class: indices (D,) and classes (D,), best first.

    For each class, greedy NMS over all RoIs by that class's score; then the best `limit` of all
    classes. RoIs below the score threshold are left out first, which changes nothing: they could
    only suppress RoIs that score lower still. Deviation: the released code keeps all that score as
    high as the last; a model whose scores are all alike would then find thousands.

    Args:
        boxes: (M, 4).
        probs: (M, K), of the foreground classes.
        score_threshold: FCIS takes 0.001.
        nms_threshold: a RoI is dropped when its IoU with a better one is larger; FCIS takes 0.3.
        limit: FCIS takes 100.
    """
    rois, classes = torch.nonzero(probs >= score_threshold, as_tuple=True)
    scores = probs[rois, classes]
    kept = batched_nms(boxes[rois], scores, classes, nms_threshold)
    kept = kept[:limit]
    return rois[kept], classes[kept]


def render_mask(mask: Tensor, box: Tensor, height: int, width: int, threshold: float) -> MaskCrop:
    """Paste a RoI's mask into its box, rounded to whole pixels, and cut it at the threshold.

    Bilinear, half-pixel centres, constant beyond the outer cells' centres.

    Args:
        mask: (P, P), probabilities.
        box: (4,), in the image; what is beyond its border is cut off.
        height: of the image.
        width: the same.
        threshold: FCIS takes 0.4.
    """
    left, top, right, bottom = (int(v) for v in round_half_away(box).tolist())
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    resized = F.interpolate(
        mask[None, None], size=(bottom - top, right - left), mode="bilinear", align_corners=False
    )[0, 0]
    first_row, first_column = max(-top, 0), max(-left, 0)
    inside = resized[first_row : max(height - top, 0), first_column : max(width - left, 0)]
    return MaskCrop(top + first_row, left + first_column, inside >= threshold)


def vote_masks(
    boxes: Tensor,
    probs: Tensor,
    masks: Tensor,
    selected: tuple[Tensor, Tensor],
    *,
    image_size: tuple[int, int],
    mask_threshold: float,
    iou_threshold: float,
) -> Detected:
    """Give each detection the average of the masks around it, and the box of the result.

    The voters of a detection are all RoIs whose IoU with its box is at least `iou_threshold`,
    suppressed ones too, of whatever class their mask is; each mask is cut at `mask_threshold`, then
    averaged with the RoIs' scores of the detected class as weights, and the average is cut at
    `mask_threshold`. A detection whose mask is empty is dropped. Deviation: the released code
    resamples the average to P x P and pastes that; here it is cut where it is.

    Args:
        boxes: (M, 4).
        probs: (M, K).
        masks: (M, P, P), probabilities.
        selected: RoI and class of each detection, see `select_detections`.
        image_size: (H, W).
        mask_threshold: FCIS takes 0.4.
        iou_threshold: FCIS takes 0.5.
    """
    height, width = image_size
    rois, classes = selected
    voters = pairwise_iou(Boxes(boxes[rois]), Boxes(boxes)) >= iou_threshold
    voters[torch.arange(len(rois), device=rois.device), rois] = True
    weights = voters * probs[:, classes].T
    weights = (weights / weights.sum(dim=1, keepdim=True)).tolist()
    crops = {
        index: render_mask(masks[index], boxes[index], height, width, mask_threshold)
        for index in torch.nonzero(voters.any(dim=0))[:, 0].tolist()
    }
    voted = torch.zeros((len(rois), height, width), dtype=torch.bool, device=boxes.device)
    tight = boxes.new_zeros(len(rois), 4)
    for number in range(len(rois)):
        around = torch.nonzero(voters[number])[:, 0].tolist()
        crop = _average([crops[m] for m in around], [weights[number][m] for m in around])
        mask = crop.mask >= mask_threshold
        rows, columns = (torch.nonzero(mask.any(dim=axis))[:, 0] for axis in (1, 0))
        if len(rows):
            bottom, right = crop.top + mask.shape[0], crop.left + mask.shape[1]
            voted[number, crop.top : bottom, crop.left : right] = mask
            tight[number] = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            tight[number] += tight.new_tensor([crop.left, crop.top] * 2)
    found = tight[:, 2] > 0
    return Detected(tight[found], probs[rois, classes][found], classes[found], voted[found])


def _average(crops: list[MaskCrop], weights: list[float]) -> MaskCrop:
    """Return the weighted sum of masks, on the window that covers them all."""
    top, left = min(crop.top for crop in crops), min(crop.left for crop in crops)
    bottom = max(crop.top + crop.mask.shape[0] for crop in crops)
    right = max(crop.left + crop.mask.shape[1] for crop in crops)
    total = torch.zeros(bottom - top, right - left, device=crops[0].mask.device)
    for crop, weight in zip(crops, weights, strict=True):
        rows = slice(crop.top - top, crop.top - top + crop.mask.shape[0])
        columns = slice(crop.left - left, crop.left - left + crop.mask.shape[1])
        total[rows, columns] += weight * crop.mask
    return MaskCrop(top, left, total)


def single_masks(
    boxes: Tensor,
    probs: Tensor,
    masks: Tensor,
    selected: tuple[Tensor, Tensor],
    *,
    image_size: tuple[int, int],
    mask_threshold: float,
) -> Detected:
    """Give each detection its own RoI's mask, and the RoI as its box: no voting.

    Args: see `vote_masks`.
    """
    rois, classes = selected
    pasted = torch.zeros((len(rois), *image_size), dtype=torch.bool, device=boxes.device)
    for number, roi in enumerate(rois.tolist()):
        crop = render_mask(masks[roi], boxes[roi], *image_size, mask_threshold)
        bottom, right = crop.top + crop.mask.shape[0], crop.left + crop.mask.shape[1]
        pasted[number, crop.top : bottom, crop.left : right] = crop.mask
    return Detected(boxes[rois], probs[rois, classes], classes, pasted)
