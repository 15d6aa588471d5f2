"""Pools the RoIs of an image on several threads of a CPU."""

import functools
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

__all__ = ["ThreadedROILayer"]

_FEWEST = 16  # RoIs for one thread; with fewer, starting a thread costs more than it gains


@functools.cache
def _get_threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="roi_layer")


class ThreadedROILayer(nn.Module):
    """A RoI layer that pools parts of the RoIs at the same time, with equal results.

    torchvision's kernels use one thread on a CPU. Each RoI is pooled independently, so the results
    are the same as from the layer alone, bit for bit. There are as many parts as PyTorch has
    threads.

    The RoIs are not split where gradients are recorded (the gradients of several parts would be
    added up in another order), under autocast, on another device, and in a trace or an export.

    Args:
        layer: maps (N, C, H, W) and RoIs (R, 5) to (R, C, h, w), as the layers of
            `mask_rcnn_ext.layers.roi_layers` and detectron2's do.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """Pool, see `layer` for shapes and units."""
        parts = min(torch.get_num_threads(), len(rois) // _FEWEST) if _can_split(input) else 1
        if parts < 2:
            pooled: Tensor = self.layer(input, rois)
            return pooled
        split = rois.tensor_split(parts)
        pool = functools.partial(self._pool, input)
        return torch.cat(list(_get_threads(parts).map(pool, split)))

    def _pool(self, input: Tensor, rois: Tensor) -> Tensor:
        with torch.no_grad():  # a new thread records gradients even if its parent does not
            pooled: Tensor = self.layer(input, rois)
        return pooled


def _can_split(input: Tensor) -> bool:
    return (
        input.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
    )
