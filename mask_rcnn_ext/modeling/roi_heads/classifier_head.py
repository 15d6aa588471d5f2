"""The last hidden layers of an image classifier as a box head (R-CNN, Fast and Faster R-CNN)."""

from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_BOX_HEAD_REGISTRY
from torch import nn

from ...errors import UserError
from ..registration import register_as

__all__ = ["ClassifierBoxHead"]


@register_as(ROI_BOX_HEAD_REGISTRY, "MaskRCNNExtClassifierBoxHead")
class ClassifierBoxHead(nn.Sequential):
    """VGG-16's and AlexNet's fc6 and fc7 with dropout, or the global average pooling of a ResNet.

    With fully connected layers this is detectron2's `FastRCNNConvFCHead` without convolutions and
    with dropout after each ReLU; it has the same names of layers (fc6 is `fc1`) and the same
    initialisation. Without them, it averages over all cells. It maps (R, C, h, w) to
    (R, `output_shape.channels`); R may be 0.

    Attributes:
        output_shape: `ShapeSpec` with the number of output channels.
    """

    @configurable
    def __init__(self, *, input_shape: ShapeSpec, fc_dims: list[int], dropout: float = 0.0) -> None:
        """Build the head.

        Args:
            input_shape: channels of the features and, for fully connected layers, height and width.
            fc_dims: width of each fully connected layer; empty for average pooling.
            dropout: share of the units that training drops; 0 adds no layer for it.

        Raises:
            UserError: `dropout` is not at least 0 and below 1.
        """
        super().__init__()
        if not 0 <= dropout < 1:
            raise UserError(
                "MODEL.ROI_BOX_HEAD.DROPOUT: expected a share of at least 0 and below 1, got "
                f"{dropout}"
            )
        width = input_shape.channels
        if fc_dims:
            width *= (input_shape.height or 1) * (input_shape.width or 1)
        else:
            self.add_module("pool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        for number, fc_dim in enumerate(fc_dims, start=1):
            self.add_module(f"fc{number}", nn.Linear(width, fc_dim))
            self.add_module(f"fc_relu{number}", nn.ReLU())
            if dropout:
                self.add_module(f"dropout{number}", nn.Dropout(dropout))
            width = fc_dim
        for layer in self:  # last, as in detectron2, to draw the same random numbers
            if isinstance(layer, nn.Linear):
                weight_init.c2_xavier_fill(layer)
        self.output_shape = ShapeSpec(channels=width)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read `MODEL.ROI_BOX_HEAD.{NUM_FC,FC_DIM,DROPOUT}`."""
        head = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "fc_dims": [head.FC_DIM] * head.NUM_FC,
            "dropout": head.DROPOUT,
        }
