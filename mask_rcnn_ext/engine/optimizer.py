"""Builds the optimizer of a config: SGD or AdamW, with a learning rate for each part of a model."""

import itertools
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as stock_build_optimizer
from detectron2.solver.build import (
    GradientClipType,
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
)
from torch import nn

from ..config import complete_config
from ..errors import UserError, require_choice
from ..modeling.building import explain_config_errors, unwrap
from ..modeling.fcis import FCISROIHeads
from ..modeling.freezing import is_within

__all__ = ["build_optimizer", "require_fitting_schedule"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Return detectron2's SGD, or AdamW if `MASK_RCNN_EXT.OPTIMIZER` says so.

    The learning rate of a parameter is `SOLVER.BASE_LR`, multiplied by each of these that applies:

    - `MASK_RCNN_EXT.BACKBONE_LR_FACTOR` in the backbone, without the layers of an FPN;
    - `MODEL.FCIS.CONV_LR_FACTOR` in the convolution before FCIS's score maps;
    - `SOLVER.BIAS_LR_FACTOR` for a bias.

    Raises:
        UserError: `MASK_RCNN_EXT.OPTIMIZER` is neither "SGD" nor "AdamW", or detectron2 cannot clip
            gradients as `SOLVER.CLIP_GRADIENTS` says; or PyTorch refuses a number; or the
            backbone's factor is not above 0, or the model has no backbone.
    """
    cfg, model = complete_config(cfg), unwrap(model)
    name = cfg.MASK_RCNN_EXT.OPTIMIZER
    require_choice("MASK_RCNN_EXT.OPTIMIZER", name, ("SGD", "AdamW"))
    if (clip := cfg.SOLVER.CLIP_GRADIENTS).ENABLED:
        known = [kind.value for kind in GradientClipType]
        require_choice("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip.CLIP_TYPE, known)
    factors = _find_lr_factors(cfg, model)
    if name == "SGD" and not factors:
        with explain_config_errors(cfg, "the optimizer"):
            optimizer: torch.optim.Optimizer = stock_build_optimizer(cfg, model)
        return optimizer
    bias_factor = cfg.SOLVER.BIAS_LR_FACTOR
    groups = get_default_optimizer_params(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        # With detectron2's `bias_lr_factor` the other factors would not hold for a bias.
        lr_factor_func=lambda parameter: (
            factors.get(parameter, 1.0) * (bias_factor if parameter.endswith(".bias") else 1.0)
        ),
    )
    if name == "SGD":
        options = {"momentum": cfg.SOLVER.MOMENTUM, "nesterov": cfg.SOLVER.NESTEROV}
    else:
        # On a CPU the fused update takes half the time. On CUDA it would also unscale the float16
        # gradients, after detectron2 has clipped the scaled ones.
        options = {"fused": torch.device(cfg.MODEL.DEVICE).type == "cpu"}
    kind = maybe_add_gradient_clipping(cfg, getattr(torch.optim, name))
    options |= {"lr": cfg.SOLVER.BASE_LR, "weight_decay": cfg.SOLVER.WEIGHT_DECAY}
    with explain_config_errors(cfg, "the optimizer"):
        optimizer = kind(groups, **options)
    return optimizer


def require_fitting_schedule(cfg: CfgNode) -> None:
    """Check the numbers that detectron2's learning rate schedules take for granted.

    Raises:
        UserError: the run has no iteration, the learning rate is negative, or
            `SOLVER.REFERENCE_WORLD_SIZE` does not divide the batch; or the iterations in
            `SOLVER.STEPS` do not rise, or one is at the beginning or the end of the run; or a
            cosine schedule does not fall from `SOLVER.BASE_LR` to `SOLVER.BASE_LR_END`.
    """
    solver = cfg.SOLVER
    if solver.MAX_ITER < 1:
        raise UserError(f"SOLVER.MAX_ITER: expected 1 or more iterations, got {solver.MAX_ITER}")
    if not solver.BASE_LR >= 0:
        raise UserError(f"SOLVER.BASE_LR: expected a positive number, got {solver.BASE_LR:g}")
    if solver.REFERENCE_WORLD_SIZE and solver.IMS_PER_BATCH % solver.REFERENCE_WORLD_SIZE:
        raise UserError(
            "SOLVER.REFERENCE_WORLD_SIZE: expected a number of processes that divides the "
            f"{solver.IMS_PER_BATCH} images of SOLVER.IMS_PER_BATCH, or 0, got "
            f"{solver.REFERENCE_WORLD_SIZE}"
        )
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        _require_fitting_steps(list(solver.STEPS), solver.MAX_ITER)
    if solver.LR_SCHEDULER_NAME != "WarmupCosineLR":
        return
    if not (solver.BASE_LR > 0 and 0 <= solver.BASE_LR_END <= solver.BASE_LR):
        raise UserError(
            "WarmupCosineLR falls from SOLVER.BASE_LR to SOLVER.BASE_LR_END: expected a first rate "
            "above 0 and a last one from 0 to the first, got "
            f"{solver.BASE_LR:g} and {solver.BASE_LR_END:g}"
        )


def _require_fitting_steps(steps: list[Any], end: int) -> None:
    """Raise if detectron2 cannot use the steps; it ignores steps after the end of the run."""
    good = all(
        isinstance(step, int | float) and not isinstance(step, bool) and step == step // 1
        for step in steps
    )
    if good:
        used = [0, *(step for step in steps if step <= end), end]
        good = all(earlier < later for earlier, later in itertools.pairwise(used))
    if not good:
        raise UserError(
            "SOLVER.STEPS: expected iterations, whole numbers in rising order, from 1 to less than "
            f'SOLVER.MAX_ITER {end} (later ones are ignored), or "()" for none, got {tuple(steps)}'
        )


def _find_lr_factors(cfg: CfgNode, model: nn.Module) -> dict[str, float]:
    """Return the factors of the learning rate that are not 1, by the parameter's name."""
    factors: dict[str, float] = {}
    of_conv = cfg.MODEL.FCIS.CONV_LR_FACTOR
    for name, module in model.named_modules():
        if isinstance(module, FCISROIHeads) and of_conv != 1:
            factors |= {f"{name}.conv_new.{kind}": of_conv for kind in ("weight", "bias")}
    of_backbone = cfg.MASK_RCNN_EXT.BACKBONE_LR_FACTOR
    if of_backbone != 1:
        part = _find_backbone(of_backbone, model)
        names = (name for name, _ in model.named_parameters())
        factors |= {name: of_backbone for name in names if is_within(name, [part])}
    return factors


def _find_backbone(factor: float, model: nn.Module) -> str:
    """Return the name of the part that an FPN stands on, or else of the whole backbone."""
    backbone = getattr(model, "backbone", None)
    if factor <= 0 or backbone is None:
        got = f"{factor}" if factor <= 0 else f"{factor}, and the model has no backbone"
        raise UserError(
            "MASK_RCNN_EXT.BACKBONE_LR_FACTOR: expected a number above 0, such as 0.1, got "
            f"{got}. To keep the backbone as it is, set MASK_RCNN_EXT.FREEZE \"['backbone']\""
        )
    return "backbone.bottom_up" if hasattr(backbone, "bottom_up") else "backbone"
