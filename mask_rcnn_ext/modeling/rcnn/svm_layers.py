"""The layers of R-CNN's own second stage: linear SVMs and ridge regression of the boxes."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import UserError

__all__ = ["RCNNSVMOutputLayers"]


class RCNNSVMOutputLayers(FastRCNNOutputLayers):
    """One linear SVM per class on the hidden features, one linear box regressor per class.

    Paper: arXiv:1311.2524, sections 2.3 and appendix C. The weights are fitted, not trained by
    gradients: `tools/train_rcnn_svm.py`. Detections are made as by `FastRCNNOutputLayers`: moved
    boxes, a threshold, NMS for each class. The score of a detection is the sigmoid of its margin,
    which orders detections as the margins do and lies between 0 and 1, as detectron2 expects.

    Deviation: the best detections of an image are kept after NMS, of all classes; R-CNN's released
    code keeps those of each class before it, some 40 per image on average.

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
            input_shape: of the hidden features.
            box_input_shape: of what the box regression reads.
            kwargs: see `FastRCNNOutputLayers`.

        Raises:
            UserError: class-agnostic boxes, or a loss that has no meaning here, are asked for.
        """
        super().__init__(input_shape, **kwargs)
        if kwargs.get("cls_agnostic_bbox_reg") or kwargs.get("use_sigmoid_ce"):
            raise UserError(
                "MODEL.RCNN.SCORER svm: expected class-specific boxes and no loss of its own, got "
                "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG or USE_SIGMOID_CE True"
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
        """Raise: there is no loss to train these layers by.

        Raises:
            UserError: always.
        """
        raise UserError(
            "MODEL.RCNN.SCORER svm: the SVMs and the box regression are fitted to a trained "
            "backbone, not trained by gradients: use tools/train_rcnn_svm.py. To train the "
            "backbone, set MODEL.RCNN.SCORER softmax"
        )

    def predict_probs(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[Tensor, ...]:
        """Return (R_i, K + 1) for each image: sigmoids of the margins, and 0 for the background."""
        scores = F.pad(torch.sigmoid(predictions[0].float()), (0, 1))
        return scores.split([len(each) for each in proposals], dim=0)
