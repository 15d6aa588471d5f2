"""FCIS, fully convolutional instance-aware segmentation (arXiv:1611.07709), in detectron2."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Boxes, Instances

from ...errors import UserError
from .roi_heads import FCISROIHeads
from .voting import select_detections, single_masks, vote_masks

__all__ = ["FCIS"]


@META_ARCH_REGISTRY.register()
class FCIS(GeneralizedRCNN):
    """`GeneralizedRCNN` on `FCISROIHeads`; its detections come from mask voting.

    Training is that of `GeneralizedRCNN`. In testing the RoIs are scaled to the output image, those
    of a side under `min_size` network pixels are dropped, and `voting` makes detections of the
    rest there, in the output's pixels: the boxes of the result are those of the masks, and no box
    is regressed further.

    Attributes:
        mask_threshold: a pixel belongs to a mask from this probability on.
    """

    @configurable
    def __init__(
        self,
        *,
        mask_threshold: float = 0.4,
        score_threshold: float = 1e-3,
        nms_threshold: float = 0.3,
        vote_iou_threshold: float = 0.5,
        mask_voting: bool = True,
        detections_per_image: int = 100,
        min_size: float = 2.0,
        **kwargs: Any,
    ) -> None:
        """Build the model; the defaults are those of FCIS's COCO models.

        Args:
            mask_threshold: of the votes and of the result.
            score_threshold: lower ones are dropped.
            nms_threshold: see `select_detections`.
            vote_iou_threshold: see `vote_masks`.
            mask_voting: False: each detection has its own RoI's mask and box.
            detections_per_image: the most that are kept, of all classes.
            min_size: least width and height of a RoI, in pixels of the network's input.
            kwargs: see `GeneralizedRCNN`.

        Raises:
            UserError: the heads are others than `FCISROIHeads`, or the mask threshold is not
                between 0 and 1.
        """
        if not isinstance(kwargs["roi_heads"], FCISROIHeads):
            raise UserError(
                "MODEL.META_ARCHITECTURE FCIS: expected MODEL.ROI_HEADS.NAME FCISROIHeads, got "
                f"{type(kwargs['roi_heads']).__name__}"
            )
        if not 0 < mask_threshold < 1:
            raise UserError(
                "MODEL.FCIS.MASK_THRESH: expected a probability above 0 and below 1, got "
                f"{mask_threshold}; FCIS's is 0.4"
            )
        super().__init__(**kwargs)
        self.mask_threshold, self.score_threshold = mask_threshold, score_threshold
        self.nms_threshold, self.vote_iou_threshold = nms_threshold, vote_iou_threshold
        self.mask_voting, self.detections_per_image = mask_voting, detections_per_image
        self.min_size = min_size

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read `MODEL.FCIS`, detectron2's keys of the same meaning, and what the base class does.

        Those are `MODEL.ROI_HEADS.SCORE_THRESH_TEST` and `NMS_THRESH_TEST`,
        `TEST.DETECTIONS_PER_IMAGE` and `MODEL.PROPOSAL_GENERATOR.MIN_SIZE`.
        """
        fcis, heads = cfg.MODEL.FCIS, cfg.MODEL.ROI_HEADS
        return {
            **super().from_config(cfg),
            "mask_threshold": fcis.MASK_THRESH,
            "score_threshold": heads.SCORE_THRESH_TEST,
            "nms_threshold": heads.NMS_THRESH_TEST,
            "vote_iou_threshold": fcis.VOTE_IOU_THRESH,
            "mask_voting": fcis.MASK_VOTING,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "min_size": cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
        }

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """See `GeneralizedRCNN.inference`.

        Returns:
            For each image {"instances": `Instances`} in pixels of the output: `pred_boxes`,
            `scores`, `pred_classes`, and `pred_masks` bool (D, height, width). Without
            `do_postprocess`, the RoIs, see `FCISROIHeads`.

        Raises:
            NotImplementedError: `detected_instances` are given. FCIS has no branch that could run
                on boxes of another model.
        """
        if detected_instances is not None:
            raise NotImplementedError("FCIS finds boxes and masks together; it takes no boxes")
        results = super().inference(batched_inputs, None, do_postprocess=False)
        if not do_postprocess:
            return results
        processed = []
        for rois, image in zip(results, batched_inputs, strict=True):
            height = image.get("height", rois.image_size[0])
            width = image.get("width", rois.image_size[1])
            processed.append({"instances": self.detect(rois, height, width)})
        return processed

    @torch.no_grad()
    def detect(self, rois: Instances, height: int, width: int) -> Instances:
        """Make detections of the RoIs of an image.

        Args:
            rois: see `FCISROIHeads`; in pixels of the network's input.
            height: of the output image.
            width: the same.
        """
        # detectron2 keeps what is larger than the threshold, FCIS also what equals it.
        rois = rois[rois.proposal_boxes.nonempty(threshold=max(self.min_size - 1e-5, 0.0))]
        boxes = Boxes(rois.proposal_boxes.tensor)
        boxes.scale(width / rois.image_size[1], height / rois.image_size[0])
        boxes.clip((height, width))
        probs, masks = rois.class_probs[:, :-1], rois.roi_masks
        selected = select_detections(
            boxes.tensor,
            probs,
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            limit=self.detections_per_image,
        )
        size, threshold = (height, width), self.mask_threshold
        arguments = (boxes.tensor, probs, masks, selected)
        if self.mask_voting:
            found = vote_masks(
                *arguments,
                image_size=size,
                mask_threshold=threshold,
                iou_threshold=self.vote_iou_threshold,
            )
        else:
            found = single_masks(*arguments, image_size=size, mask_threshold=threshold)
        return Instances(
            size,
            pred_boxes=Boxes(found.boxes),
            scores=found.scores,
            pred_classes=found.classes,
            pred_masks=found.masks,
        )
