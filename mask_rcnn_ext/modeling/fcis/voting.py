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

from ...layers.roi_layers import round_half_away

__all__ = ["MaskCrop", "paste_masks", "render_mask", "select_detections", "vote_masks"]


class MaskCrop(NamedTuple):
    """A mask in an image: `mask` (h, w) covers the rows from `top` and the columns from `left`."""

    top: int
    left: int
    mask: Tensor

    def get_window(self, top: int = 0, left: int = 0) -> tuple[slice, slice]:
        """Return the rows and columns that the mask covers, counted from `top` and `left`."""
        top, left = self.top - top, self.left - left
        return slice(top, top + self.mask.shape[0]), slice(left, left + self.mask.shape[1])


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
        limit: FCIS uses 100.
    """
    rois, classes = torch.nonzero(probs >= score_threshold, as_tuple=True)
    scores = probs[rois, classes]
    kept = batched_nms(boxes[rois], scores, classes, nms_threshold)[:limit]
    return rois[kept], classes[kept]


def render_mask(mask: Tensor, box: Tensor, height: int, width: int, threshold: float) -> MaskCrop:
    """Paste a RoI's mask into its box, rounded to whole pixels, and apply the threshold.

    The mask is resized bilinearly with half-pixel centres; it is constant beyond the centres of its
    outer cells.

    Args:
        mask: (P, P), probabilities.
        box: (4,); the part outside the image is cut off.
        height: height of the image.
        width: width of the image.
        threshold: FCIS uses 0.4.
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

    Returns:
        `pred_boxes`, `scores` (D,) float32, `pred_classes` (D,) int64 in [0, K) and `pred_masks`
        (D, H, W) bool.
    """
    rois, classes = selected
    voters = pairwise_iou(Boxes(boxes[rois]), Boxes(boxes)) >= iou_threshold
    voters[torch.arange(len(rois), device=rois.device), rois] = True
    weights = voters * probs[:, classes].T
    weights = (weights / weights.sum(dim=1, keepdim=True)).tolist()
    crops = {
        index: render_mask(masks[index], boxes[index], *image_size, mask_threshold)
        for index in torch.nonzero(voters.any(dim=0))[:, 0].tolist()
    }
    voted = torch.zeros((len(rois), *image_size), dtype=torch.bool, device=boxes.device)
    tight = boxes.new_zeros(len(rois), 4)
    for number in range(len(rois)):
        around = torch.nonzero(voters[number])[:, 0].tolist()
        crop = _average([crops[m] for m in around], [weights[number][m] for m in around])
        mask = crop.mask >= mask_threshold
        rows, columns = (torch.nonzero(mask.any(dim=axis))[:, 0] for axis in (1, 0))
        if len(rows):
            voted[number][crop.get_window()] = mask
            tight[number] = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            tight[number] += tight.new_tensor([crop.left, crop.top] * 2)
    detections = Instances(
        image_size,
        pred_boxes=Boxes(tight),
        scores=probs[rois, classes],
        pred_classes=classes,
        pred_masks=voted,
    )
    return detections[tight[:, 2] > 0]


def _average(crops: list[MaskCrop], weights: list[float]) -> MaskCrop:
    """Return the weighted sum of masks, on the window that covers them all."""
    top, left = min(crop.top for crop in crops), min(crop.left for crop in crops)
    bottom = max(crop.top + crop.mask.shape[0] for crop in crops)
    right = max(crop.left + crop.mask.shape[1] for crop in crops)
    total = torch.zeros(bottom - top, right - left, device=crops[0].mask.device)
    for crop, weight in zip(crops, weights, strict=True):
        total[crop.get_window(top, left)] += weight * crop.mask
    return MaskCrop(top, left, total)


def paste_masks(
    boxes: Tensor,
    probs: Tensor,
    masks: Tensor,
    selected: tuple[Tensor, Tensor],
    *,
    image_size: tuple[int, int],
    mask_threshold: float,
) -> Instances:
    """Give each detection the mask and the box of its RoI, without voting.

    For arguments and result see `vote_masks`.
    """
    rois, classes = selected
    pasted = torch.zeros((len(rois), *image_size), dtype=torch.bool, device=boxes.device)
    for number, roi in enumerate(rois.tolist()):
        crop = render_mask(masks[roi], boxes[roi], *image_size, mask_threshold)
        pasted[number][crop.get_window()] = crop.mask
    return Instances(
        image_size,
        pred_boxes=Boxes(boxes[rois]),
        scores=probs[rois, classes],
        pred_classes=classes,
        pred_masks=pasted,
    )
