"""`MASK_RCNN_EXT.FREEZE`: frozen parts do not change, the others learn, names stay."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d, NaiveSyncBatchNorm
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from faithful import batch
from support import SMALL, TINY_CONFIG
from torch import nn

from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.engine.optimizer import build_optimizer
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.modeling.freezing import find_largest_modules, freeze_parts, trace_parameters


def small_cfg(*keys: str):
    fixed = ["MODEL.DEVICE", "cpu", "MODEL.MASK_ON", "False", "SOLVER.AMP.ENABLED", "False"]
    return load_config(TINY_CONFIG, [*SMALL, *fixed, *keys])


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    with EventStorage():
        sum(model.train()(batch(classes=(1, 2))).values()).backward()
    optimizer.step()


def copied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_frozen_parts_stay_and_the_others_learn(optimizer):
    parts = ["backbone", "roi_heads.box_head.conv1"]
    cfg = small_cfg("MASK_RCNN_EXT.OPTIMIZER", optimizer)
    model = freeze_parts(build_model(cfg), parts)
    before = copied(model.state_dict())
    step(model, build_optimizer(cfg, model))

    def is_frozen(name: str) -> bool:
        return name.startswith(("backbone.", "roi_heads.box_head.conv1."))

    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == is_frozen(name), name
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == is_frozen(name), name
    assert any(name.endswith("num_batches_tracked") for name in before if is_frozen(name))


def test_the_trainer_freezes_and_checkpoints_fit_either_model(tmp_path, monkeypatch):
    """Names, tensors and the output in testing are the same as in the plain model."""
    cfg = small_cfg("MASK_RCNN_EXT.FREEZE", "['backbone.bottom_up']", "OUTPUT_DIR", str(tmp_path))
    plain = build_model(cfg)
    for name, buffer in plain.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    torch.save({"model": plain.state_dict()}, tmp_path / "weights.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("none",), ()
    monkeypatch.setattr(Trainer, "build_train_loader", lambda *_: None)
    monkeypatch.setattr(Trainer, "require_ready", lambda *_: None)
    trainer = Trainer(cfg)
    trainer.checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[])
    state, own = trainer.model.state_dict(), plain.state_dict()
    assert state.keys() == own.keys()
    assert all(torch.equal(state[name], own[name]) for name in own)
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    frozen = {id(p) for p in trainer.model.backbone.bottom_up.parameters()}
    assert frozen
    assert not trained & frozen
    assert trained == {id(p) for p in trainer.model.parameters()} - frozen
    image = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        expected = plain.backbone.bottom_up.eval()(image)
        trained_mode = trainer.model.backbone.bottom_up.train()(image)
    assert all(torch.equal(trained_mode[name], expected[name]) for name in expected)
    plain.load_state_dict(state)


class Activated(nn.BatchNorm2d):
    """As timm's `BatchNormAct2d`: batch normalisation and an activation."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).relu()


@pytest.mark.parametrize(
    ("norm", "converted"),
    [
        (nn.BatchNorm2d(2), True),
        (nn.SyncBatchNorm(2), True),
        (NaiveSyncBatchNorm(2), True),
        (Activated(2), False),
        (nn.BatchNorm2d(2, track_running_stats=False), False),
    ],
    ids=["BN", "SyncBN", "NaiveSyncBN", "with activation", "no statistics"],
)
def test_batch_normalisation(norm, converted):
    model = nn.Sequential(nn.Sequential(norm), nn.Conv2d(2, 1, 1))
    inputs = torch.randn((2, 2, 3, 3), generator=torch.Generator().manual_seed(0)) + 1
    with torch.no_grad():
        expected = norm.eval()(inputs)
    before = copied(norm.state_dict())
    freeze_parts(model, ["0.0"]).train()  # the layer itself, by its whole name
    frozen = model[0][0]
    assert isinstance(frozen, FrozenBatchNorm2d) == converted
    torch.testing.assert_close(frozen(inputs), expected, rtol=0, atol=1e-6)
    after = frozen.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["backbone", "bakbone.stem"], "no part 'bakbone.stem'; did you mean 'backbone.stem'"),
        (["backbone.res"], "did you mean 'backbone.res2'"),  # not the beginning of a word
        (["xyz"], "Expected names such as backbone, head, or"),
        ([""], "no part ''"),
        ([3], "no part '3'"),
        (["backbone", "head"], "leaves nothing to train"),
    ],
    ids=str,
)
def test_names(parts, message):
    layers = nn.ModuleDict({"stem": nn.Conv2d(1, 1, 1), "res2": nn.Conv2d(1, 1, 1)})
    model = nn.ModuleDict({"backbone": layers, "head": nn.Linear(1, 1)})
    with pytest.raises(UserError, match=message):
        freeze_parts(model, parts)


def test_a_name_is_a_whole_name():
    model = nn.ModuleDict({name: nn.Linear(1, 1) for name in ("res2", "res20", "head")})
    freeze_parts(model, ["res2"])
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {
        f"{name}.{part}" for name in ("res20", "head") for part in ("weight", "bias")
    }


def test_parameters_that_features_depend_on():
    """res2 <- stem; p2 <- res2 and the lateral and output convolutions of all coarser levels."""
    backbone = build_model(small_cfg()).backbone
    before = copied(backbone.state_dict())
    read = trace_parameters(backbone, ["p5"], 3)
    assert find_largest_modules(backbone, read, "backbone") == [
        "backbone.fpn_lateral5",
        "backbone.fpn_output5",
        "backbone.bottom_up",
    ]
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert backbone.training
    everything = trace_parameters(backbone, ["p2", "p3", "p4", "p5"], 3)
    assert find_largest_modules(backbone, everything, "backbone") == ["backbone"]
    for parameter in backbone.fpn_output2.parameters():
        parameter.requires_grad_(False)
    assert trace_parameters(backbone, ["p5"], 3) - read == {
        name for name in everything if name.startswith("fpn_output2.")
    }
