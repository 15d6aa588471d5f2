"""Two warnings of PyTorch about detectron2's code, that users cannot fix.

detectron2's anchors call `torch.meshgrid` without `indexing`, and its RoI poolers call
`is_fx_tracing`. New versions of PyTorch warn about each of these once in a process. The function
here makes both calls with the warnings hidden, so they are used up and no filter has to stay.
"""

import logging
import warnings

import torch
from detectron2.utils.tracing import is_fx_tracing

__all__ = ["use_up_warnings"]


def use_up_warnings() -> None:
    """Make PyTorch give its two warnings about detectron2 now, where nobody sees them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
        torch.meshgrid(torch.zeros(1), torch.zeros(1))
    log = logging.getLogger("torch.fx._symbolic_trace")
    disabled, log.disabled = log.disabled, True
    is_fx_tracing()
    log.disabled = disabled
