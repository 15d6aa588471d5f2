"""Mixed precision and memory format, the same on CPU and CUDA."""

import contextlib
from contextlib import AbstractContextManager

import torch
from detectron2.config import CfgNode
from torch import nn

from ..errors import UserError

__all__ = ["amp_dtype", "apply_memory_format", "inference_autocast"]

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Return the autocast dtype that `cfg` asks for, or None when `SOLVER.AMP.ENABLED` is off.

    Raises:
        UserError: `MASK_RCNN_EXT.AMP_DTYPE` is unknown, or is float16 on a CPU, where gradients
            underflow without loss scaling and convolutions fall back to slow code.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
    name = cfg.MASK_RCNN_EXT.AMP_DTYPE
    if name == "auto":
        name = "bfloat16" if on_cpu else "float16"
    if name not in _DTYPES:
        raise UserError(
            f"MASK_RCNN_EXT.AMP_DTYPE: expected 'auto', 'float16' or 'bfloat16', got {name!r}"
        )
    if on_cpu and name == "float16":
        raise UserError(
            "MASK_RCNN_EXT.AMP_DTYPE is float16 but MODEL.DEVICE is cpu; use bfloat16 there"
        )
    return _DTYPES[name]


def inference_autocast(cfg: CfgNode) -> AbstractContextManager[object]:
    """Return the context to predict in: autocast if `MASK_RCNN_EXT.AMP_INFERENCE`, else none."""
    dtype = amp_dtype(cfg) if cfg.MASK_RCNN_EXT.AMP_INFERENCE else None
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(cfg.MODEL.DEVICE).type, dtype=dtype)


def apply_memory_format(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Return `model`, with channels_last weights if `MASK_RCNN_EXT.CHANNELS_LAST`.

    Convolutions take the format of their weights, so the images need no conversion.
    """
    if cfg.MASK_RCNN_EXT.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
