"""Folds batch normalisation into the convolution before it, for prediction."""

from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.layers.batch_norm import NaiveSyncBatchNorm
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_weights

__all__ = ["fold_norms"]

_NORMS = (FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm, NaiveSyncBatchNorm)


@torch.no_grad()
def fold_norms(model: nn.Module) -> int:
    """Fold each batch norm of detectron2's `Conv2d` into the weights, in place.

    In eval mode the model gives the same results as before, up to the rounding of float32; the new
    weights are computed in float64. The model is then for prediction only: its state-dict keys
    change and it cannot be trained. Norms of other kinds, without running statistics, or outside a
    `Conv2d` are left as they are.

    Returns:
        The number of norms that were folded.
    """
    folded = 0
    for conv in model.modules():
        norm: Any = conv.norm if type(conv) is Conv2d else None
        if isinstance(conv, Conv2d) and type(norm) in _NORMS and norm.running_mean is not None:
            _fold(conv, norm)
            folded += 1
    return folded


def _fold(conv: Conv2d, norm: Any) -> None:
    own = conv.weight, conv.bias, norm.running_mean, norm.running_var
    weight, bias, mean, variance = map(_to_float64, own)
    scale, shift = _to_float64(norm.weight), _to_float64(norm.bias)
    fused = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)
    dtype = conv.weight.dtype
    conv.weight, conv.bias = (nn.Parameter(t.to(dtype), requires_grad=False) for t in fused)
    conv.norm = None


def _to_float64(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.double()
