"""The meta-architecture of R-CNN: the backbone runs on a crop of every proposal."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, GeneralizedRCNN, build_backbone
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from ...errors import UserError, require_range
from ...layers import warp_crops
from ..registration import register_as
from .roi_heads import RCNNROIHeads

__all__ = ["RCNN"]


@register_as(META_ARCH_REGISTRY, "MaskRCNNExtRCNN")
class RCNN(GeneralizedRCNN):
    """R-CNN: warps stored proposals to crops and runs a classifier on every crop.

    Paper: "Rich feature hierarchies...", arXiv:1311.2524, section 2 and appendix A. Each image
    comes with its `proposals`, in pixels of the network's input, as detectron2's mapper gives them
    for `MODEL.LOAD_PROPOSALS`. The cost is linear in their number.

    Attributes:
        crop_size: side of the crops, in pixels.
        crop_context: context around the proposal on each side of its crop, in pixels of the crop.
        crops_per_batch: number of crops in one forward pass of the backbone in testing.
    """

    @configurable
    def __init__(
        self,
        *,
        crop_size: int = 227,
        crop_context: int = 16,
        crops_per_batch: int = 256,
        **kwargs: Any,
    ) -> None:
        """Build the model.

        Args:
            crop_size: see the class.
            crop_context: see the class.
            crops_per_batch: see the class.
            kwargs: see `GeneralizedRCNN`; `backbone` is the classifier without its last layers,
                `proposal_generator` is None, and `roi_heads` is an `RCNNROIHeads`.

        Raises:
            UserError: the heads are not `RCNNROIHeads`, or a number is out of range.
        """
        if not isinstance(kwargs["roi_heads"], RCNNROIHeads):
            raise UserError(
                "MODEL.META_ARCHITECTURE MaskRCNNExtRCNN: expected MODEL.ROI_HEADS.NAME "
                f"RCNNROIHeads, got {type(kwargs['roi_heads']).__name__}"
            )
        require_range("MODEL.RCNN.CROPS_PER_BATCH", crops_per_batch, 1)
        super().__init__(**kwargs)
        self.crop_size, self.crop_context = crop_size, crop_context
        self.crops_per_batch = crops_per_batch

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Read `MODEL.RCNN` and the keys of `GeneralizedRCNN`.

        The backbone runs once on a black crop, and the heads are built for the maps that result.
        The sizes of the maps do not follow from the strides where layers have no padding.

        Raises:
            UserError: the crops are too small for the backbone or for their context.
        """
        rcnn = cfg.MODEL.RCNN
        if not 0 <= 2 * rcnn.CROP_CONTEXT < rcnn.CROP_SIZE:
            raise UserError(
                "MODEL.RCNN.CROP_CONTEXT: expected 0 or more, and less than half of CROP_SIZE "
                f"({rcnn.CROP_SIZE}), got {rcnn.CROP_CONTEXT}"
            )
        backbone = build_backbone(cfg)
        shapes = _measure_maps(backbone, len(cfg.MODEL.PIXEL_MEAN), rcnn.CROP_SIZE)
        return {
            "backbone": backbone,
            "proposal_generator": None,
            "roi_heads": build_roi_heads(cfg, shapes),
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "crop_size": rcnn.CROP_SIZE,
            "crop_context": rcnn.CROP_CONTEXT,
            "crops_per_batch": rcnn.CROPS_PER_BATCH,
        }

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """See `GeneralizedRCNN.forward`; in training it returns the losses of the heads."""
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = [image["instances"].to(self.device) for image in batched_inputs]
        proposals = self.roi_heads.label_and_sample_proposals(
            self._get_proposals(batched_inputs), targets
        )
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize_training(batched_inputs, proposals)
        maps = self.map_crops(images, [each.proposal_boxes.tensor for each in proposals])
        _, losses = self.roi_heads(images, maps, proposals, targets)
        return losses

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """See `GeneralizedRCNN.inference`.

        Raises:
            NotImplementedError: `detected_instances` are given; R-CNN has no branch for them.
        """
        if detected_instances is not None:
            raise NotImplementedError(
                "R-CNN has no branch that could run on boxes of another model"
            )
        images = self.preprocess_image(batched_inputs)
        proposals = self._get_proposals(batched_inputs)
        predictions = [
            self.roi_heads.predict(self.map_crops(images[index], [chunk]))
            for index, each in enumerate(proposals)
            # an image without proposals has one empty chunk
            for chunk in each.proposal_boxes.tensor.split(self.crops_per_batch)
        ]
        scores, deltas = (torch.cat(parts) for parts in zip(*predictions, strict=True))
        results, _ = self.roi_heads.box_predictor.inference((scores, deltas), proposals)
        if not do_postprocess:
            found: list[Instances] = results
            return found
        processed: list[dict[str, Instances]] = self._postprocess(
            results, batched_inputs, images.image_sizes
        )
        return processed

    def map_crops(self, images: ImageList | Tensor, boxes: Sequence[Tensor]) -> dict[str, Tensor]:
        """Warp boxes of the images to crops and run the backbone on them.

        Args:
            images: N normalised images, or one normalised image as a tensor (C, H, W).
            boxes: the boxes of each image, (R_i, 4), XYXY_ABS.

        Returns:
            name -> (R, C, h, w), the backbone's maps of the R boxes of all images, in order.
        """
        singles = [images] if isinstance(images, Tensor) else images
        crops = [
            warp_crops(image, each, size=self.crop_size, context=self.crop_context)
            for image, each in zip(singles, boxes, strict=True)
        ]
        maps: dict[str, Tensor] = self.backbone(torch.cat(crops))
        return maps

    def _get_proposals(self, batched_inputs: Sequence[dict[str, Any]]) -> list[Instances]:
        """Return the proposals of the images, on the model's device."""
        if any("proposals" not in image for image in batched_inputs):
            raise UserError(
                "R-CNN reads stored proposals: expected 'proposals' in the record of every image, "
                "got an image without. mask-rcnn-ext proposals writes a file of proposals for "
                "a data set; name it in DATASETS.PROPOSAL_FILES_TEST"
            )
        return [image["proposals"].to(self.device) for image in batched_inputs]


@torch.no_grad()
def _measure_maps(backbone: Backbone, channels: int, size: int) -> dict[str, ShapeSpec]:
    """Return the shapes of the maps that a backbone computes from one crop."""
    training = backbone.training
    backbone.eval()  # batch statistics do not change
    device = next(backbone.parameters()).device
    try:
        maps = backbone(torch.zeros(1, channels, size, size, device=device))
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:  # a pooling window larger than its map
        raise UserError(
            f"MODEL.RCNN.CROP_SIZE: crops of {size} pixels are too small for "
            f"{type(backbone).__name__} ({str(error).splitlines()[0]})"
        ) from error
    finally:
        backbone.train(training)
    known = backbone.output_shape()
    return {
        name: ShapeSpec(*each.shape[1:], stride=known[name].stride) for name, each in maps.items()
    }
