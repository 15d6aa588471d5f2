"""R-CNN's heads: class scores and class-specific boxes of each crop (arXiv:1311.2524)."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, ROIHeads, build_box_head
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn

from ...errors import UserError, nearest
from .svm_layers import RCNNSVMOutputLayers

__all__ = ["SCORERS", "RCNNROIHeads"]

# What MODEL.RCNN.SCORER may name -> the layers that score a crop.
SCORERS = {"softmax": FastRCNNOutputLayers, "svm": RCNNSVMOutputLayers}


@ROI_HEADS_REGISTRY.register()
class RCNNROIHeads(ROIHeads):
    """The heads of the meta-architecture `RCNN`: they get a map of each proposal's crop.

    Sampling, losses, and how detections are made of scores and boxes are detectron2's, those of
    Fast R-CNN: with the scorer "softmax" the classes and the boxes are learned together with the
    backbone. With "svm" the layers are R-CNN's own, see `RCNNSVMOutputLayers`, and are not trained
    by gradients.

    Attributes:
        in_feature: name of the one map that is read.
        box_head: the classifier's last hidden layers, of the map.
        box_predictor: `FastRCNNOutputLayers`, or `RCNNSVMOutputLayers`.
    """

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        box_head: nn.Module,
        box_predictor: FastRCNNOutputLayers,
        boxes_from_map: bool = True,
        **kwargs: Any,
    ) -> None:
        """Build the heads.

        Args:
            in_feature: see the class.
            box_head: see the class.
            box_predictor: see the class.
            boxes_from_map: the ridge regression reads the map, flattened (pool5); False: what the
                box head makes of it. Matters with the SVMs only.
            kwargs: see `ROIHeads`.
        """
        super().__init__(**kwargs)
        self.in_feature, self.boxes_from_map = in_feature, boxes_from_map
        self.box_head, self.box_predictor = box_head, box_predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read `MODEL.RCNN.SCORER`, `MODEL.ROI_BOX_HEAD` and what `ROIHeads` does.

        Args:
            cfg: the config; `MODEL.ROI_HEADS.IN_FEATURES` names one map.
            input_shape: of the backbone's maps of one crop, with their heights and widths.

        Raises:
            UserError: there is no such map or scorer, or box head.
        """
        names, scorer = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.RCNN.SCORER
        if len(names) != 1 or names[0] not in input_shape:
            raise UserError(
                f"MODEL.ROI_HEADS.IN_FEATURES: expected one of {', '.join(input_shape)}, which the "
                f"backbone gives, got {names}"
            )
        if scorer not in SCORERS:
            raise UserError(
                f"MODEL.RCNN.SCORER: expected one of {', '.join(SCORERS)}, got {scorer!r}"
                f"{nearest(scorer, SCORERS)}"
            )
        if not cfg.MODEL.ROI_BOX_HEAD.NAME:
            raise UserError(
                "MODEL.ROI_BOX_HEAD.NAME: R-CNN needs a box head, the last hidden layers of the "
                "classifier, got none. Set MODEL.ROI_BOX_HEAD.NAME ClassifierBoxHead"
            )
        shape = input_shape[names[0]]
        box_head = build_box_head(cfg, shape)
        boxes_from_map = cfg.MODEL.ROI_BOX_HEAD.NUM_FC > 0  # else it is ResNet's: 100352 numbers
        if scorer == "svm":
            map_size = shape.channels * shape.height * shape.width
            width = map_size if boxes_from_map else _width(box_head.output_shape)
            predictor = RCNNSVMOutputLayers(
                cfg, box_head.output_shape, box_input_shape=ShapeSpec(channels=width)
            )
        else:
            predictor = FastRCNNOutputLayers(cfg, box_head.output_shape)
        return {
            **super().from_config(cfg),
            "in_feature": names[0],
            "box_head": box_head,
            "box_predictor": predictor,
            "boxes_from_map": boxes_from_map,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See `ROIHeads.forward`, but for the features.

        Args:
            images: not read.
            features: name -> (R, C, h, w), the maps of the crops of all `proposals`, in order.
            proposals: of each image; in training, those that were sampled, with their classes and
                boxes.
            targets: not read; the proposals are labelled.

        Returns:
            In training the proposals and the losses `loss_cls` and `loss_box_reg`; in testing the
            detections of each image and {}.

        Raises:
            UserError: in training with the scorer "svm".
        """
        predictions = self.predict(features)
        if self.training:
            return proposals, self.box_predictor.losses(predictions, proposals)
        return self.box_predictor.inference(predictions, proposals)[0], {}

    def predict(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the scores of the crops, and their class-specific box deltas (R, 4K).

        Args:
            features: name -> (R, C, h, w); R may be 0.

        Returns:
            Scores (R, K + 1) with the background last, or (R, K) of the SVMs.
        """
        if isinstance(self.box_predictor, RCNNSVMOutputLayers):
            found: tuple[Tensor, Tensor] = self.box_predictor(*self.describe(features))
        else:
            found = self.box_predictor(self.box_head(features[self.in_feature]))
        return found

    def describe(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what R-CNN's SVMs and its ridge regression read of each crop.

        Args:
            features: name -> (R, C, h, w).

        Returns:
            (R, D), the box head's output (fc7), and (R, E), the map, flattened (pool5), or, if not
            `boxes_from_map`, the former again.
        """
        hidden = torch.flatten(self.box_head(features[self.in_feature]), start_dim=1)
        if not self.boxes_from_map:
            return hidden, hidden
        return hidden, torch.flatten(features[self.in_feature], start_dim=1)


def _width(shape: ShapeSpec) -> int:
    return int(shape.channels * (shape.height or 1) * (shape.width or 1))
