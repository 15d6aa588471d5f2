"""torchvision's ImageNet weights of VGG-16 and AlexNet, under the names of a detector's layers.

The files are plain state dicts of classifiers: `vgg16-397923af.pth`, `alexnet-owt-7be5be79.pth`.
They were made with RGB images: INPUT.FORMAT "RGB", PIXEL_MEAN [123.675, 116.28, 103.53], PIXEL_STD
[58.395, 57.12, 57.375].
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["detector_weights"]

_FEATURES = re.compile(r"^features\.\d+\.(weight|bias)$")
_CLASSIFIER = re.compile(r"^classifier\.(?P<place>\d+)\.(?P<kind>weight|bias)$")


def detector_weights(weights: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a classifier's weights under the names that they have in a detector.

    The convolutions become the backbone, the fully connected layers but the last, which knows
    ImageNet's classes, the box head's `fc1`, `fc2` (fc6, fc7).

    Args:
        weights: parameter name -> tensor.

    Returns:
        The same tensors under other names; None if the names are not those of a classifier of this
        kind: `features.<n>.<weight or bias>` and `classifier.<n>.<...>`, nothing else.
    """
    layers = [match for name in weights if (match := _CLASSIFIER.match(name))]
    others = [name for name in weights if not _CLASSIFIER.match(name)]
    if not layers or not others or not all(_FEATURES.match(name) for name in others):
        return None
    renamed = {f"backbone.{name}": weights[name] for name in others}
    places = sorted({int(match["place"]) for match in layers})
    for match in layers:
        number = places.index(int(match["place"])) + 1  # between them are ReLU and dropout
        if number < len(places):
            renamed[f"roi_heads.box_head.fc{number}.{match['kind']}"] = weights[match.string]
    return renamed
