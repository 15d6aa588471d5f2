"""Freezes parts of a model (`MASK_RCNN_EXT.FREEZE`); finds the parameters of a feature."""

from collections.abc import Iterable, Sequence

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import Backbone
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import UserError, nearest
from .building import unwrap

__all__ = [
    "find_dependencies",
    "find_largest_modules",
    "freeze_parts",
    "is_within",
    "trace_parameters",
    "use_running_statistics",
]


def is_within(name: str, parts: Iterable[str]) -> bool:
    """Return whether the module or parameter `name` is one of `parts`, or is inside one of them."""
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def freeze_parts(model: nn.Module, parts: Sequence[str]) -> nn.Module:
    """Freeze the parameters and the batch statistics of parts of a model, in place; return it.

    Call it before the optimizer is built and the weights are loaded. The state-dict keys do not
    change, so a checkpoint fits the model with and without frozen parts. Batch normalisation
    becomes detectron2's `FrozenBatchNorm2d`. Dropout is not changed.

    Args:
        model: a new model.
        parts: names of modules, such as "backbone" or "backbone.bottom_up.res2", which are frozen
            with all their submodules.

    Raises:
        UserError: the model has no part with a given name, or nothing is left to train.
    """
    parts = [str(part) for part in parts]
    if not parts:
        return model
    whole, model = model, unwrap(model)
    modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for part in parts:
        if part not in modules:
            raise UserError(
                f"MASK_RCNN_EXT.FREEZE: the model has no part {part!r}{nearest(part, modules)}. "
                f"Expected names such as {', '.join(n for n, _ in model.named_children())}, or "
                "names of their parts, with dots"
            )
    # A shared layer has several names; it is frozen if any of its names is in a frozen part.
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if is_within(name, parts):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"MASK_RCNN_EXT.FREEZE {parts} leaves nothing to train. Name fewer parts")
    # A list, since the loop replaces modules. A module with two names is replaced under both.
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if is_within(name, parts) and isinstance(module, _BatchNorm):
            _freeze_statistics(model, name, module)
    return whole


def _freeze_statistics(model: nn.Module, name: str, norm: _BatchNorm) -> None:
    if norm.running_mean is None:  # a norm without running statistics
        return
    # A class of another package may do more, such as the activation in timm's norms, which the
    # conversion would lose.
    is_plain = type(norm).__module__.partition(".")[0] in ("torch", "detectron2")
    if isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) and is_plain:
        parent, _, child = name.rpartition(".")
        frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(norm)
        setattr(model.get_submodule(parent), child, frozen)
    else:
        use_running_statistics(norm)


def use_running_statistics(norm: _BatchNorm) -> None:
    """Make a batch normalisation use its running statistics in training too, in place.

    Its class and its state-dict keys do not change. Its weights can still be trained.
    """
    norm.register_forward_pre_hook(_use_fixed_statistics)


def _use_fixed_statistics(norm: nn.Module, inputs: object) -> None:
    norm.eval()


def find_dependencies(outputs: Iterable[Tensor], parameters: Sequence[nn.Parameter]) -> list[bool]:
    """Return for each parameter whether any of `outputs` depends on it, by the graph of autograd.

    The graph is kept. The parameters must require gradients.
    """
    total = torch.stack([output.float().sum() for output in outputs]).sum()
    gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
    return [gradient is not None for gradient in gradients]


def trace_parameters(backbone: Backbone, features: Sequence[str], channels: int) -> set[str]:
    """Return the names of the parameters that some features of a backbone depend on.

    The backbone runs on a small image of zeros. Frozen parameters are always included, since
    training does not change them.

    Args:
        backbone: a new backbone; its batch statistics do not change.
        features: names of features that it returns.
        channels: channels of the images.
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
    used = find_dependencies([maps[name] for name in features], list(trained.values()))
    return read | {name for name, is_used in zip(trained, used, strict=True) if is_used}


def find_largest_modules(module: nn.Module, parameters: set[str], name: str) -> list[str]:
    """Return the names of the largest parts of a module whose parameters are all in a set.

    Args:
        module: a module.
        parameters: names of parameters, as `module.named_parameters()` gives them.
        name: name of the module in the model; the returned names begin with it.
    """
    own = {key for key, _ in module.named_parameters()}
    if own and own <= parameters:
        return [name]
    parts = []
    for child, part in module.named_children():
        within = {key.removeprefix(f"{child}.") for key in parameters if is_within(key, [child])}
        parts += find_largest_modules(part, within, f"{name}.{child}")
    return parts
