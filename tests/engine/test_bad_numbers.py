"""NaN and infinity end a training with their origin, before they reach a weight."""

import re
from types import SimpleNamespace

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import EventStorage
from small_runs import read_error, read_weights, train_small, write_data
from support import SMALL, TINY_CONFIG
from torch import nn

from mask_rcnn_ext import load_config
from mask_rcnn_ext.engine.bad_numbers import CheckGradients, _find_bad_weight, _find_origin
from mask_rcnn_ext.engine.loop import AutocastTrainer
from mask_rcnn_ext.modeling.building import build_model


class Root(nn.Module):
    """A square root: at 0, times 0, the loss is finite and its gradient is NaN."""

    def __init__(self, start=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([start, 1.0]))
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, batch):
        return {"loss": (self.weight.sqrt() * batch[0]["image"]).sum()}


def make_loop(model, image, kind=SimpleTrainer, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = kind(model, [[{"image": torch.tensor(image)}]] * 3, optimizer, **options)
    loop.register_hooks([CheckGradients()])
    return loop


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_a_gradient_with_nan_reaches_no_weight(kind):
    options = {} if kind == "float32" else {"device_type": "cpu", "dtype": torch.bfloat16}
    model = Root()
    loop = make_loop(model, [0.0, 1.0], **({"kind": AutocastTrainer, **options} if options else {}))
    with EventStorage(), pytest.raises(FloatingPointError, match="gradient"):
        loop.run_step()
    assert model.weight.tolist() == [0.0, 1.0]
    assert _find_origin(loop, [{"image": torch.zeros(2)}], ["weight"], "") == (
        "the losses are finite, and the gradients of weight are NaN or infinite"
    )


def test_large_finite_gradients_pass():
    model = Root(1.0)
    with EventStorage():
        make_loop(model, [3e38, 1.0]).run_step()
    assert model.weight[0] < -1e37


def test_a_scaled_loss_may_have_infinite_gradients():
    model = Root()
    loop = make_loop(model, [0.0, 1.0])
    loop.grad_scaler = object()
    with EventStorage():
        loop.run_step()  # the scaler would leave this step out
    assert not model.weight.isfinite().all()


class Layers(nn.Module):
    """Two layers; the second divides by zero where its input is zero."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 1, bias=False), Divide()
        self.first.weight.data.fill_(1.0)

    def forward(self, batch):
        found = self.second({"a": [self.first(batch[0]["image"])]})
        return {"loss_box": found.sum(), "loss_mask": found.sum() * 0 + 1}


class Divide(nn.Module):
    def forward(self, maps):
        return 1 / maps["a"][0]


def find(model, *images):
    return _find_origin(
        SimpleNamespace(model=model), [{"image": image} for image in images], [], ""
    )


def test_the_origin_is_named():
    model = Layers()
    assert find(model, torch.ones(1)) == "the losses are finite"
    assert find(model, torch.zeros(1)) == (
        "loss_box is inf, loss_mask is nan, and the first layer with NaN or infinite outputs is "
        "second"
    )
    assert find(model, torch.tensor([float("nan")])) == "an image has NaN or infinite values"
    assert _find_bad_weight(model) is None
    model.first.weight.data.fill_(float("inf"))
    assert _find_bad_weight(model) == "first.weight"
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ((1.0, float("nan")), "said"),  # the loop of a project may take them
        (float("nan"), "said"),
        ({"loss": float("nan"), "other": 1}, "loss is nan"),
        ({"loss": 1.0}, "the losses are finite"),
        (torch.tensor(float("nan")), "total_loss is nan"),
    ],
)
def test_losses_of_other_kinds(losses, said):
    model = nn.Module()
    loop = SimpleNamespace(model=model, compute_losses=lambda batch: losses)
    assert _find_origin(loop, [{"image": torch.ones(1)}], [], "said") == said


def test_a_run_ends_with_a_sentence_and_a_file_that_repeats_it(tmp_path, capsys):
    run, again = tmp_path / "run", tmp_path / "again"
    data = write_data(tmp_path, train=4, val=2)
    keys = [
        "SEED", "3", "SOLVER.MAX_ITER", "8", "SOLVER.CHECKPOINT_PERIOD", "1",
        "SOLVER.WARMUP_ITERS", "0", "SOLVER.BASE_LR", "1e15", "SOLVER.AMP.ENABLED", "False",
    ]  # fmt: skip
    assert train_small(data, run, *keys) == 2
    error = read_error(capsys)
    (kept,) = run.glob("nonfinite_*.pth")
    assert re.match(rf"error: iteration {int(kept.stem[-7:])}: ", error)
    assert f"The weights before this step are finite and in {kept}." in error
    assert "SOLVER.BASE_LR (1e+15) too high" in error
    last = run / (run / "last_checkpoint").read_text()
    assert f"The checkpoint {last} is from before" in error
    for path in run.glob("*.pth"):
        assert all(tensor.isfinite().all() for tensor in read_weights(path).values()), path
    again.mkdir()
    kept.rename(again / kept.name)
    (again / "last_checkpoint").write_text(kept.name)
    assert train_small([*data, "--resume"], again, *keys) == 2
    repeated = read_error(capsys)
    assert (
        repeated.replace(str(again), str(run)).partition("The weights")[0]
        == error.partition("The weights")[0]
    )


def test_weights_that_are_nan_at_the_start_are_named(tmp_path, capsys):
    run, weights = tmp_path / "run", tmp_path / "weights.pth"
    data = write_data(tmp_path, train=2, val=2)
    cfg = load_config(TINY_CONFIG, [*SMALL, "MODEL.DEVICE", "cpu"])
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    state = build_model(cfg).state_dict()
    state["roi_heads.mask_head.predictor.bias"].fill_(float("nan"))
    torch.save({"model": state}, weights)
    assert train_small(data, run, "SOLVER.MAX_ITER", "2", "MODEL.WEIGHTS", str(weights)) == 2
    error = read_error(capsys)
    assert "iteration 0: the weight roi_heads.mask_head.predictor.bias is NaN" in error
    assert f"Start from other weights than {str(weights)!r}" in error
