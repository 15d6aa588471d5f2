"""Renames torchvision's ImageNet weights of VGG-16 and AlexNet to the layers of a detector.

The files are plain state dicts of classifiers: `vgg16-397923af.pth`, `alexnet-owt-7be5be79.pth`.
They were trained on RGB images: INPUT.FORMAT "RGB", PIXEL_MEAN [123.675, 116.28, 103.53], PIXEL_STD
[58.395, 57.12, 57.375].
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["convert_torchvision_weights"]

_FEATURES = re.compile(r"^features\.\d+\.(weight|bias)$")
_CLASSIFIER = re.compile(r"^classifier\.(?P<place>\d+)\.(?P<kind>weight|bias)$")


def convert_torchvision_weights(weights: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the weights of a classifier under the names of a detector's layers.

    The convolutions become the backbone. The fully connected layers fc6 and fc7 become `fc1` and
    `fc2` of the box head. The last layer, which predicts ImageNet's classes, is left out.

    Args:
        weights: parameter name -> tensor.

    Returns:
        The same tensors under other names; None unless all names are `features.<n>.<weight or
        bias>` or `classifier.<n>.<weight or bias>`.
    """
    layers = [match for name in weights if (match := _CLASSIFIER.match(name))]
    others = [name for name in weights if not _CLASSIFIER.match(name)]
    if not layers or not others or not all(_FEATURES.match(name) for name in others):
        return None
    renamed = {f"backbone.{name}": weights[name] for name in others}
    places = sorted({int(match["place"]) for match in layers})
    for match in layers:
        number = places.index(int(match["place"])) + 1  # ReLU and dropout are between them
        if number < len(places):
            renamed[f"roi_heads.box_head.fc{number}.{match['kind']}"] = weights[match.string]
    return renamed
