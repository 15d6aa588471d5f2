"""The step of training: detectron2's in float32, and one in mixed precision for CPU and GPU."""

import inspect
import time
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, SimpleTrainer
from torch import nn

from ..modeling.precision import get_amp_dtype

__all__ = ["AutocastTrainer", "build_loop", "make_evaluator", "make_loader"]


class AutocastTrainer(SimpleTrainer):
    """`SimpleTrainer` with autocast, on CPU and GPU; float16 also scales the loss.

    detectron2's `AMPTrainer` needs CUDA, and calls what PyTorch has deprecated. Each of the two can
    read the checkpoints of the other.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        device_type: str,
        dtype: torch.dtype,
    ) -> None:
        """Build the loop; `device_type` is "cpu" or "cuda", `dtype` is the dtype of autocast.

        The attribute `autocast` can be set to False for steps in float32.
        """
        super().__init__(model, data_loader, optimizer)
        self.autocast = True
        self.device_type, self.dtype = device_type, dtype
        self.grad_scaler = torch.amp.GradScaler(device_type) if dtype is torch.float16 else None

    def run_step(self) -> None:
        """See :meth:`SimpleTrainer.run_step`."""
        assert self.model.training, "model was changed to eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        loss_dict = self.compute_losses(data)
        losses = sum(loss_dict.values())
        self.optimizer.zero_grad()
        if self.grad_scaler is None:
            losses.backward()
        else:
            self.grad_scaler.scale(losses).backward()
        self.after_backward()
        self._write_metrics(loss_dict, data_time)
        if self.grad_scaler is None:
            self.optimizer.step()
        else:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()

    def compute_losses(self, data: Any) -> Any:
        """Return the losses of a batch, by name."""
        with torch.autocast(self.device_type, dtype=self.dtype, enabled=self.autocast):
            return self.model(data)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of `SimpleTrainer` and of the loss scaler, if there is one."""
        state: dict[str, Any] = super().state_dict()
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; without a scaler in it, start with a new scaler."""
        super().load_state_dict(state_dict)
        if self.grad_scaler is not None and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def build_loop(
    cfg: CfgNode, model: nn.Module, loader: Any, optimizer: torch.optim.Optimizer
) -> SimpleTrainer:
    """Return detectron2's loop for float32, or `AutocastTrainer`.

    Args:
        cfg: the config, see `get_amp_dtype`.
        model: the model to train, perhaps wrapped for distributed training.
        loader: an endless iterable of batches.
        optimizer: the optimizer of the parameters of the model.
    """
    dtype = get_amp_dtype(cfg)
    if dtype is None:
        return SimpleTrainer(model, loader, optimizer)
    device_type = torch.device(cfg.MODEL.DEVICE).type
    return AutocastTrainer(model, loader, optimizer, device_type=device_type, dtype=dtype)


def make_loader(trainer: DefaultTrainer, seed: int) -> Iterable[Any]:
    """Return the training loader of a trainer, whose images come in the order of a seed.

    `build_train_loader` of a subclass may take a config only, as in detectron2.
    """
    cfg = trainer.cfg.clone()
    cfg.defrost()
    cfg.SEED = seed
    cfg.freeze()
    takes_seed = "seed" in inspect.signature(trainer.build_train_loader).parameters
    options = {"seed": seed} if takes_seed else {}
    loader: Iterable[Any] = trainer.build_train_loader(cfg, **options)
    return loader


def make_evaluator(trainer: type[DefaultTrainer], cfg: CfgNode, name: str, folder: str) -> Any:
    """Return the trainer's evaluator of a data set, whose files go to a folder.

    `build_evaluator` of a subclass may take no folder, as in detectron2. It gets the folder as
    `OUTPUT_DIR`, so it does not replace the files of another evaluation.
    """
    try:
        inspect.signature(trainer.build_evaluator).bind(cfg, name, folder)
    except TypeError:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.OUTPUT_DIR = folder
        cfg.freeze()
        return trainer.build_evaluator(cfg, name)
    return trainer.build_evaluator(cfg, name, folder)
