"""What a resumed run takes from its checkpoint and what from its config, and what is refused."""

import json
import shutil

import pytest
import torch
from small_runs import read_error, read_weights, same, train_small, tree, write_data

from mask_rcnn_ext import get_cfg
from mask_rcnn_ext.config import ExtCfgNode
from mask_rcnn_ext.engine import output_folder
from mask_rcnn_ext.engine import run as run_module
from mask_rcnn_ext.engine.metrics import drop_metrics
from mask_rcnn_ext.engine.resuming import get_checkpoint_period

KEYS = [
    "SOLVER.IMS_PER_BATCH", "1", "SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR",
    "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "2",
    "MASK_RCNN_EXT.OPTIMIZER", "AdamW", "SOLVER.WEIGHT_DECAY", "0.05",
]  # fmt: skip


def run(flags, folder, *keys: str) -> int:
    return train_small(flags, folder, *KEYS, *keys)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Four iterations: the flags of the data, and the folder, with a checkpoint after two."""
    root = tmp_path_factory.mktemp("start")
    flags = write_data(root, train=3)
    assert run(flags, root / "out", "SOLVER.MAX_ITER", "4") == 0
    return flags, root / "out"


@pytest.fixture
def half(start, tmp_path):
    """A copy of the folder as if the run had been killed in its fourth iteration."""
    shutil.copytree(start[1], tmp_path / "out")
    (tmp_path / "out/last_checkpoint").write_text("model_0000001.pth")
    (tmp_path / "out/model_final.pth").unlink()
    return start[0], tmp_path / "out"


def optimizer_of(path) -> dict:
    return torch.load(path, weights_only=True)["trainer"]["_trainer"]["optimizer"]


def test_the_config_decides_about_rates_and_decay(half, start, capsys):
    flags, out = half
    changes = ["SOLVER.BASE_LR", "0.00001", "SOLVER.WEIGHT_DECAY", "0.7", "SEED", "5"]
    assert run([*flags, "--resume"], out, "SOLVER.MAX_ITER", "4", *changes) == 0
    said = capsys.readouterr().out
    assert (
        "Changed since the run was started: SEED 1 -> 5, SOLVER.BASE_LR 0.002 -> 1e-05, "
        "SOLVER.WEIGHT_DECAY 0.05 -> 0.7\n" in said
    )
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert [line["lr"] for line in lines if "lr" in line] == [pytest.approx(1e-5)]
    groups = optimizer_of(out / "model_final.pth")["param_groups"]
    assert {group["initial_lr"] for group in groups} == {1e-5}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.7}
    state = torch.load(out / "model_final.pth", weights_only=True)["trainer"]
    assert state["hooks"]["StepSeed"]["seed"] == 5
    assert state["hooks"]["LRScheduler"]["base_lrs"] == [1e-5] * len(groups)
    assert not same(*(read_weights(folder / "model_final.pth") for folder in (out, start[1])))


def test_nothing_changed_gives_the_same_bits_and_no_iteration_twice(half, start, capsys):
    flags, out = half
    assert run([*flags, "--resume"], out, "SOLVER.MAX_ITER", "4") == 0
    assert "Changed since" not in capsys.readouterr().out
    assert same(*(read_weights(folder / "model_final.pth") for folder in (out, start[1])))
    ours, theirs = (optimizer_of(f / "model_final.pth")["param_groups"] for f in (out, start[1]))
    assert ours == theirs
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert len({line["iteration"] for line in lines}) == len(lines)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["MASK_RCNN_EXT.OPTIMIZER", "SGD"], "OPTIMIZER was AdamW and is now SGD"),
        (["MASK_RCNN_EXT.FREEZE", "['backbone']"], "FREEZE was [] and is now ['backbone']"),
        (["MODEL.MASK_ON", "False"], "MODEL.MASK_ON was True and is now False"),
        (["MASK_RCNN_EXT.BACKBONE_LR_FACTOR", "0.1"], "trains other parameters"),
        (["MODEL.ROI_BOX_HEAD.FC_DIM", "16"], "does not fit the model"),
    ],
)
def test_what_may_not_change_is_refused_in_a_sentence(half, capsys, keys, told):
    flags, out = half
    before = tree(out)
    assert run([*flags, "--resume"], out, "SOLVER.MAX_ITER", "4", *keys) == 2
    assert told in read_error(capsys)
    assert tree(out) == before


def test_what_may_not_change_is_told_before_anything_is_read(half, capsys, monkeypatch):
    flags, out = half
    monkeypatch.setattr(run_module, "prepare_data", lambda *args, **kwargs: pytest.fail("read"))
    assert run([*flags, "--resume"], out, "MASK_RCNN_EXT.OPTIMIZER", "SGD") == 2
    assert "OPTIMIZER was AdamW and is now SGD" in read_error(capsys)


def test_another_optimizer_is_refused_without_the_config_of_the_run(half, capsys):
    flags, out = half
    (out / "config.yaml").unlink()
    assert run([*flags, "--resume"], out, "MASK_RCNN_EXT.OPTIMIZER", "SGD") == 2
    assert "trained with AdamW, the config says SGD" in read_error(capsys)


def test_a_run_killed_before_its_final_weights_saves_them(half, start):
    flags, out = half
    (out / "last_checkpoint").write_text("model_0000003.pth")
    assert run([*flags, "--resume"], out, "SOLVER.MAX_ITER", "4") == 0
    assert same(*(read_weights(folder / "model_final.pth") for folder in (out, start[1])))
    assert (out / "last_checkpoint").read_text() == "model_final.pth"


def test_a_lengthened_run_killed_before_its_final_weights_replaces_the_earlier_ones(half, start):
    flags, out = half
    shutil.copy(out / "model_0000001.pth", out / "model_final.pth")  # of two iterations
    (out / "last_checkpoint").write_text("model_0000003.pth")
    assert run([*flags, "--resume"], out, "SOLVER.MAX_ITER", "4") == 0
    assert same(*(read_weights(folder / "model_final.pth") for folder in (out, start[1])))


def test_changed_keys_of_a_project_are_told_too(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(output_folder.logger, "info", lambda text, *args: said.append(text % args))
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.A_PROJECT = ExtCfgNode({"SIZES": (1, 2)})
    (tmp_path / "config.yaml").write_text(cfg.dump())
    output_folder.log_changes(cfg)
    assert said == []
    cfg.A_PROJECT.SIZES = (1, 3)
    output_folder.log_changes(cfg)
    assert said == ["Changed since the run was started: A_PROJECT.SIZES [1, 2] -> [1, 3]"]
    (tmp_path / "config.yaml").unlink()
    output_folder.log_changes(cfg)
    assert len(said) == 1


def test_metrics_of_iterations_that_are_done_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 9}\n{"iteration": 19}\n{"iteration": 2')
    drop_metrics(str(path), 19)
    assert path.read_text() == '{"iteration": 9}\n'
    drop_metrics(str(path), 0)
    assert path.read_text() == ""


@pytest.mark.parametrize(
    ("given", "iterations", "period"),
    [(5000, 90000, 5000), (5000, 10000, 1000), (5000, 300, 100), (700, 800, 700), (7, 800, 7)],
)
def test_short_runs_save_more_often_than_detectron2(given, iterations, period):
    cfg = get_cfg()
    cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.MAX_ITER = given, iterations
    assert get_checkpoint_period(cfg) == period
