"""The moving average of the weights: its formula, and what a checkpoint holds of it."""

import pytest
import torch

from mask_rcnn_ext import UserError
from mask_rcnn_ext.engine.weight_average import WeightAverage


def test_the_average_follows_its_formula():
    """Batch statistics are averaged like weights; the counter of batches is copied."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    hook = WeightAverage(model, 0.4)
    expected: dict[str, torch.Tensor] = {}
    for update in range(5):
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value))
            model(torch.randn(4, 2))
        hook.after_step()
        decay = min(0.4, (1 + update) / (10 + update)) if update else 0.0
        for name, value in model.state_dict().items():
            before = expected.get(name, value)
            average = decay * before + (1 - decay) * value
            expected[name] = average if value.is_floating_point() else value.clone()
    for name, value in hook.model.state_dict().items():
        torch.testing.assert_close(value, expected[name])
    assert not torch.equal(hook.model[0].weight, model[0].weight)


def test_a_checkpoint_has_the_average_as_the_model():
    """What `load_state_dict` finds: the average in the model, and the weights in the state."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 3)
    hook = WeightAverage(model, 0.9)
    for _ in range(3):
        torch.nn.init.normal_(model.weight)
        hook.after_step()
    resumed = torch.nn.Linear(2, 3)
    resumed.load_state_dict(hook.model.state_dict())
    other = WeightAverage(resumed, 0.9)
    other.load_state_dict(hook.state_dict())
    other.before_train()
    for value, name in ((model.weight, "weight"), (model.bias, "bias")):
        assert torch.equal(getattr(resumed, name), value)
        assert torch.equal(getattr(other.model, name), getattr(hook.model, name))
    assert other.state_dict()["updates"] == 3


def test_a_run_without_a_state_starts_from_its_weights():
    model = torch.nn.Linear(2, 3)
    hook = WeightAverage(model, 0.9)
    torch.nn.init.normal_(model.weight)  # weights that are loaded later
    hook.before_train()
    assert torch.equal(hook.model.weight, model.weight)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_decays_out_of_range(decay):
    with pytest.raises(UserError, match=r"EMA\.DECAY: expected 0 or more"):
        WeightAverage(torch.nn.Linear(1, 1), decay)
