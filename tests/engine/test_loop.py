"""The step in mixed precision: loss scaling, its state, and no deprecated call."""

import itertools
import warnings

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from mask_rcnn_ext.engine.loop import AutocastTrainer


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)
        with torch.no_grad():
            self.linear.weight.fill_(0.5)
            self.linear.bias.fill_(0.0)

    def forward(self, batch):
        assert self.linear(batch).dtype in (torch.float16, torch.bfloat16)
        return {"loss_a": self.linear(batch).float().mean(), "loss_b": self.linear.weight.sum()}


def make(dtype):
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loader = itertools.repeat(torch.ones(2, 4))
    return AutocastTrainer(model, loader, optimizer, device_type="cpu", dtype=dtype)


def set_scale(loop, scale: float) -> None:
    loop.grad_scaler.load_state_dict({**loop.grad_scaler.state_dict(), "scale": scale})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_follows_the_gradient_whatever_the_scale(dtype):
    with warnings.catch_warnings(), EventStorage():
        warnings.simplefilter("error", FutureWarning)
        loop = make(dtype)
        if loop.grad_scaler is not None:  # the first scale is too large here, so it skips a step
            set_scale(loop, 512.0)
        loop.iter = 0
        loop.run_step()
    # d loss_a / d w = 1, d loss_b / d w = 1: 0.5 - 0.5 * 2
    assert torch.equal(loop.model.linear.weight, torch.full((1, 4), -0.5))
    assert torch.equal(loop.model.linear.bias, torch.tensor([-0.5]))


def test_the_state_of_the_scaler_is_kept_and_may_be_absent():
    loop = make(torch.float16)
    loop.iter = 0
    assert loop.grad_scaler.get_scale() == 65536.0
    set_scale(loop, 512.0)
    state = loop.state_dict()
    other = make(torch.float16)
    other.load_state_dict(state)
    assert other.grad_scaler.get_scale() == 512.0
    state.pop("grad_scaler")  # of a run in float32 or bfloat16
    other = make(torch.float16)
    other.load_state_dict(state)
    assert other.grad_scaler.get_scale() == 65536.0
