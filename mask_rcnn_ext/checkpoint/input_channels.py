"""Fits the first convolution of weights for colour images to a model with other channels."""

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["fit_first_convolutions", "inflate"]

_COLOURS = 3

logger = logging.getLogger(__name__)


def inflate(weight: Tensor, channels: int) -> Tensor:
    """Return the weight of a convolution of 3 channels for another number of them.

    One channel gets the sum over the three. More get the three in turn, times 3 / `channels`; so an
    image whose channels are all equal gives about the response that it gives in gray. This is the
    rule of timm's `adapt_input_conv`.

    Args:
        weight: (O, 3, k, k).
        channels: of the images.

    Returns:
        (O, `channels`, k, k).
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    order = torch.arange(channels) % _COLOURS
    return weight[:, order] * (_COLOURS / channels)


def fit_first_convolutions(model: nn.Module, weights: dict[str, Any]) -> None:
    """Inflate weights for 3 channels, in place, if the model takes images of another number.

    The names in the file may differ from those of the model, so shapes decide: a weight is inflated
    if it has 3 channels, and the model has one of the same shape with as many channels as its
    images, `len(pixel_mean)`.

    Args:
        model: a model of detectron2's; one without `pixel_mean` is left alone.
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
    for name in found:
        value = weights[name]
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        weights[name] = inflate(tensor, channels)
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
