"""Computes linear layers faster on processors of AMD with AVX-512, with more than one thread.

There PyTorch's float32 products come from MKL, which uses AVX-512 on processors of Intel only. A
convolution of one cell is the same product and comes from oneDNN, which uses it on both: for the
first layer of the box head, 12,544 x 1,024, in about half of the time. PyTorch takes oneDNN for
such a convolution only if it has several threads.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .precision import read_processor

__all__ = ["ConvolvedLinear", "convolve_linear_layers", "has_slow_products"]

_FEWEST = 100  # rows, and input and output features; MKL is as fast for smaller products


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
        if not (is_large and is_float32 and _is_on_threads(input)):
            return super().forward(input)
        # One image of 1 x R cells. Its maps and the weights are in the channels_last format.
        maps = input.reshape(1, 1, *input.shape).permute(0, 3, 1, 2)
        weight = self.weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
        return F.conv2d(maps, weight, self.bias).permute(0, 2, 3, 1).reshape(len(input), -1)


def _is_on_threads(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and torch.get_num_threads() > 1


def convolve_linear_layers(model: nn.Module) -> None:
    """Make every `nn.Linear` of a model a `ConvolvedLinear`, in place, if this is faster here."""
    if has_slow_products():
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = ConvolvedLinear
