"""FCIS, fully convolutional instance-aware segmentation (arXiv:1611.07709), in detectron2."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Instances

from ...errors import UserError
from ..registration import register_as
from .detection import FCISDetection, read_detection_keys
from .roi_heads import FCISROIHeads

__all__ = ["FCIS"]


@register_as(META_ARCH_REGISTRY, "MaskRCNNExtFCIS")
class FCIS(FCISDetection, GeneralizedRCNN):
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
        """Read the keys of `read_detection_keys` and of the base class."""
        return {**super().from_config(cfg), **read_detection_keys(cfg)}

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
