"""Device, mixed precision, memory and its format, the same on CPU and CUDA."""

import contextlib
import functools
import logging
import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling.roi_heads import KRCNNConvDeconvUpsampleHead
from torch import nn

from ..errors import UserError, require_choice
from .memory import reuse_freed_memory
from .poolers import gather_roi_align
from .roi_heads.gathered_predictor import gather_mask_predictors

__all__ = [
    "choose_device",
    "computes_bfloat16",
    "get_amp_dtype",
    "inference_autocast",
    "keep_float32_outputs",
    "prepare_memory",
    "prepare_model",
    "read_processor",
]

logger = logging.getLogger(__name__)

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def choose_device(cfg: CfgNode, device: str | torch.device | None = None) -> None:
    """Set `MODEL.DEVICE`, in place, to an available device.

    Args:
        cfg: the config. If its `MODEL.DEVICE` is a CUDA device and there is none, the CPU is used,
            with a warning in the log.
        device: an explicit choice that replaces the config's; it must be available.

    Raises:
        UserError: the device does not exist.
    """
    given = cfg.MODEL.DEVICE if device is None else device
    try:
        wanted = torch.device(given)
    except RuntimeError as error:
        raise UserError(f"device: expected 'cpu', 'cuda' or 'cuda:N', got {given!r}") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        if device is not None:
            raise UserError(f"device {device}: PyTorch finds no CUDA device here; use 'cpu'")
        logger.warning("No GPU was found: running on the CPU (MODEL.DEVICE is %s).", wanted)
        wanted = torch.device("cpu")
        if cfg.MASK_RCNN_EXT.AMP_DTYPE == "float16":  # chosen for a GPU; not usable on a CPU
            cfg.MASK_RCNN_EXT.AMP_DTYPE = "auto"
    elif wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {wanted}: there are {torch.cuda.device_count()} CUDA devices here")
    cfg.MODEL.DEVICE = str(wanted)


def get_amp_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Return the autocast dtype of `cfg`, or None for float32.

    The result is None without `SOLVER.AMP.ENABLED`. It is also None for `MASK_RCNN_EXT.AMP_DTYPE`
    "auto" on a CPU without instructions for bfloat16, where PyTorch emulates bfloat16 and needs two
    to three times as long as in float32.

    Raises:
        UserError: `MASK_RCNN_EXT.AMP_DTYPE` is unknown, or is float16 on a CPU, where gradients
            underflow without loss scaling and convolutions fall back to slow code.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
    name = cfg.MASK_RCNN_EXT.AMP_DTYPE
    if name == "auto":
        if on_cpu and not computes_bfloat16():
            return None
        name = "bfloat16" if on_cpu else "float16"
    require_choice("MASK_RCNN_EXT.AMP_DTYPE", name, ("auto", *_DTYPES))
    if on_cpu and name == "float16":
        raise UserError(
            "MASK_RCNN_EXT.AMP_DTYPE is float16 but MODEL.DEVICE is cpu; use bfloat16 on a CPU"
        )
    return _DTYPES[name]


@functools.cache
def computes_bfloat16() -> bool:
    """Return whether the CPU has instructions for bfloat16; False if this is not Linux."""
    instructions = r"\b(avx512_bf16|amx_bf16|bf16)\b"  # Arm: bf16
    return re.search(instructions, read_processor()) is not None


def read_processor() -> str:
    """Return Linux's description of the processor; on other systems an empty text."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def inference_autocast(cfg: CfgNode) -> AbstractContextManager[object]:
    """Return the context for prediction: autocast with `MASK_RCNN_EXT.AMP_INFERENCE`, or none."""
    dtype = get_amp_dtype(cfg) if cfg.MASK_RCNN_EXT.AMP_INFERENCE else None
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(cfg.MODEL.DEVICE).type, dtype=dtype)


# Modules whose outputs are used in arithmetic that needs float32.
_FLOAT32_OUTPUTS = (
    "backbone",  # detectron2's RoI layers convert boxes to the dtype of the features
    "proposal_generator.rpn_head",  # anchors are sorted by these scores
    "roi_heads.box_predictor",  # detections are sorted by these scores
    "roi_heads.mask_head.predictor",
    "roi_heads.keypoint_head.score_lowres",  # keypoints are decoded from these heatmaps
)


def prepare_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Prepare a new model for the precision and the memory format of `cfg`; return it.

    On a CPU, the process keeps freed memory from now on, see `prepare_memory`.

    With `MASK_RCNN_EXT.CHANNELS_LAST` its weights get that format. Convolutions use the format of
    their weights, so the images need no conversion. With `SOLVER.AMP.ENABLED` the features, scores,
    box deltas and mask logits are converted to float32. bfloat16 has 8 bits: it would move a box at
    pixel 600 by up to 2 pixels and give many detections the same score. With
    `MASK_RCNN_EXT.GATHERED_ROI_ALIGN` the RoIAlign layers are replaced by `GatheredROIAlign`. With
    `MASK_RCNN_EXT.GATHERED_MASK_PREDICTOR` mask predictors change, see `gather_mask_predictors`.
    """
    prepare_memory(cfg)
    if cfg.MASK_RCNN_EXT.GATHERED_ROI_ALIGN:
        gather_roi_align(model)
    if cfg.MASK_RCNN_EXT.GATHERED_MASK_PREDICTOR and not gather_mask_predictors(model):
        logger.info(
            "MASK_RCNN_EXT.GATHERED_MASK_PREDICTOR changes nothing: the model has no mask head "
            "with class-specific masks, the sigmoid loss and a convolution at its end."
        )
    if cfg.MASK_RCNN_EXT.CHANNELS_LAST:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if cfg.MASK_RCNN_EXT.CHANNELS_LAST or cfg.MASK_RCNN_EXT.GATHERED_ROI_ALIGN:
        _make_heatmaps_contiguous(model)
    if get_amp_dtype(cfg) is None:
        if cfg.SOLVER.AMP.ENABLED:
            logger.info("This CPU does not compute in bfloat16: float32 is used, which is faster.")
    else:
        keep_float32_outputs(model)
    return model


def _make_heatmaps_contiguous(model: nn.Module) -> None:
    """Let detectron2's keypoint loss view heatmaps as rows, which channels_last does not allow."""
    for head in model.modules():
        if isinstance(head, KRCNNConvDeconvUpsampleHead):
            head.score_lowres.register_forward_hook(_make_contiguous)


def _make_contiguous(_layer: nn.Module, _inputs: Any, maps: torch.Tensor) -> torch.Tensor:
    return maps.contiguous()


def prepare_memory(cfg: CfgNode) -> None:
    """Call `reuse_freed_memory` for a model on a CPU, unless `MASK_RCNN_EXT.REUSE_MEMORY` is False.

    Args:
        cfg: the config of the model, with our keys.
    """
    if cfg.MASK_RCNN_EXT.REUSE_MEMORY and torch.device(cfg.MODEL.DEVICE).type == "cpu":
        reuse_freed_memory()


def keep_float32_outputs(model: nn.Module) -> None:
    """Convert outputs that need full precision to float32, in place; see `prepare_model`."""
    for path in _FLOAT32_OUTPUTS:
        module: object = model
        for name in path.split("."):
            module = getattr(module, name, None)
        # A cascade has a list of box predictors.
        for part in module if isinstance(module, nn.ModuleList) else [module]:
            if isinstance(part, nn.Module):
                part.register_forward_hook(_give_float32)


def _give_float32(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    return _to_float32(output)  # a hook that can be pickled with its model


def _to_float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float()
    if isinstance(value, dict):
        return {key: _to_float32(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_float32(item) for item in value)
    return value
