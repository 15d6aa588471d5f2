"""Training with a part of the model fixed: `MASK_RCNN_EXT.FREEZE`."""

from collections.abc import Iterable, Sequence

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import Backbone
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError, nearest

__all__ = ["freeze_parts", "is_within", "parameters_read", "parts_of"]


def is_within(name: str, parts: Iterable[str]) -> bool:
    """Tell whether a module or parameter is one of `parts` or lies in one, by its name."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def freeze_parts(model: nn.Module, parts: Sequence[str]) -> nn.Module:
    """Fix the parameters and the batch statistics of parts of a model, in place; return it.

    Call it before the optimizer is built and before the weights are loaded: the names in the state
    dict stay as they are, so a checkpoint serves the model with and without frozen parts. Batch
    normalisation becomes detectron2's `FrozenBatchNorm2d`. Dropout goes on as it was.

    Args:
        model: a new model.
        parts: names of modules, such as "backbone" or "backbone.bottom_up.res2"; all that is in
            them is frozen.

    Raises:
        UserError: the model has no part of a name, or nothing is left to train.
    """
    parts = [str(part) for part in parts]
    if not parts:
        return model
    modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for part in parts:
        if part not in modules:
            raise UserError(
                f"MASK_RCNN_EXT.FREEZE: the model has no part {part!r}{nearest(part, modules)}. "
                f"Expected names such as {', '.join(n for n, _ in model.named_children())}, or, "
                "with dots, of parts of these"
            )
    # All names of what has two: a part may share layers with one that is trained.
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if is_within(name, parts):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"MASK_RCNN_EXT.FREEZE {parts} leaves nothing to train. Name fewer parts")
    # A list, since the loop replaces modules; a module with two names is replaced under both.
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if is_within(name, parts) and isinstance(module, _BatchNorm):
            _freeze_statistics(model, name, module)
    return model


def _freeze_statistics(model: nn.Module, name: str, norm: _BatchNorm) -> None:
    if norm.running_mean is None:  # it has none, in training and in testing
        return
    if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) and not _does_more(norm):
        parent, _, child = name.rpartition(".")
        frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
        setattr(model.get_submodule(parent), child, frozen)
    else:  # the conversion would lose what it does beside, such as the activation of timm's
        norm.register_forward_pre_hook(_use_fixed_statistics)


def _use_fixed_statistics(norm: nn.Module, inputs: object) -> None:
    norm.eval()


def _does_more(norm: nn.Module) -> bool:
    """Tell whether a subclass, unlike detectron2's, computes something else in evaluation."""
    own = type(norm).__module__.partition(".")[0]
    return own not in ("torch", "detectron2")


def parameters_read(backbone: Backbone, features: Sequence[str], channels: int) -> set[str]:
    """Return the names of the parameters that some of the backbone's features depend on.

    Found by differentiating these features for a small image of zeros. Parameters that are frozen
    count as read: no training moves them.

    Args:
        backbone: a new one; its batch statistics stay as they are.
        features: some of those that it returns.
        channels: of the images.
    """
    parameters = dict(backbone.named_parameters())
    trained = {name: value for name, value in parameters.items() if value.requires_grad}
    read = parameters.keys() - trained.keys()
    if not trained:
        return read
    side = max(128, backbone.size_divisibility)
    training, device = backbone.training, next(iter(parameters.values())).device
    maps = backbone.eval()(torch.zeros((1, channels, side, side), device=device))
    backbone.train(training)
    gradients = torch.autograd.grad(
        [maps[name].sum() for name in features], list(trained.values()), allow_unused=True
    )
    return read | {
        name for name, gradient in zip(trained, gradients, strict=True) if gradient is not None
    }


def parts_of(module: nn.Module, parameters: set[str], name: str) -> list[str]:
    """Return the largest parts of a module all of whose parameters are in a set.

    Args:
        module: a module.
        parameters: names of parameters, as `module.named_parameters()` gives them.
        name: of the module in the model; the names that are returned begin with it.
    """
    own = {key for key, _ in module.named_parameters()}
    if own and own <= parameters:
        return [name]
    parts = []
    for child, part in module.named_children():
        within = {key.removeprefix(f"{child}.") for key in parameters if is_within(key, [child])}
        parts += parts_of(part, within, f"{name}.{child}")
    return parts
