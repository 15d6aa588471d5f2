"""Computes linear layers and 1 x 1 convolutions faster on processors of AMD with AVX-512.

There PyTorch's float32 products come from MKL, which uses AVX-512 on processors of Intel only.
oneDNN uses it on both, and needs about half of the time. PyTorch takes oneDNN for a dilated
convolution, and for a 1 x 1 convolution without dilation only if it has several threads. A kernel
of one cell has nothing to dilate, so a dilation of 2 changes only the library.
"""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import Tensor, nn

from .precision import read_processor

__all__ = ["ConvolvedLinear", "has_slow_products", "use_onednn_products"]

_FEWEST = 100  # rows, and input and output features; MKL is as fast for smaller products
_DILATION = (2, 2)  # for a kernel of one cell: see above


@functools.cache
def has_slow_products() -> bool:
    """Return whether MKL computes products on an AMD processor with AVX-512; False off Linux."""
    features = read_processor()
    of_amd = "AuthenticAMD" in features and "avx512f" in features
    return of_amd and torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


class ConvolvedLinear(nn.Linear):
    """`nn.Linear` for prediction, whose large float32 products are convolutions of one cell.

    The outputs are those of `nn.Linear` up to the rounding of float32.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Map (R, `in_features`) to (R, `out_features`)."""
        is_large = input.ndim == 2 and min(len(input), *self.weight.shape) >= _FEWEST
        is_float32 = input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not (is_large and is_float32 and input.device.type == "cpu"):
            return super().forward(input)
        # One image of 1 x R cells. Its maps and the weights are in the channels_last format.
        maps = input.reshape(1, 1, *input.shape).permute(0, 3, 1, 2)
        weight = self.weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
        found = F.conv2d(maps, weight, self.bias, dilation=_DILATION)
        return found.permute(0, 2, 3, 1).reshape(len(input), -1)


def use_onednn_products(model: nn.Module) -> None:
    """Let a model for prediction compute in oneDNN, in place, where MKL is slow.

    Every `nn.Linear` becomes a `ConvolvedLinear`, and every 1 x 1 convolution gets a dilation.
    Layers of other classes are left as they are. The outputs are equal up to the rounding of
    float32.
    """
    if not has_slow_products():
        return
    module: Any
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = ConvolvedLinear
        elif type(module) in (nn.Conv2d, Conv2d):
            _take_onednn(module)


def _take_onednn(convolution: nn.Conv2d) -> None:
    if convolution.kernel_size == (1, 1) and convolution.weight.device.type == "cpu":
        convolution.dilation = _DILATION
