"""Hides two warnings of PyTorch about detectron2's code, which users cannot fix.

detectron2's anchors call `torch.meshgrid` without `indexing`, and its RoI poolers call
`is_fx_tracing`. New versions of PyTorch warn about each call once in a process. The function here
makes both calls with warnings hidden. Later calls do not warn, and no warning filter stays active.
"""

import logging
import warnings

import torch
from detectron2.utils.tracing import is_fx_tracing

__all__ = ["use_up_warnings"]


def use_up_warnings() -> None:
    """Make PyTorch emit its two warnings about detectron2 now, while they are hidden."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
        torch.meshgrid(torch.zeros(1), torch.zeros(1))
    log = logging.getLogger("torch.fx._symbolic_trace")
    disabled, log.disabled = log.disabled, True
    is_fx_tracing()
    log.disabled = disabled
