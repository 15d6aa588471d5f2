"""R-CNN's heads: class scores and class-specific boxes of each crop (arXiv:1311.2524)."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, ROIHeads, build_box_head
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UserError, require_choice

__all__ = ["SVM_TRAINING", "RCNNROIHeads", "RCNNSVMOutputLayers"]

SCORERS = ("softmax", "svm")  # the values of MODEL.RCNN.SCORER
SVM_TRAINING = (
    "MODEL.RCNN.SCORER svm: the SVMs and the box regression are fitted to a trained backbone, not "
    "trained by gradients: use tools/train_rcnn_svm.py. To train the backbone, set "
    "MODEL.RCNN.SCORER softmax"
)


class RCNNSVMOutputLayers(FastRCNNOutputLayers):
    """One linear SVM and one linear box regressor per class, as in R-CNN's own second stage.

    Paper: arXiv:1311.2524, section 2.3 and appendix C. The weights are fitted by
    `tools/train_rcnn_svm.py`, not trained by gradients. Detections are made as in
    `FastRCNNOutputLayers`: boxes are moved, low scores dropped, and NMS runs for each class. The
    score of a detection is the sigmoid of its margin. It has the order of the margins and lies
    between 0 and 1, as detectron2 expects.

    Deviation: the best detections of all classes of an image are kept after NMS. R-CNN's released
    code keeps the best of each class before NMS, about 40 per image on average.

    Attributes:
        svm: (R, D) -> (R, K), the margins.
        ridge: (R, E) -> (R, 4K), the deltas of each class, in the units of `box2box_transform`.
    """

    @configurable
    def __init__(
        self, input_shape: ShapeSpec, *, box_input_shape: ShapeSpec, **kwargs: Any
    ) -> None:
        """Build the layers.

        Args:
            input_shape: shape of the hidden features, which the SVMs read.
            box_input_shape: shape of the features that the box regression reads.
            kwargs: see `FastRCNNOutputLayers`.

        Raises:
            UserError: class-agnostic boxes or the sigmoid loss is set, which have no meaning here.
        """
        super().__init__(input_shape, **kwargs)
        if kwargs.get("cls_agnostic_bbox_reg") or kwargs.get("use_sigmoid_ce"):
            raise UserError(
                "MODEL.RCNN.SCORER svm: expected class-specific boxes and no sigmoid loss. Set "
                "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG and USE_SIGMOID_CE False"
            )
        width = self.cls_score.in_features
        del self.cls_score, self.bbox_pred
        self.svm = nn.Linear(width, self.num_classes)
        self.ridge = nn.Linear(box_input_shape.channels, 4 * self.num_classes)
        for layer in (self.svm, self.ridge):
            nn.init.normal_(layer.weight, std=0.001)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, input_shape: ShapeSpec, *, box_input_shape: ShapeSpec
    ) -> dict[str, Any]:
        """See `FastRCNNOutputLayers.from_config`."""
        return {**super().from_config(cfg, input_shape), "box_input_shape": box_input_shape}

    def forward(self, hidden: Tensor, box_features: Tensor) -> tuple[Tensor, Tensor]:
        """Return margins (R, K) and deltas (R, 4K).

        Args:
            hidden: (R, D).
            box_features: (R, E).
        """
        return self.svm(hidden), self.ridge(box_features)

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Raise an error: no loss trains these layers.

        Raises:
            UserError: always.
        """
        raise UserError(SVM_TRAINING)

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Return (R_i, K + 1) for each image: sigmoids of the margins, and 0 for the background."""
        scores = F.pad(torch.sigmoid(predictions[0].float()), (0, 1))
        return scores.split([len(each) for each in proposals], dim=0)


@ROI_HEADS_REGISTRY.register()
class RCNNROIHeads(ROIHeads):
    """The heads of the meta-architecture `RCNN`, which gives them a feature map of each crop.

    Sampling, losses and the step from scores and boxes to detections are detectron2's Fast R-CNN.
    With the scorer "softmax" the classes and the boxes are learned together with the backbone. With
    "svm" the output layers are `RCNNSVMOutputLayers`, which are not trained by gradients.

    Attributes:
        in_feature: name of the only feature map that is read.
        box_head: the classifier's last hidden layers; reads the map.
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
            boxes_from_map: whether the ridge regression reads the flattened map (pool5) or, if
                False, the output of the box head. Only the scorer "svm" uses it.
            kwargs: see `ROIHeads`.
        """
        super().__init__(**kwargs)
        self.in_feature, self.boxes_from_map = in_feature, boxes_from_map
        self.box_head, self.box_predictor = box_head, box_predictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read `MODEL.RCNN.SCORER`, `MODEL.ROI_BOX_HEAD` and the keys of `ROIHeads`.

        Args:
            cfg: the config; `MODEL.ROI_HEADS.IN_FEATURES` names one map.
            input_shape: shapes of the backbone's maps of one crop, with their heights and widths.

        Raises:
            UserError: the map or the scorer is unknown, or no box head is set.
        """
        names, scorer = cfg.MODEL.ROI_HEADS.IN_FEATURES, cfg.MODEL.RCNN.SCORER
        if len(names) != 1 or names[0] not in input_shape:
            raise UserError(
                f"MODEL.ROI_HEADS.IN_FEATURES: expected one of {', '.join(input_shape)}, which the "
                f"backbone gives, got {names}"
            )
        require_choice("MODEL.RCNN.SCORER", scorer, SCORERS)
        if not cfg.MODEL.ROI_BOX_HEAD.NAME:
            raise UserError(
                "MODEL.ROI_BOX_HEAD.NAME: R-CNN needs a box head, the last hidden layers of the "
                "classifier, got none. Set MODEL.ROI_BOX_HEAD.NAME MaskRCNNExtClassifierBoxHead"
            )
        shape = input_shape[names[0]]
        box_head = build_box_head(cfg, shape)
        # Without hidden layers the box head is ResNet's pooling. Its map is large (100352 numbers
        # in ResNet-50), so the ridge regression then reads the pooled features.
        boxes_from_map = cfg.MODEL.ROI_BOX_HEAD.NUM_FC > 0
        if scorer == "svm":
            hidden = box_head.output_shape
            width = hidden.channels * (hidden.height or 1) * (hidden.width or 1)
            if boxes_from_map:
                width = shape.channels * shape.height * shape.width
            predictor = RCNNSVMOutputLayers(cfg, hidden, box_input_shape=ShapeSpec(channels=width))
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
        """See `ROIHeads.forward`; only the features differ.

        Args:
            images: not read.
            features: name -> (R, C, h, w), the maps of the crops of all `proposals`, in order.
            proposals: the proposals of each image; in training, the sampled and labelled proposals.
            targets: not read, since the proposals are labelled.

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
            Scores (R, K + 1) with the background last, or the margins (R, K) of the SVMs; and the
            deltas.
        """
        if isinstance(self.box_predictor, RCNNSVMOutputLayers):
            found: tuple[Tensor, Tensor] = self.box_predictor(*self.describe(features))
        else:
            found = self.box_predictor(self.box_head(features[self.in_feature]))
        return found

    def describe(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the features of each crop that R-CNN's SVMs and its ridge regression read.

        Args:
            features: name -> (R, C, h, w).

        Returns:
            (R, D), the output of the box head (fc7), for the SVMs; and (R, E), for the regression:
            the flattened map (pool5) or, without `boxes_from_map`, the output of the box head.
        """
        hidden = torch.flatten(self.box_head(features[self.in_feature]), start_dim=1)
        if not self.boxes_from_map:
            return hidden, hidden
        return hidden, torch.flatten(features[self.in_feature], start_dim=1)
