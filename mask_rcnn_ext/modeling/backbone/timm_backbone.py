"""Feature extractors of timm as detectron2 backbones, for images with any number of channels.

timm (https://github.com/huggingface/pytorch-image-models, Apache-2.0) is an optional dependency,
`pip install "mask_rcnn_ext[timm]"`. It is imported when such a backbone is built.

Features are named by their stride, as in a ResNet: res2 (4), res3 (8), res4 (16), res5 (32). Some
networks have only some of these: a plain ViT with patches of 16 pixels has only res4.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN, Backbone
from torch.nn.modules.batchnorm import _BatchNorm

from ...errors import UserError, import_extra, nearest
from ..freezing import find_dependencies, use_running_statistics
from ..registration import register_as
from .tiny_resnet import build_fpn

__all__ = ["TimmBackbone", "build_timm_backbone", "build_timm_fpn_backbone"]

logger = logging.getLogger(__name__)

_STAGES = {2: "res1", 4: "res2", 8: "res3", 16: "res4", 32: "res5"}  # res1: for freezing only
_PROBE = (128, 192)  # height and width of a cheap test image: two different multiples of 32
# Options that let families with a fixed image size (ViT, Swin, ...) take images of any size.
_ANY_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})


class TimmBackbone(Backbone):
    """The features of a timm network as a detectron2 `Backbone`.

    The network runs once on a small image of zeros, to check that its maps have the channels and
    strides that timm reports. Maps in (N, H, W, C) order (Swin) are permuted to (N, C, H, W).
    Parameters that none of `out_features` depends on are frozen, so that distributed training does
    not wait for their gradients.

    Args:
        name: a name in `timm.list_models()`, with or without a tag, such as "resnet18.a1_in1k".
        in_channels: channels of the images. With `pretrained`, timm adapts the weights of the first
            convolution: it sums them for one channel, and repeats and scales them for others.
        out_features: which of "res2".."res5" to return.
        pretrained: load timm's weights, from its cache or the network.
        freeze_at: `MODEL.BACKBONE.FREEZE_AT`: 0 trains everything, also batch normalisation. n > 0
            freezes the statistics and weights of all batch normalisation (as in detectron2's
            ResNets) and the parameters up to the feature of stride 2^n: 1 the stem, 2 up to res2,
            ..., 5 everything.

    Raises:
        UserError: timm is not installed or does not know the name; the network lacks a requested
            feature or cannot take images of any size; or its weights cannot be loaded.
    """

    def __init__(
        self,
        *,
        name: str,
        in_channels: int,
        out_features: Sequence[str],
        pretrained: bool = False,
        freeze_at: int = 0,
    ) -> None:
        super().__init__()
        # The extra of EfficientNet-Lite0 also has the weights that its config starts from.
        extra = "lite0" if name.startswith("tf_efficientnet_lite0") else "timm"
        timm = import_extra("timm", extra, f"the backbone {name}")
        options, available = _inspect(timm, name)
        wanted = list(dict.fromkeys(out_features))
        known = [feature for feature in available if feature != "res1"]
        if not wanted or not set(wanted) <= set(known):
            raise UserError(
                f"MASK_RCNN_EXT.TIMM.NAME {name!r} has the features {', '.join(known)}; asked for: "
                f"{', '.join(wanted) or 'none'}. Set MODEL.RESNETS.OUT_FEATURES (with an FPN, "
                "MODEL.FPN.IN_FEATURES) to features that it has"
            )
        frozen = _choose_frozen_feature(name, freeze_at, wanted, available)
        needed = {*wanted, frozen} - {""}
        built = [feature for feature in available if feature in needed]
        self.net = _create(
            timm,
            name,
            in_chans=in_channels,
            pretrained=pretrained,
            out_indices=tuple(available[feature] for feature in built),
            **options,
        )
        # An enum of strings; networks without it have the order (N, C, H, W).
        layout = getattr(self.net, "output_fmt", "NCHW")
        self._channels_are_last = getattr(layout, "value", layout) == "NHWC"
        self._built, self._out_features = built, wanted
        info = zip(
            built, self.net.feature_info.channels(), self.net.feature_info.reduction(), strict=True
        )
        shapes = {feature: (channels, stride) for feature, channels, stride in info}
        self._out_feature_channels = {f: shapes[f][0] for f in wanted}
        self._out_feature_strides = {f: shapes[f][1] for f in wanted}
        self._freeze(self._probe(name, in_channels, shapes), frozen)
        if freeze_at > 0:
            self._freeze_norms()

    @property
    def size_divisibility(self) -> int:
        """The largest stride. Images are padded to its multiples, which makes all strides exact."""
        return max(self._out_feature_strides.values())

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map (N, `in_channels`, H, W) to {feature: (N, C, H / stride, W / stride)}.

        H and W are multiples of `size_divisibility`.
        """
        features = self._compute_features(images)
        return {feature: features[feature] for feature in self._out_features}

    def _compute_features(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.net(images)
        if self._channels_are_last:
            maps = [feature_map.permute(0, 3, 1, 2).contiguous() for feature_map in maps]
        return dict(zip(self._built, maps, strict=True))

    def _probe(
        self, name: str, in_channels: int, shapes: dict[str, tuple[int, int]]
    ) -> dict[str, torch.Tensor]:
        """Return the features of an image of zeros; raise an error for other shapes."""
        height, width = _PROBE
        self.eval()  # the statistics of batch normalisation do not change
        try:
            features = self._compute_features(torch.zeros(1, in_channels, height, width))
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:
            raise UserError(
                f"MASK_RCNN_EXT.TIMM.NAME {name!r} cannot be a backbone for images of any size: "
                f"with an image of {height} x {width} pixels it fails ({_get_reason(error)}). "
                "Choose another network"
            ) from error
        finally:
            self.train()
        for feature, (channels, stride) in shapes.items():
            expected = (1, channels, height // stride, width // stride)
            if (came := tuple(features[feature].shape)) != expected:
                raise UserError(
                    f"MASK_RCNN_EXT.TIMM.NAME {name!r} cannot be a backbone: its {feature} of a "
                    f"{height} x {width} image has the shape {came}, expected {expected}. Choose "
                    "another network"
                )
        return features

    def _freeze(self, features: dict[str, torch.Tensor], last: str) -> None:
        """Freeze the parameters of the feature `last`, and those that no output depends on."""
        names, parameters = zip(*self.net.named_parameters(), strict=True)
        outputs = [features[feature] for feature in self._out_features]
        used = find_dependencies(outputs, parameters)
        frozen = [False] * len(parameters)
        if last:
            frozen = find_dependencies([features[last]], parameters)
        for parameter, is_used, is_frozen in zip(parameters, used, frozen, strict=True):
            parameter.requires_grad = is_used and not is_frozen
        if unused := [n for n, is_used in zip(names, used, strict=True) if not is_used]:
            logger.info("Parameters that no output depends on, frozen: %s", ", ".join(unused))

    def _freeze_norms(self) -> None:
        """Freeze the statistics and weights of all batch normalisation.

        timm's `freeze_batch_norm_2d` does the same with layers that take longer to train through.
        """
        for module in self.net.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.requires_grad_(False)
                use_running_statistics(module)


def _get_reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _create(timm: Any, name: str, **options: Any) -> Any:
    """Call `timm.create_model`; turn its errors into a UserError."""
    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        raise UserError(
            f"MASK_RCNN_EXT.TIMM.NAME: timm {timm.__version__} has no model {name!r}"
            f"{nearest(name, timm.list_models()) or '; timm.list_models() names them'}"
        )
    try:
        return timm.create_model(name, features_only=True, **options)
    except TypeError:
        raise  # this family does not know an option, see _inspect
    except Exception as error:  # downloads, caches and factories raise many kinds of errors
        if options.get("pretrained"):
            raise UserError(
                f"MASK_RCNN_EXT.TIMM.NAME {name!r}: its weights could not be loaded "
                f"({_get_reason(error)}). To train from scratch set MASK_RCNN_EXT.TIMM.PRETRAINED "
                "False; otherwise set MODEL.WEIGHTS to a file"
            ) from error
        raise UserError(
            f"MASK_RCNN_EXT.TIMM.NAME {name!r}: timm gives no feature maps for it "
            f"({_get_reason(error)})"
        ) from error


def _inspect(timm: Any, name: str) -> tuple[dict[str, bool], dict[str, int]]:
    """Look at a network without allocating it.

    Returns:
        The options that let it take images of any size, and {feature: its index in timm}. If
        several maps have one stride, the last and deepest map is the feature.
    """
    for options in (*_ANY_SIZE, {}):
        try:
            with torch.device("meta"):
                info = _create(timm, name, **options).feature_info
            break
        except TypeError:
            if not options:
                raise
    strides = info.reduction()
    available = {
        _STAGES[stride]: index
        for index, stride in zip(info.out_indices, strides, strict=True)
        if stride in _STAGES
    }
    if not set(available) - {"res1"}:
        raise UserError(
            f"MASK_RCNN_EXT.TIMM.NAME {name!r} has features of stride "
            f"{', '.join(map(str, strides))}; expected some of 4, 8, 16, 32 (res2..res5). "
            "Choose another network"
        )
    return options, available


def _choose_frozen_feature(
    name: str, freeze_at: int, wanted: list[str], available: dict[str, int]
) -> str:
    """Return the feature up to which parameters are frozen, or ""."""
    if freeze_at <= 0:
        return ""
    feature = min(f"res{freeze_at}", max(wanted))
    if feature not in available:
        raise UserError(
            f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}: MASK_RCNN_EXT.TIMM.NAME {name!r} has no "
            f"feature of stride {2**freeze_at} to freeze up to. Set it to 0, which freezes "
            f"nothing, or to one of {', '.join(stage.removeprefix('res') for stage in available)}"
        )
    return feature


def _build(cfg: CfgNode, input_shape: ShapeSpec, out_features: Sequence[str]) -> TimmBackbone:
    model, network = cfg.MODEL, cfg.MASK_RCNN_EXT.TIMM
    freeze_at = model.BACKBONE.FREEZE_AT
    if freeze_at > 0 and not (network.PRETRAINED or model.WEIGHTS):
        raise UserError(
            f"MODEL.BACKBONE.FREEZE_AT is {freeze_at} (detectron2's default is 2), which would "
            "freeze random weights. To train from scratch set MODEL.BACKBONE.FREEZE_AT 0; "
            "otherwise set MASK_RCNN_EXT.TIMM.PRETRAINED True, or MODEL.WEIGHTS to a file"
        )
    return TimmBackbone(
        name=network.NAME,
        in_channels=input_shape.channels,
        out_features=out_features,
        # Weights from a file replace timm's, which are then not downloaded.
        pretrained=network.PRETRAINED and not model.WEIGHTS,
        freeze_at=freeze_at,
    )


@register_as(BACKBONE_REGISTRY, "mask_rcnn_ext_timm_backbone")
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """Build the timm network `MASK_RCNN_EXT.TIMM.NAME`.

    Its outputs are `MODEL.RESNETS.OUT_FEATURES`. `MASK_RCNN_EXT.TIMM.PRETRAINED` has an effect only
    while `MODEL.WEIGHTS` is empty. Most weights of timm expect RGB: INPUT.FORMAT "RGB", PIXEL_MEAN
    [123.675, 116.28, 103.53], PIXEL_STD [58.395, 57.12, 57.375].

    Args:
        cfg: the config; for `MODEL.BACKBONE.FREEZE_AT` see `TimmBackbone`.
        input_shape: its channels are the channels of the images, the length of `MODEL.PIXEL_MEAN`.

    Raises:
        UserError: see `TimmBackbone`; or FREEZE_AT would freeze random weights.
    """
    return _build(cfg, input_shape, cfg.MODEL.RESNETS.OUT_FEATURES)


@register_as(BACKBONE_REGISTRY, "mask_rcnn_ext_timm_fpn_backbone")
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build detectron2's FPN on a timm network: p2..p5 and p6 at strides 4..64.

    It reads `MODEL.FPN`. For arguments and errors see `build_timm_backbone`.
    """
    return build_fpn(cfg, _build(cfg, input_shape, cfg.MODEL.FPN.IN_FEATURES))
