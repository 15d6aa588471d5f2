"""The training loop for a config's precision: detectron2's own, and bfloat16's, also on CPU."""

import time
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer
from torch import nn

from .precision import amp_dtype

__all__ = ["AutocastTrainer", "build_loop"]


class AutocastTrainer(SimpleTrainer):
    """`SimpleTrainer` with autocast and no loss scaling: for bfloat16, also on CPU."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        device_type: str,
        dtype: torch.dtype,
    ) -> None:
        """Build the loop; `device_type` is "cpu" or "cuda", `dtype` the autocast dtype."""
        super().__init__(model, data_loader, optimizer)
        self.device_type, self.dtype = device_type, dtype

    def run_step(self) -> None:
        """See :meth:`SimpleTrainer.run_step`."""
        assert self.model.training, "model was changed to eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with torch.autocast(self.device_type, dtype=self.dtype):
            loss_dict = self.model(data)
        self.optimizer.zero_grad()
        sum(loss_dict.values()).backward()
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        self.optimizer.step()


def build_loop(
    cfg: CfgNode, model: nn.Module, loader: Any, optimizer: torch.optim.Optimizer
) -> SimpleTrainer:
    """Return detectron2's loop for float32 or float16, or the one above for bfloat16.

    Args:
        cfg: the config, see `amp_dtype`.
        model: the model to train, perhaps wrapped for distributed training.
        loader: endless batches.
        optimizer: of the model's parameters.
    """
    dtype = amp_dtype(cfg)
    if dtype is None:
        return SimpleTrainer(model, loader, optimizer)
    if dtype is torch.float16:
        return AMPTrainer(model, loader, optimizer, precision=dtype)
    device_type = torch.device(cfg.MODEL.DEVICE).type
    return AutocastTrainer(model, loader, optimizer, device_type=device_type, dtype=dtype)
