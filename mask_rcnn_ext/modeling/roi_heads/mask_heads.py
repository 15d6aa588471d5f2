"""The mask branches of the paper: FCN (Figure 4) and MLP (Table 2e).

Both take either loss of Table 2b, class-specific or class-agnostic masks, and an output resolution.
A mask's side is decided once, by the layers here: the loss crops its targets to the side of the
logits (`mask_losses.py`; detectron2's `mask_rcnn_loss`), and pasting resamples the masks it gets
(detectron2's `paste_masks_in_image`), so neither can disagree with the head.
"""

from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads import BaseMaskRCNNHead, FastRCNNConvFCHead
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from torch import nn

from ...errors import UserError
from .mask_losses import get_mask_loss

__all__ = ["MaskRCNNFCNHead", "MaskRCNNMLPHead"]

_KEY = "MODEL.ROI_MASK_HEAD"


class _MaskHead(BaseMaskRCNNHead):
    """What both heads share: the choice of the loss and of the output resolution.

    A subclass with a loss of its own overrides `mask_loss`, and `mask_inference` when its logits
    are to be read in another way. Export it by tracing; TorchScript's scripting is not supported.
    """

    def __init__(self, *, loss: str, pooled_side: int | None, **kwargs: Any) -> None:
        """Build detectron2's part.

        Args:
            loss: "sigmoid" or "softmax".
            pooled_side: side of the features that the layers were built for; None if any side will
                do.
            kwargs: for the next class.
        """
        super().__init__(**kwargs)
        self.loss_name = loss
        self.pooled_side = pooled_side

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read `MODEL.ROI_MASK_HEAD.{LOSS,OUTPUT_RESOLUTION}` and what detectron2's classes do."""
        return {
            **super().from_config(cfg, input_shape),
            "loss": cfg.MODEL.ROI_MASK_HEAD.LOSS,
            "output_resolution": cfg.MODEL.ROI_MASK_HEAD.OUTPUT_RESOLUTION,
        }

    def forward(
        self, x: torch.Tensor, instances: list[Instances]
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """See `BaseMaskRCNNHead.forward`.

        Returns:
            In training {"loss_mask": scalar}, otherwise `instances` with the field `pred_masks`,
            (R_image, 1, M, M), probabilities.

        Raises:
            UserError: the features have another side than the one that the ROI heads announced.
        """
        known = self.pooled_side is not None and not torch.jit.is_tracing()
        if known and x.shape[-1] != self.pooled_side:
            raise UserError(
                f"{type(self).__name__} was built for pooled features of side {self.pooled_side}, "
                f"but gets side {x.shape[-1]}: detectron2's Res5ROIHeads, for one, announces the "
                "side before res5 halves it. Set MODEL.ROI_HEADS.NAME to MaskRCNNRes5ROIHeads"
            )
        logits = self.layers(x)
        if self.training:
            return {"loss_mask": self.mask_loss(logits, instances) * self.loss_weight}
        self.mask_inference(logits, instances)
        return instances

    def mask_loss(self, logits: torch.Tensor, instances: list[Instances]) -> torch.Tensor:
        """Return the loss, a scalar without `loss_weight`, of the logits, (R, C, M, M)."""
        return get_mask_loss(self.loss_name).loss(logits, instances, self.vis_period)

    def mask_inference(self, logits: torch.Tensor, instances: list[Instances]) -> None:
        """Add `pred_masks` to `instances`, in place, from the logits, (R, C, M, M)."""
        get_mask_loss(self.loss_name).inference(logits, instances)


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNFCNHead(_MaskHead, MaskRCNNConvUpsampleHead):
    """The fully convolutional branch: 3 x 3 convolutions, deconvolutions, 1 x 1 predictor.

    Paper: Figure 4; one 2 x 2 deconvolution of stride 2, which is detectron2's
    `MaskRCNNConvUpsampleHead`: at the defaults this class has its state-dict keys and gives its
    tensors, bit for bit. Other output resolutions have more deconvolutions (`deconv2`, `deconv3`,
    ...; as wide as the first, each with a ReLU, without a norm) or none; the paper does not vary
    it.
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
        **kwargs: Any,
    ) -> None:
        """Build the layers.

        Args:
            input_shape: channels and side (height, width) of the pooled features. The side may be
                missing when `output_resolution` is 0.
            num_classes: number of foreground classes; 1 for class-agnostic masks.
            conv_dims: widths of the 3 x 3 convolutions, then that of the deconvolutions.
            loss: "sigmoid" or "softmax"; softmax has one more channel, the background.
            output_resolution: side of the masks: that of the pooled features times 1, 2, 4, ...;
                0: twice it.
            kwargs: `conv_norm`, `vis_period`, `loss_weight`; see `MaskRCNNConvUpsampleHead`.

        Raises:
            UserError: `loss` is unknown or `output_resolution` does not fit.
        """
        deconvs = _count_deconvs(input_shape, output_resolution)
        super().__init__(
            input_shape=input_shape,
            num_classes=num_classes + get_mask_loss(loss).extra_channels,
            conv_dims=conv_dims,
            loss=loss,
            # Twice whatever comes needs no check; detectron2's Res5ROIHeads stay usable that way.
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
        self.add_module("predictor", predictor)

    def _remove_deconv(self, predictor: Conv2d, in_channels: int) -> Conv2d:
        """Leave the convolutions only; return a predictor that fits the last of them."""
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

    Paper: Table 2e, "1024-1024-80*28^2" and "1024-1024-1024-80*28^2". The RoI size that feeds it
    is not given there; with `POOLER_RESOLUTION` 14 it is that of the FCN branch. Hidden layers are
    detectron2's `FastRCNNConvFCHead` without convolutions (keys `hidden.fc1`, ...); the predictor
    starts as detectron2's mask predictor does, at N(0, 0.001).
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
        **kwargs: Any,
    ) -> None:
        """Build the layers.

        Args:
            input_shape: channels, height and width of the pooled features.
            num_classes: number of foreground classes; 1 for class-agnostic masks.
            fc_dims: widths of the hidden layers, one at least.
            loss: "sigmoid" or "softmax"; softmax has one more channel, the background.
            output_resolution: side of the masks; 0: twice that of the pooled features.
            kwargs: `vis_period`, `loss_weight`; see `BaseMaskRCNNHead`.

        Raises:
            UserError: `loss` is unknown, there is no hidden layer, or `output_resolution` is
                negative.
        """
        if not fc_dims:
            raise UserError(f"{_KEY}.NUM_FC: expected one hidden layer or more, got 0")
        side = _pooled_side(input_shape)
        if output_resolution < 0:
            raise UserError(
                f"{_KEY}.OUTPUT_RESOLUTION: expected the side of the masks in pixels, or 0 for "
                f"twice that of the pooled features ({2 * side}), got {output_resolution}"
            )
        channels = num_classes + get_mask_loss(loss).extra_channels
        super().__init__(loss=loss, pooled_side=side, **kwargs)
        output_side = output_resolution or 2 * side
        self.output_shape = (channels, output_side, output_side)
        self.hidden = FastRCNNConvFCHead(input_shape, conv_dims=[], fc_dims=fc_dims)
        self.predictor = nn.Linear(fc_dims[-1], channels * output_side**2)
        _init_predictor(self.predictor)

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


def _init_predictor(predictor: nn.Linear | nn.Conv2d) -> None:
    """As detectron2 starts its mask predictor."""
    nn.init.normal_(predictor.weight, std=0.001)
    if predictor.bias is not None:
        nn.init.zeros_(predictor.bias)


def _pooled_side(input_shape: ShapeSpec) -> int:
    if input_shape.height is None or input_shape.height != input_shape.width:
        raise UserError(
            "expected a mask head's input_shape with equal height and width, the side of the "
            f"pooled features, got {input_shape}"
        )
    return input_shape.height


def _count_deconvs(input_shape: ShapeSpec, output_resolution: int) -> int:
    """Return how often the side of the pooled features is doubled to reach the output's."""
    if output_resolution == 0:
        return 1
    side = _pooled_side(input_shape)
    ratio, rest = divmod(output_resolution, side)
    if rest or ratio < 1 or ratio & (ratio - 1):
        fitting = ", ".join(str(side * 2**n) for n in range(4))
        raise UserError(
            f"{_KEY}.OUTPUT_RESOLUTION: expected the side of the pooled features, {side}, times a "
            f"power of two ({fitting}, ...), or 0 for {2 * side}; got {output_resolution}. Change "
            "it, or the POOLER_RESOLUTION"
        )
    return ratio.bit_length() - 1
