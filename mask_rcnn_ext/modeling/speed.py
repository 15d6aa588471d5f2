"""The levels of speed of prediction and evaluation (`MASK_RCNN_EXT.SPEED`).

- "exact": the results are the same bits as without this key. RoIAlign uses all threads of a CPU.
- "fast": the results are equal up to the rounding of float32. The model is in the channels_last
  format, its norms are folded, and RoIAlign and the mask predictor gather only what they need: see
  `fold_norms`, `gather_roi_align`, `gather_mask_predictors`. On an AMD processor with AVX-512,
  linear layers and 1 x 1 convolutions are computed by oneDNN: see `use_onednn_products`.
- "fastest": also mixed precision, bfloat16 on a CPU and float16 on CUDA. RoIAlign stays in float32.

A level adds to the other keys and switches nothing off. Parts that a level does not know, such as
heads of another project, run unchanged.
"""

import copy
import logging

import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import log_first_n
from torch import nn

from ..config import complete_config
from ..errors import require_choice
from .building import unwrap
from .folding import fold_norms
from .onednn_products import use_onednn_products
from .poolers import gather_roi_align, thread_roi_align
from .precision import computes_bfloat16, get_amp_dtype, keep_float32_outputs
from .roi_heads.gathered_predictor import gather_mask_predictors

__all__ = ["SPEEDS", "SPEED_KEYS", "prepare_for_inference", "require_speed", "resolve_speed"]

SPEEDS = ("exact", "fast", "fastest")  # the values of MASK_RCNN_EXT.SPEED
# The keys of MASK_RCNN_EXT that make prediction faster and change its bits; a level adds to them.
SPEED_KEYS = ("AMP_INFERENCE", "CHANNELS_LAST", "GATHERED_ROI_ALIGN", "GATHERED_MASK_PREDICTOR")
_LOGGER = __name__


def require_speed(cfg: CfgNode) -> None:
    """Check the name of the level.

    Raises:
        UserError: `MASK_RCNN_EXT.SPEED` is unknown.
    """
    require_choice("MASK_RCNN_EXT.SPEED", cfg.MASK_RCNN_EXT.SPEED, SPEEDS)


def resolve_speed(cfg: CfgNode) -> CfgNode:
    """Return a copy of a config with the keys that the level sets, for `inference_autocast`.

    On a CPU that does not compute in bfloat16, "fastest" is the same as "fast", with one warning in
    the log.

    Raises:
        UserError: `MASK_RCNN_EXT.SPEED` is unknown.
    """
    cfg = complete_config(cfg)
    require_speed(cfg)
    speed, frozen = cfg.MASK_RCNN_EXT.SPEED, cfg.is_frozen()
    cfg = cfg.clone()
    cfg.defrost()
    if speed != "exact":
        cfg.MASK_RCNN_EXT.CHANNELS_LAST = cfg.MASK_RCNN_EXT.GATHERED_ROI_ALIGN = True
    if speed == "fastest" and _is_on_cpu(cfg) and not computes_bfloat16():
        log_first_n(
            logging.WARNING,
            "MASK_RCNN_EXT.SPEED fastest: this CPU does not compute in bfloat16; float32 is used.",
            name=_LOGGER,
            key="message",
        )
    elif speed == "fastest":
        cfg.SOLVER.AMP.ENABLED = cfg.MASK_RCNN_EXT.AMP_INFERENCE = True
    if frozen:
        cfg.freeze()
    return cfg


def prepare_for_inference(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Return the model that predicts at the level of `cfg`.

    Args:
        cfg: the config.
        model: a model with its weights, prepared by `prepare_model`. It may be in training.

    Returns:
        At the level "exact" the model itself, whose results and training do not change. At the
        other levels a copy in eval mode, which cannot be trained or saved; the model is unchanged.

    Raises:
        UserError: `MASK_RCNN_EXT.SPEED` is unknown.
    """
    cfg = resolve_speed(cfg)
    _tell_slow_keys(cfg)
    if cfg.MASK_RCNN_EXT.SPEED == "exact":
        if _is_on_cpu(cfg):
            thread_roi_align(model)
        return model
    copied = copy.deepcopy(unwrap(model)).eval().requires_grad_(False)
    fold_norms(copied)
    gather_mask_predictors(copied)
    gather_roi_align(copied)
    use_onednn_products(copied)
    if get_amp_dtype(cfg) is not None:
        keep_float32_outputs(copied)
    return copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _is_on_cpu(cfg: CfgNode) -> bool:
    return torch.device(cfg.MODEL.DEVICE).type == "cpu"


def _tell_slow_keys(cfg: CfgNode) -> None:
    """Warn once about keys that make prediction on a CPU slower than float32, or hardly faster."""
    ext = cfg.MASK_RCNN_EXT
    if not (ext.AMP_INFERENCE and _is_on_cpu(cfg) and get_amp_dtype(cfg) is torch.bfloat16):
        return
    if not computes_bfloat16():
        said = "AMP_DTYPE bfloat16 is slower than float32 on this CPU: set it to auto."
    elif not ext.CHANNELS_LAST:
        said = "AMP_INFERENCE without CHANNELS_LAST gains little on a CPU: set CHANNELS_LAST True."
    else:
        return
    log_first_n(logging.WARNING, f"MASK_RCNN_EXT.{said}", name=_LOGGER, key="message")
