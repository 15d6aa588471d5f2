"""The mask branches of the paper, FCN (Figure 4) and MLP (Table 2e).

Both heads take either loss of Table 2b, class-specific or class-agnostic masks, and an output
resolution. "sigmoid" is detectron2's own loss: one binary mask per class. With "softmax" the
classes and the background compete at each pixel: see `softmax_masks`.

The layers alone decide the side of a mask: the losses crop their targets to the side of the logits,
and detectron2's `paste_masks_in_image` resamples masks of any side.

Shapes: R masks of all images, K foreground classes, masks of M x M.
"""

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads import BaseMaskRCNNHead, FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances
from torch import nn

from ...errors import UserError, require_choice
from .softmax_masks import softmax_mask_inference, softmax_mask_loss

__all__ = ["MaskRCNNFCNHead", "MaskRCNNMLPHead"]

MASK_LOSSES = ("sigmoid", "softmax")  # the values of MODEL.ROI_MASK_HEAD.LOSS
_KEY = "MODEL.ROI_MASK_HEAD"
_STD = 0.001  # of detectron2's mask predictor


class _MaskHead(BaseMaskRCNNHead):
    """The part that both heads share: the choice of the loss and of the output resolution.

    To use another loss, override `mask_loss` in a subclass, and `mask_inference` if the logits have
    another meaning. The heads can be exported by tracing, but not by TorchScript's scripting.
    """

    def __init__(
        self, *, loss: str, pooled_side: int | None, softmax_argmax: bool = False, **kwargs: Any
    ) -> None:
        """Initialise detectron2's base class.

        Args:
            loss: "sigmoid" or "softmax".
            pooled_side: side of the features that the layers are built for; None for any side.
            softmax_argmax: see `softmax_mask_inference`.
            kwargs: arguments of the base class.
        """
        super().__init__(**kwargs)
        self.loss_name = loss
        self.softmax_argmax = softmax_argmax
        self.pooled_side = pooled_side

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read our keys of `MODEL.ROI_MASK_HEAD` and the base class's keys."""
        return {
            **super().from_config(cfg, input_shape),
            "loss": cfg.MODEL.ROI_MASK_HEAD.LOSS,
            "output_resolution": cfg.MODEL.ROI_MASK_HEAD.OUTPUT_RESOLUTION,
            "softmax_argmax": cfg.MODEL.ROI_MASK_HEAD.SOFTMAX_ARGMAX,
            "predictor_std": cfg.MASK_RCNN_EXT.MASK_HEAD.PREDICTOR_STD,
        }

    def forward(
        self, x: torch.Tensor, instances: list[Instances]
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """See `BaseMaskRCNNHead.forward`.

        Returns:
            In training {"loss_mask": scalar}, otherwise `instances` with the field `pred_masks`,
            (R_image, 1, M, M), probabilities.

        Raises:
            UserError: the side of the features is not the one that the head was built for.
        """
        known = self.pooled_side is not None and not torch.jit.is_tracing()
        if known and x.shape[-1] != self.pooled_side:
            raise UserError(
                f"{type(self).__name__} was built for pooled features of side {self.pooled_side}, "
                f"but gets side {x.shape[-1]}. detectron2's Res5ROIHeads builds mask heads for the "
                "side before res5 halves it: set MODEL.ROI_HEADS.NAME to MaskRCNNRes5ROIHeads"
            )
        logits = self.layers(x)
        if self.training:
            return {"loss_mask": self.mask_loss(logits, instances) * self.loss_weight}
        self.mask_inference(logits, instances)
        return instances

    def mask_loss(self, logits: torch.Tensor, instances: list[Instances]) -> torch.Tensor:
        """Return the loss of the logits, (R, C, M, M): a scalar, before `loss_weight`."""
        if self.loss_name == "softmax":
            return softmax_mask_loss(logits, instances, self.vis_period)
        loss: torch.Tensor = mask_rcnn_loss(logits, instances, self.vis_period)
        return loss

    def mask_inference(self, logits: torch.Tensor, instances: list[Instances]) -> None:
        """Add `pred_masks` to `instances`, in place, from the logits, (R, C, M, M)."""
        if self.loss_name == "softmax":
            softmax_mask_inference(logits, instances, self.softmax_argmax)
        else:
            mask_rcnn_inference(logits, instances)


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNFCNHead(_MaskHead, MaskRCNNConvUpsampleHead):
    """The fully convolutional branch: 3 x 3 convolutions, deconvolutions, 1 x 1 predictor.

    Paper: Figure 4, with one 2 x 2 deconvolution of stride 2, as in detectron2's
    `MaskRCNNConvUpsampleHead`. With the default arguments this class has the same state-dict keys
    as that class and gives the same tensors, bit for bit. Other output resolutions, which the paper
    does not have, take no deconvolution or several (`deconv2`, `deconv3`, ...; as wide as the
    first, each with a ReLU, without a norm).
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: list[int],
        loss: str = "sigmoid",
        output_resolution: int = 0,
        predictor_std: float = _STD,
        **kwargs: Any,
    ) -> None:
        """Build the layers.

        Args:
            input_shape: channels and side (height, width) of the pooled features. The side may be
                missing when `output_resolution` is 0.
            num_classes: number of foreground classes; 1 for class-agnostic masks.
            conv_dims: widths of the 3 x 3 convolutions, followed by the width of the
                deconvolutions.
            loss: "sigmoid" or "softmax"; softmax has one more channel, the background.
            output_resolution: side of the masks: 1, 2, 4, ... times the side of the pooled
                features; 0: twice that side.
            predictor_std: standard deviation of the predictor's first weights.
            kwargs: `softmax_argmax`, see `softmax_mask_inference`; `conv_norm`, `vis_period`,
                `loss_weight`, see `MaskRCNNConvUpsampleHead`.

        Raises:
            UserError: `loss` is unknown, `output_resolution` does not fit, or `predictor_std` is
                not above 0.
        """
        deconvs = _count_deconvs(input_shape, output_resolution)
        super().__init__(
            input_shape=input_shape,
            num_classes=_count_channels(num_classes, loss),
            conv_dims=conv_dims,
            loss=loss,
            # One deconvolution doubles any side. So detectron2's Res5ROIHeads, which give a smaller
            # side than they announce, can be used.
            pooled_side=input_shape.height if output_resolution else None,
            **kwargs,
        )
        # nn.Sequential runs its modules in the order in which they were added.
        predictor: Conv2d = self.predictor
        del self.predictor
        if deconvs == 0:
            predictor = self._remove_deconv(predictor, input_shape.channels)
        for index in range(2, deconvs + 1):
            deconv = ConvTranspose2d(conv_dims[-1], conv_dims[-1], kernel_size=2, stride=2)
            weight_init.c2_msra_fill(deconv)
            self.add_module(f"deconv{index}", deconv)
            self.add_module(f"deconv{index}_relu", nn.ReLU())
        _spread_predictor(predictor, predictor_std)
        self.add_module("predictor", predictor)

    def _remove_deconv(self, predictor: Conv2d, in_channels: int) -> Conv2d:
        """Remove the deconvolution; return a predictor that fits the last convolution."""
        del self.deconv, self.deconv_relu
        if self.conv_norm_relus:
            in_channels = self.conv_norm_relus[-1].out_channels
        if in_channels != predictor.in_channels:
            predictor = Conv2d(in_channels, predictor.out_channels, kernel_size=1)
            _init_predictor(predictor)
        return predictor


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNMLPHead(_MaskHead):
    """The fully connected branch: hidden layers with ReLU, then one output per class and pixel.

    Paper: Table 2e, "1024-1024-80*28^2" and "1024-1024-1024-80*28^2". The paper does not give the
    size of its input; `POOLER_RESOLUTION` 14 is the size of the FCN branch. The hidden layers are
    detectron2's `FastRCNNConvFCHead` without convolutions (keys `hidden.fc1`, ...). The predictor
    is initialised from N(0, 0.001), as detectron2's mask predictor, by default.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        fc_dims: list[int],
        loss: str = "sigmoid",
        output_resolution: int = 0,
        predictor_std: float = _STD,
        **kwargs: Any,
    ) -> None:
        """Build the layers.

        Args:
            input_shape: channels, height and width of the pooled features.
            num_classes: number of foreground classes; 1 for class-agnostic masks.
            fc_dims: widths of the hidden layers, at least one.
            loss: "sigmoid" or "softmax"; softmax has one more channel, the background.
            output_resolution: side of the masks; 0: twice the side of the pooled features.
            predictor_std: standard deviation of the predictor's first weights.
            kwargs: `softmax_argmax`, see `softmax_mask_inference`; `vis_period`, `loss_weight`, see
                `BaseMaskRCNNHead`.

        Raises:
            UserError: `loss` is unknown, there is no hidden layer, `output_resolution` is negative,
                or `predictor_std` is not above 0.
        """
        if not fc_dims:
            raise UserError(f"{_KEY}.NUM_FC: expected one hidden layer or more, got 0")
        side = _get_pooled_side(input_shape)
        if output_resolution < 0:
            raise UserError(
                f"{_KEY}.OUTPUT_RESOLUTION: expected the side of the masks in pixels, or 0 for "
                f"twice the side of the pooled features ({2 * side}), got {output_resolution}"
            )
        channels = _count_channels(num_classes, loss)
        super().__init__(loss=loss, pooled_side=side, **kwargs)
        output_side = output_resolution or 2 * side
        self.output_shape = (channels, output_side, output_side)
        self.hidden = FastRCNNConvFCHead(input_shape, conv_dims=[], fc_dims=fc_dims)
        self.predictor = nn.Linear(fc_dims[-1], channels * output_side**2)
        _init_predictor(self.predictor)
        _spread_predictor(self.predictor, predictor_std)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read `MODEL.ROI_MASK_HEAD` and `MODEL.ROI_HEADS.NUM_CLASSES`."""
        mask_head = cfg.MODEL.ROI_MASK_HEAD
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "num_classes": 1 if mask_head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "fc_dims": [mask_head.FC_DIM] * mask_head.NUM_FC,
        }

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """Map pooled features, (R, C_in, side, side), to mask logits, (R, C, M, M)."""
        return self.predictor(self.hidden(x)).unflatten(1, self.output_shape)


def _count_channels(num_classes: int, loss: str) -> int:
    """Return the number of logits per pixel; softmax has one more, for the background."""
    require_choice(f"{_KEY}.LOSS", loss, MASK_LOSSES)
    return num_classes + (loss == "softmax")


def _init_predictor(predictor: nn.Linear | nn.Conv2d) -> None:
    """Initialise a layer as detectron2 initialises its mask predictor."""
    nn.init.normal_(predictor.weight, std=_STD)
    if predictor.bias is not None:
        nn.init.zeros_(predictor.bias)


def _spread_predictor(predictor: nn.Linear | nn.Conv2d, std: float) -> None:
    """Scale the weights of a new predictor to the standard deviation `std`, in place.

    Scaling draws no random numbers, so all other layers start as they do with another `std`.
    """
    if not 0 < std < float("inf"):
        raise UserError(
            "MASK_RCNN_EXT.MASK_HEAD.PREDICTOR_STD: expected a standard deviation above 0, such as "
            f"detectron2's {_STD}, got {std}"
        )
    if std != _STD:
        with torch.no_grad():
            predictor.weight.mul_(std / _STD)


def _get_pooled_side(input_shape: ShapeSpec) -> int:
    if isinstance(input_shape, dict):  # of the levels: detectron2 pools only if a layer is named
        raise UserError(
            f"{_KEY}.POOLER_TYPE: this mask head needs a RoI layer, such as ROIAlignV2, got ''"
        )
    if input_shape.height is None or input_shape.height != input_shape.width:
        raise UserError(
            "expected a mask head's input_shape with equal height and width, the side of the "
            f"pooled features, got {input_shape}"
        )
    return input_shape.height


def _count_deconvs(input_shape: ShapeSpec, output_resolution: int) -> int:
    """Return how many deconvolutions, each doubling the side, lead to the output resolution."""
    if output_resolution == 0:
        return 1
    side = _get_pooled_side(input_shape)
    ratio, rest = divmod(output_resolution, side)
    if rest or ratio < 1 or ratio & (ratio - 1):
        fitting = ", ".join(str(side * 2**n) for n in range(4))
        raise UserError(
            f"{_KEY}.OUTPUT_RESOLUTION: expected the side of the pooled features, {side}, times a "
            f"power of two ({fitting}, ...), or 0 for {2 * side}; got {output_resolution}. Change "
            "it, or the POOLER_RESOLUTION"
        )
    return ratio.bit_length() - 1
