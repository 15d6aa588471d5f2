"""Turns the RoIs of FCIS's heads into detections, for a model or for an exported network."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .voting import paste_masks, select_detections, vote_masks

__all__ = ["FCISDetection", "read_detection_keys"]


def read_detection_keys(cfg: CfgNode) -> dict[str, Any]:
    """Return the attributes of `FCISDetection` from `MODEL.FCIS` and four keys of detectron2.

    The four keys are `MODEL.ROI_HEADS.SCORE_THRESH_TEST` and `NMS_THRESH_TEST`,
    `TEST.DETECTIONS_PER_IMAGE` and `MODEL.PROPOSAL_GENERATOR.MIN_SIZE`.
    """
    fcis, heads = cfg.MODEL.FCIS, cfg.MODEL.ROI_HEADS
    return {
        "mask_threshold": fcis.MASK_THRESH,
        "score_threshold": heads.SCORE_THRESH_TEST,
        "nms_threshold": heads.NMS_THRESH_TEST,
        "vote_iou_threshold": fcis.VOTE_IOU_THRESH,
        "mask_voting": fcis.MASK_VOTING,
        "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        "min_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
    }


class FCISDetection:
    """The methods that turn RoIs into detections; see `FCIS` for the attributes."""

    mask_threshold: float
    score_threshold: float
    nms_threshold: float
    vote_iou_threshold: float
    mask_voting: bool
    detections_per_image: int
    min_size: float

    @torch.no_grad()
    def detect(
        self, rois: Instances, height: int, width: int, *, packed: bool = False
    ) -> Instances:
        """Turn the RoIs of an image into detections.

        Args:
            rois: the result of `FCISROIHeads`, in pixels of the network's input.
            height: height of the output image.
            width: width of the output image.
            packed: give `pred_masks` as `PackedMasks`, which take little memory.
        """
        selected = self.select(rois, height, width)
        options: dict[str, Any] = {
            "image_size": _make_size(height, width),
            "mask_threshold": self.mask_threshold,
            "packed": packed,
        }
        if not self.mask_voting:
            return paste_masks(*selected, **options)
        return vote_masks(*selected, iou_threshold=self.vote_iou_threshold, **options)

    def select(
        self, rois: Instances, height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return the first four arguments of `vote_masks`, in pixels of the output image.

        See `detect` for the arguments.
        """
        # detectron2 drops boxes whose side equals the threshold, FCIS keeps them.
        rois = rois[rois.proposal_boxes.nonempty(threshold=max(self.min_size - 1e-5, 0.0))]
        boxes = Boxes(rois.proposal_boxes.tensor)
        boxes.scale(width / rois.image_size[1], height / rois.image_size[0])
        boxes.clip(_make_size(height, width))
        probs, masks = rois.class_probs[:, :-1], rois.roi_masks
        selected = select_detections(
            boxes.tensor,
            probs,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            limit=self.detections_per_image,
        )
        return boxes.tensor, probs, masks, selected


def _make_size(height: int, width: int) -> Any:
    """Return (height, width); a tensor in a trace, which would keep numbers for other images."""
    if torch.jit.is_tracing():
        return torch.stack([torch.as_tensor(side) for side in (height, width)])
    return height, width
