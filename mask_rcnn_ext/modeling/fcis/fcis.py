"""FCIS, fully convolutional instance-aware segmentation (arXiv:1611.07709), in detectron2."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ...errors import UserError
from ..registration import register_as
from .roi_heads import FCISROIHeads
from .voting import paste_masks, select_detections, vote_masks

__all__ = ["FCIS"]


@register_as(META_ARCH_REGISTRY, "MaskRCNNExtFCIS")
class FCIS(GeneralizedRCNN):
    """`GeneralizedRCNN` with `FCISROIHeads`; its detections come from mask voting.

    It trains as `GeneralizedRCNN` does. In testing the RoIs are scaled to the output image, RoIs
    with a side under `min_size` pixels of the network's input are dropped, and the other RoIs vote
    in pixels of the output, see `vote_masks`. The boxes of the result are the boxes of the masks;
    no box is regressed after the vote.

    The model can be exported by tracing, as detectron2's `TracingAdapter` does, with the vote or,
    by `do_postprocess=False`, without it. Traced on one image it runs on any.

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
        """Build the model; the defaults are the values of FCIS's COCO models.

        Args:
            mask_threshold: threshold of the votes and of the result.
            score_threshold: detections with a lower score are dropped.
            nms_threshold: see `select_detections`.
            vote_iou_threshold: see `vote_masks`.
            mask_voting: False gives each detection the mask and the box of its RoI.
            detections_per_image: the largest number of detections, over all classes.
            min_size: least width and height of a RoI, in pixels of the network's input.
            kwargs: see `GeneralizedRCNN`.

        Raises:
            UserError: the heads are not `FCISROIHeads`, or the mask threshold is not between 0 and
                1.
        """
        if not isinstance(kwargs["roi_heads"], FCISROIHeads):
            raise UserError(
                "MODEL.META_ARCHITECTURE MaskRCNNExtFCIS: expected MODEL.ROI_HEADS.NAME "
                f"FCISROIHeads, got {type(kwargs['roi_heads']).__name__}"
            )
        if not 0 < mask_threshold < 1:
            raise UserError(
                "MODEL.FCIS.MASK_THRESH: expected a probability above 0 and below 1, got "
                f"{mask_threshold}; FCIS uses 0.4"
            )
        super().__init__(**kwargs)
        self.mask_threshold, self.score_threshold = mask_threshold, score_threshold
        self.nms_threshold, self.vote_iou_threshold = nms_threshold, vote_iou_threshold
        self.mask_voting, self.detections_per_image = mask_voting, detections_per_image
        self.min_size = min_size

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read `MODEL.FCIS`, four keys of detectron2, and the keys of the base class.

        The four keys are `MODEL.ROI_HEADS.SCORE_THRESH_TEST` and `NMS_THRESH_TEST`,
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
            `do_postprocess`, the RoIs of each image, see `FCISROIHeads`.

        Raises:
            NotImplementedError: `detected_instances` are given. FCIS finds boxes and masks
                together; it has no branch that predicts masks for given boxes.
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
        """Turn the RoIs of an image into detections.

        Args:
            rois: the result of `FCISROIHeads`, in pixels of the network's input.
            height: height of the output image.
            width: width of the output image.
        """
        return self._detect(rois, height, width, packed=False)

    @torch.no_grad()
    def detect_packed(self, rois: Instances, height: int, width: int) -> Instances:
        """See `detect`; `pred_masks` are `PackedMasks`, which take little memory."""
        return self._detect(rois, height, width, packed=True)

    def _detect(self, rois: Instances, height: int, width: int, *, packed: bool) -> Instances:
        size = _make_size(height, width)
        arguments = self.select(rois, height, width)
        threshold = self.mask_threshold
        if not self.mask_voting:
            return paste_masks(*arguments, image_size=size, mask_threshold=threshold, packed=packed)
        return vote_masks(
            *arguments,
            image_size=size,
            mask_threshold=threshold,
            iou_threshold=self.vote_iou_threshold,
            packed=packed,
        )

    def select(
        self, rois: Instances, height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return the first four arguments of `vote_masks`, in pixels of the output image.

        For arguments see `detect`.
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
