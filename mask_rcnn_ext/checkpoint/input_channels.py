"""Adapts the first convolution of weights for colour images to images with other channels."""

import logging
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["fit_first_convolutions", "inflate"]

_COLOURS = 3

logger = logging.getLogger(__name__)


def inflate(weight: Tensor, channels: int) -> Tensor:
    """Return the weight of a convolution of 3 channels for another number of channels.

    A single channel gets the sum over the three. Otherwise the channels get the three in turn,
    times 3 / `channels`: an image with equal channels then gives about the same response as a grey
    image. This is the rule of timm's `adapt_input_conv`.

    Args:
        weight: (O, 3, k, k).
        channels: the number of channels of the images.

    Returns:
        (O, `channels`, k, k).
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    order = torch.arange(channels) % _COLOURS
    return weight[:, order] * (_COLOURS / channels)


def fit_first_convolutions(model: nn.Module, weights: dict[str, Any]) -> None:
    """Inflate weights for 3 channels, in place, if the model takes another number of channels.

    The names in the file may differ from the names in the model, so the shapes decide. A weight
    with 3 channels is inflated if the model has a weight of the same shape with as many channels as
    the images have, `len(pixel_mean)`.

    Args:
        model: a model of detectron2. Nothing is done for a model without `pixel_mean`.
        weights: name -> tensor or array.
    """
    mean = getattr(model, "pixel_mean", None)
    if mean is None or len(mean) == _COLOURS:
        return
    channels = len(mean)
    targets = [p for p in model.parameters() if p.dim() == 4 and p.shape[1] == channels]
    shapes = {(p.shape[0], *p.shape[2:]) for p in targets}
    found = []
    for name, value in weights.items():
        shape = value.shape
        if len(shape) == 4 and shape[1] == _COLOURS and (shape[0], *shape[2:]) in shapes:
            found.append(name)
            weights[name] = inflate(torch.as_tensor(value), channels)
    if found:
        logger.info(
            "The weights are for 3 channels, the images have %d: %s is repeated and scaled.",
            *(channels, ", ".join(found)),
        )
        if not any(parameter.requires_grad for parameter in targets):
            logger.warning(
                "The first convolution is frozen, so it cannot learn from the new channels. Set "
                "MODEL.BACKBONE.FREEZE_AT 0"
            )
