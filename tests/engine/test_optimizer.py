"""The learning rate and the weight decay of every parameter, against values worked out by hand."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer as stock_build_optimizer
from support import SMALL, TINY_CONFIG
from torch import nn

from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.engine.optimizer import build_optimizer, require_fitting_schedule
from mask_rcnn_ext.engine.trainer import Trainer

KEYS = ["SOLVER.BASE_LR", "0.01", "SOLVER.WEIGHT_DECAY", "0.1", "SOLVER.WEIGHT_DECAY_NORM", "0.0"]
CPU = ["MODEL.DEVICE", "cpu"]


def small_model(*, fpn: bool = True) -> nn.Module:
    """A backbone, with or without an FPN on it, and a head."""
    network = nn.ModuleDict({"conv": nn.Conv2d(1, 1, 1), "norm": nn.BatchNorm2d(1)})
    backbone = {"bottom_up": network, "fpn_output2": nn.Conv2d(1, 1, 1)} if fpn else network
    model = nn.Module()
    model.backbone = nn.Module()
    for name, layer in backbone.items():
        model.backbone.add_module(name, layer)
    model.backbone2 = nn.Conv2d(1, 1, 1, bias=False)  # a name that only begins like another
    model.head = nn.Linear(1, 1)
    return model


def settings_of(model: nn.Module, *overrides: str) -> dict[str, tuple[float, float]]:
    """Return {parameter: (learning rate, weight decay)}."""
    optimizer = build_optimizer(load_config(None, [*KEYS, *CPU, *overrides]), model)
    names = {id(value): name for name, value in model.named_parameters()}
    return {
        names[id(value)]: (pytest.approx(group["lr"]), group["weight_decay"])
        for group in optimizer.param_groups
        for value in group["params"]
    }


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_the_backbone_has_its_own_rate_and_the_fpn_does_not(name):
    factor = ["MASK_RCNN_EXT.OPTIMIZER", name, "MASK_RCNN_EXT.BACKBONE_LR_FACTOR", "0.1"]
    assert settings_of(small_model(), *factor) == {
        "backbone.bottom_up.conv.weight": (0.001, 0.1),
        "backbone.bottom_up.conv.bias": (0.001, 0.1),
        "backbone.bottom_up.norm.weight": (0.001, 0.0),
        "backbone.bottom_up.norm.bias": (0.001, 0.0),
        "backbone.fpn_output2.weight": (0.01, 0.1),
        "backbone.fpn_output2.bias": (0.01, 0.1),
        "backbone2.weight": (0.01, 0.1),
        "head.weight": (0.01, 0.1),
        "head.bias": (0.01, 0.1),
    }


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_a_backbone_without_an_fpn_and_the_factor_of_biases(name):
    """The two factors multiply: a bias of the backbone has 0.01 * 0.5 * 2."""
    keys = ["MASK_RCNN_EXT.BACKBONE_LR_FACTOR", "0.5", "SOLVER.BIAS_LR_FACTOR", "2.0"]
    keys += ["SOLVER.WEIGHT_DECAY_BIAS", "0.3", "MASK_RCNN_EXT.OPTIMIZER", name]
    assert settings_of(small_model(fpn=False), *keys) == {
        "backbone.conv.weight": (0.005, 0.1),
        "backbone.conv.bias": (0.01, 0.3),
        "backbone.norm.weight": (0.005, 0.0),
        "backbone.norm.bias": (0.01, 0.3),
        "backbone2.weight": (0.01, 0.1),
        "head.weight": (0.01, 0.1),
        "head.bias": (0.02, 0.3),
    }


def test_frozen_parameters_have_no_group():
    model = small_model()
    model.backbone.bottom_up.requires_grad_(False)
    found = settings_of(model, "MASK_RCNN_EXT.BACKBONE_LR_FACTOR", "0.1")
    assert found
    assert all(rate == 0.01 for rate, _ in found.values())
    assert not any(name.startswith("backbone.bottom_up") for name in found)


def test_by_default_sgd_is_detectron2s():
    model = small_model()
    cfg = load_config(None, [*KEYS, *CPU, "SOLVER.BIAS_LR_FACTOR", "2.0"])
    ours, stock = build_optimizer(cfg, model), stock_build_optimizer(cfg, model)
    assert type(ours) is type(stock)
    assert ours.state_dict() == stock.state_dict()


def test_gradients_are_clipped_as_detectron2_can():
    keys = ["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"]
    assert settings_of(small_model(), *keys)  # they are not clipped
    with pytest.raises(UserError, match=r"CLIP_TYPE: expected value or norm, got 'full_model'"):
        settings_of(small_model(), *keys, "SOLVER.CLIP_GRADIENTS.ENABLED", "True")


@pytest.mark.parametrize("factor", ["1.0", "0.1"])
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["SOLVER.MOMENTUM", "-1.0"], r"refuses it with ValueError: Invalid momentum value: -1\.0"),
        (["SOLVER.MOMENTUM", "0.0", "SOLVER.NESTEROV", "True"], "Nesterov momentum requires"),
    ],
)
def test_numbers_that_pytorch_refuses(keys, message, factor):
    """With a factor this package calls PyTorch, else detectron2 does."""
    keys = [*keys, "MASK_RCNN_EXT.OPTIMIZER", "SGD", "MASK_RCNN_EXT.BACKBONE_LR_FACTOR", factor]
    with pytest.raises(UserError, match=message):
        settings_of(small_model(), *keys)


def test_a_whole_model():
    """A step of the rate 0.1 moves the backbone a tenth as far as a step of the rate 1."""
    base = [*SMALL, *CPU, "MASK_RCNN_EXT.OPTIMIZER", "SGD", "SOLVER.WEIGHT_DECAY", "0.0"]
    base += ["SOLVER.BASE_LR", "0.5"]
    model = build_model(load_config(TINY_CONFIG, base))
    cfg = load_config(TINY_CONFIG, [*base, "MASK_RCNN_EXT.BACKBONE_LR_FACTOR", "0.1"])
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    build_optimizer(cfg, model).step()
    for name, value in model.named_parameters():
        step = 0.05 if name.startswith("backbone.bottom_up.") else 0.5
        torch.testing.assert_close(before[name] - value, torch.full_like(value, step))


@pytest.mark.parametrize(
    ("factor", "model", "message"),
    [
        (
            "0.0",
            small_model(),
            r"above 0, such as 0\.1, got 0\.0\. To keep .*MASK_RCNN_EXT\.FREEZE",
        ),
        ("-1.0", small_model(), r"got -1\.0"),
        ("0.1", nn.Linear(1, 1), r"got 0\.1, and the model has no backbone"),
    ],
    ids=["zero", "negative", "no backbone"],
)
def test_factors_that_cannot_be_used(factor, model, message):
    with pytest.raises(UserError, match=message):
        settings_of(model, "MASK_RCNN_EXT.BACKBONE_LR_FACTOR", factor)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["SOLVER.BASE_LR", "0.0"], "got 0 and 0"),
        (["SOLVER.BASE_LR", "0.1", "SOLVER.BASE_LR_END", "0.2"], r"got 0\.1 and 0\.2"),
        (["SOLVER.BASE_LR", "-0.1"], r"SOLVER\.BASE_LR: expected a positive number, got -0\.1"),
        (["SOLVER.MAX_ITER", "0"], r"SOLVER\.MAX_ITER: expected 1 or more iterations, got 0"),
    ],
)
def test_schedules_that_cannot_be_used(keys, message):
    cfg = load_config(None, ["SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"])
    require_fitting_schedule(cfg)
    cfg.merge_from_list(keys)
    with pytest.raises(UserError, match=message):
        require_fitting_schedule(cfg)


@pytest.mark.parametrize("steps", [(), (1,), (1, 5, 9), (3, 9, 11, 11), (2.0, 5.0)])
def test_steps_that_detectron2_takes(steps):
    cfg = load_config(None, ["SOLVER.MAX_ITER", "10", "SOLVER.STEPS", str(steps)])
    require_fitting_schedule(cfg)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    Trainer.build_lr_scheduler(cfg, optimizer)  # raises nothing


@pytest.mark.parametrize("steps", [(2, 1), (1, 1), (0,), (5, 10), ("a",), (5.5,), (True,)])
def test_steps_that_it_does_not_take(steps):
    cfg = load_config(None, ["SOLVER.MAX_ITER", "10", "SOLVER.STEPS", str(steps)])
    with pytest.raises(UserError, match=r"to less than SOLVER\.MAX_ITER 10.* got \("):
        require_fitting_schedule(cfg)
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"  # which has no steps
    require_fitting_schedule(cfg)


def test_only_the_cosine_divides_by_the_rate():
    cfg = load_config(None, ["SOLVER.BASE_LR", "0.0"])
    require_fitting_schedule(cfg)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0)
    assert Trainer.build_lr_scheduler(cfg, optimizer).get_last_lr() == [0.0]


def test_the_reference_of_a_scaled_batch_divides_it():
    cfg = load_config(None)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE = 16, 8
    require_fitting_schedule(cfg)
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 7
    with pytest.raises(UserError, match=r"divides the 16 images .* or 0, got 7"):
        require_fitting_schedule(cfg)
