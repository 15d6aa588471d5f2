"""Builds the optimizer of a config: detectron2's SGD, or AdamW, with FCIS's learning rates."""

from collections.abc import Callable

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as stock_build_optimizer
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

from ..errors import UserError
from ..modeling.fcis import FCISROIHeads

__all__ = ["build_optimizer"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return detectron2's SGD, or AdamW if `MASK_RCNN_EXT.OPTIMIZER` says so.

    In an FCIS model, the learning rate of the convolution before the score maps is multiplied by
    `MODEL.FCIS.CONV_LR_FACTOR`. If `SOLVER.BIAS_LR_FACTOR` is not 1, it replaces this factor for
    the bias, because detectron2 combines the two in this way.

    Raises:
        UserError: `MASK_RCNN_EXT.OPTIMIZER` is neither "SGD" nor "AdamW".
    """
    name = cfg.MASK_RCNN_EXT.OPTIMIZER
    if name not in ("SGD", "AdamW"):
        raise UserError(f"MASK_RCNN_EXT.OPTIMIZER: expected 'SGD' or 'AdamW', got {name!r}")
    factor = _find_lr_factor(cfg, model)
    if name == "SGD" and factor is None:
        optimizer: torch.optim.Optimizer = stock_build_optimizer(cfg, model)
        return optimizer
    groups = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        lr_factor_func=factor,
    )
    if name == "SGD":
        sgd = maybe_add_gradient_clipping(cfg, torch.optim.SGD)
        return sgd(
            groups,
            lr=cfg.SOLVER.BASE_LR,
            momentum=cfg.SOLVER.MOMENTUM,
            nesterov=cfg.SOLVER.NESTEROV,
            weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        )
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    # On a CPU the fused update takes half the time. On CUDA it would also unscale the float16
    # gradients, after detectron2 has clipped the scaled ones.
    fused = torch.device(cfg.MODEL.DEVICE).type == "cpu"
    return adamw(groups, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, fused=fused)


def _find_lr_factor(cfg: CfgNode, model: nn.Module) -> Callable[[str], float] | None:
    """Return a function from a parameter's name to its learning-rate factor; None if all are 1."""
    factor = cfg.MODEL.FCIS.CONV_LR_FACTOR
    own = {
        f"{name}.conv_new.{parameter}"
        for name, module in model.named_modules()
        if isinstance(module, FCISROIHeads)
        for parameter in ("weight", "bias")
    }
    return (lambda name: factor if name in own else 1.0) if own and factor != 1 else None
