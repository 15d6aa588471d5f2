"""An exponential moving average of the weights (`MASK_RCNN_EXT.EMA`)."""

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..errors import UserError
from ..modeling.building import unwrap

__all__ = ["WeightAverage"]

_Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage(HookBase):
    """Averages the weights after each iteration.

    Update n = 0, 1, 2, ... is average = d * average + (1 - d) * weights, with
    d = min(decay, (1 + n) / (10 + n)); the first one copies the weights. The running statistics of
    batch normalisation are averaged in the same way, and buffers of integers are copied.

    A checkpoint has the average as its `model`: these are the weights that are evaluated and used
    for predictions. The weights that training continues with are in the state of this hook.

    Attributes:
        model: a copy of the model with the averaged weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Copy the model.

        Args:
            model: the model that is trained.
            decay: the largest decay, in [0, 1).

        Raises:
            UserError: the decay is out of range.
        """
        if not 0 <= decay < 1:
            raise UserError(
                f"MASK_RCNN_EXT.EMA.DECAY: expected 0 or more and less than 1, got {decay}; the "
                "usual values are 0.99 to 0.9999"
            )
        self.decay, self._trained = decay, unwrap(model)
        self._average = AveragedModel(self._trained, multi_avg_fn=self._update, use_buffers=True)
        self.model: nn.Module = self._average.module

    def _update(self, averages: _Tensors, values: _Tensors, updates: Tensor | int) -> None:
        decay = min(self.decay, (1 + int(updates)) / (10 + int(updates)))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, values, 1 - decay)
        else:
            torch._foreach_copy_(averages, values)

    def before_train(self) -> None:
        """Start from the weights that were loaded, unless a run with an average is resumed."""
        if self._average.n_averaged == 0:
            self.model.load_state_dict(self._trained.state_dict())

    @torch.no_grad()
    def after_step(self) -> None:
        """Take the weights of this iteration into the average."""
        self._average.update_parameters(self._trained)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that are trained, and the number of updates."""
        return {
            "weights": self._trained.state_dict(),
            "updates": int(self._average.n_averaged),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the average from the model, which the checkpoint was loaded into, and its weights.

        The model has the average then, since a checkpoint has it as `model`.
        """
        self.model.load_state_dict(self._trained.state_dict())
        self._trained.load_state_dict(state["weights"])
        self._average.n_averaged.fill_(int(state["updates"]))
