"""Which evaluation is the best, what is saved of it, and when a run ends early."""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch

from mask_rcnn_ext import UserError, get_cfg
from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.engine import best_model
from mask_rcnn_ext.engine.best_model import (
    BestModel,
    EarlyStop,
    choose_metric,
    is_better,
    require_fitting_selection,
)


@pytest.fixture
def said(monkeypatch):
    """The lines that the hook logs."""
    lines = []
    for level in ("info", "warning"):
        monkeypatch.setattr(best_model.logger, level, lambda text, *args: lines.append(text % args))
    return lines


def make_hook(folder, *, metric="", patience=0, start=0, max_iter=100, tests=("own_val",)):
    """Return a hook of a run in `folder`, as after its `before_train`."""
    cfg = get_cfg()
    cfg.DATASETS.TEST = tests
    cfg.MASK_RCNN_EXT.BEST_CHECKPOINT.METRIC = metric
    cfg.MASK_RCNN_EXT.EARLY_STOPPING.PATIENCE = patience
    model = torch.nn.Linear(1, 1)
    hook = BestModel(cfg, Checkpointer(model, str(folder), class_names=["cat"]))
    hook.trainer = SimpleNamespace(start_iter=start, iter=start, max_iter=max_iter)
    hook.before_train()
    return hook


def take(hook, value, iteration, metric="AP"):
    """Show an evaluation to the hook, of weights that are its iteration."""
    torch.nn.init.constant_(hook.checkpointer.model.weight, float(iteration))
    hook.trainer.iter = iteration
    hook.take({"segm": {metric: value, "AP50": 1.0}}, iteration)


def read(folder):
    content = torch.load(folder / "model_best.pth", weights_only=True)
    return content["best"], float(content["model"]["weight"]), content


@pytest.mark.parametrize(
    ("wanted", "names", "found"),
    [
        ("", ["bbox/AP", "segm/AP"], "segm/AP"),
        ("", ["bbox/AP", "keypoints/AP"], "keypoints/AP"),
        ("", ["bbox/AP", "bbox/AP50"], "bbox/AP"),
        ("", ["box_proposals/AR@1000"], "box_proposals/AR@1000"),
        ("", ["a/bbox/AP", "a/segm/AP", "b/segm/AP"], "a/segm/AP"),
        ("segm/AP50", ["a/segm/AP50", "b/segm/AP50"], "a/segm/AP50"),
        ("b/segm/AP50", ["a/segm/AP50", "b/segm/AP50"], "b/segm/AP50"),
        ("segm/AP5O", ["segm/AP50"], None),
        ("", ["sem_seg/mIoU"], None),
    ],
)
def test_the_metric(wanted, names, found):
    assert choose_metric(wanted, dict.fromkeys(names, 1.0), ["a", "b"]) == found


@pytest.mark.parametrize(
    ("metric", "better"),
    [("segm/AP", 2), ("validation_loss/loss_mask", 1), ("a/validation_loss/total_loss", 1),
     ("errors/leak", 1), ("overlap/AP_heavy", 2)],
)  # fmt: skip
def test_losses_and_errors_should_be_low(metric, better):
    assert is_better(metric, better, 3 - better)
    assert not is_better(metric, 3 - better, better)
    assert not is_better(metric, 1.0, 1.0)


def test_the_best_is_saved_alone_and_the_end_says_so(tmp_path, said):
    hook = make_hook(tmp_path)
    for iteration, value in enumerate([10.0, math.nan, 30.5, 30.5, 20.0]):
        take(hook, value, iteration)
    record, weight, content = read(tmp_path)
    assert record == {"metric": "segm/AP", "value": 30.5, "iteration": 2}
    assert weight == 2.0
    assert content.keys() == {"model", "class_names", "iteration", "best"}
    assert not (tmp_path / "last_checkpoint").exists()  # `--resume` needs another file
    hook.trainer.iter = 100
    hook.after_train()
    assert said[-1].endswith("model_best.pth: segm/AP 30.5 after 3 iterations.")
    assert sum("undefined" in line for line in said) == 1


def test_without_any_value_nothing_is_saved(tmp_path, said):
    hook = make_hook(tmp_path, metric="segm/APx", patience=1)
    take(hook, 5.0, 0)
    assert "the evaluation has no segm/APx; did you mean 'segm/AP'" in said[-1]
    hook = make_hook(tmp_path, patience=1)
    for iteration in range(5):
        take(hook, math.nan, iteration)
        hook.after_step()
    hook.trainer.iter = 100
    hook.after_train()
    assert "there is no model_best.pth" in said[-1]
    assert not list(tmp_path.iterdir())


def test_a_better_file_is_never_overwritten(tmp_path, said):
    """A resumed run that goes another way than the one that saved the file."""
    hook = make_hook(tmp_path)
    take(hook, 10.0, 0)
    state = hook.state_dict()
    take(hook, 50.0, 1)
    resumed = make_hook(tmp_path, start=1)
    resumed.load_state_dict(state)
    take(resumed, 40.0, 1)
    assert read(tmp_path)[:2] == ({"metric": "segm/AP", "value": 50.0, "iteration": 1}, 1.0)
    assert "stays, since it is better: segm/AP 50 after 2 iterations" in said[-1]
    take(resumed, 51.0, 2)
    assert read(tmp_path)[0]["value"] == 51.0
    other = make_hook(tmp_path, metric="segm/AP50", start=2)  # cannot be compared
    other.load_state_dict(resumed.state_dict())
    take(other, 1.0, 3)
    assert read(tmp_path)[0] == {"metric": "segm/AP50", "value": 1.0, "iteration": 3}


@pytest.mark.parametrize("content", [b"broken", None])
def test_a_file_that_cannot_be_compared_is_replaced(tmp_path, said, content):
    if content:
        (tmp_path / "model_best.pth").write_bytes(content)
    else:
        torch.save({"best": {"metric": "segm/AP"}}, tmp_path / "model_best.pth")
    hook = make_hook(tmp_path, start=1)
    assert said[-1].endswith("A new one will be written.")
    take(hook, 1.0, 1)
    assert read(tmp_path)[0]["value"] == 1.0


def test_a_patience_of_one_evaluation(tmp_path, said):
    hook = make_hook(tmp_path, patience=1)
    take(hook, 5.0, 0)
    hook.after_step()
    take(hook, 5.0, 1)
    with pytest.raises(EarlyStop):
        hook.after_step()
    assert "ends after 2 iterations: segm/AP has not improved in 1 evaluation (" in said[-1]


@pytest.mark.parametrize(
    ("metric", "values", "waited"),
    [
        ("segm/AP", [0.0, 0.0, 0.0, 0.0], 0),  # training has only begun
        ("segm/AP", [0.0, 0.0, 2.0, 0.0, 1.0], 2),
        ("errors/leak", [0.0, 0.0, 0.0], 2),  # perfect, which cannot improve
    ],
)
def test_patience_begins_with_the_first_ap_above_zero(tmp_path, said, metric, values, waited):
    hook = make_hook(tmp_path, metric=metric, patience=len(values))
    task, name = metric.split("/")
    for iteration, value in enumerate(values):
        hook.take({task: {name: value}}, iteration)
    assert hook.state_dict()["waited"] == waited


@pytest.mark.parametrize("resumed", [False, True])
def test_patience_counts_evaluations(tmp_path, said, resumed):
    hook = make_hook(tmp_path, patience=2)
    for iteration, value in enumerate([5.0, 4.0, 6.0, math.nan, 6.0]):
        take(hook, value, iteration)
        hook.after_step()
    if resumed:
        state = hook.state_dict()
        hook = make_hook(tmp_path, patience=2, start=5)
        hook.load_state_dict(state)
    take(hook, 5.9, 5)
    with pytest.raises(EarlyStop):
        hook.after_step()
    assert (hook.trainer.iter, hook.trainer.max_iter) == (6, 6)
    assert "ends after 6 iterations: segm/AP has not improved in 2 evaluations" in said[-1]
    final = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert (float(final["model"]["weight"]), final["iteration"]) == (5.0, 5)
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    again = make_hook(tmp_path, patience=2, start=6)  # resumed after its end
    again.load_state_dict(hook.state_dict())
    stamp = (tmp_path / "model_final.pth").stat().st_mtime_ns
    with pytest.raises(EarlyStop):
        again.before_train()
    assert (tmp_path / "model_final.pth").stat().st_mtime_ns == stamp
    (tmp_path / "last_checkpoint").write_text("model_0000005.pth")  # killed before the last save
    again.trainer = SimpleNamespace(start_iter=6, iter=6, max_iter=100)
    with pytest.raises(EarlyStop):
        again.before_train()
    assert (tmp_path / "model_final.pth").stat().st_mtime_ns != stamp
    again.patience = 3
    again.trainer = SimpleNamespace(start_iter=6, iter=6, max_iter=100)
    again.before_train()


def make_cfg(**best):
    """Return the config of a Mask R-CNN with a test set; `best` are keys of BEST_CHECKPOINT."""
    cfg = get_cfg()
    cfg.MODEL.MASK_ON, cfg.DATASETS.TEST, cfg.TEST.EVAL_PERIOD = True, ("own_val",), 10
    cfg.MASK_RCNN_EXT.BEST_CHECKPOINT.update(best)
    return cfg


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["VALIDATION_LOSS", True, "DATASETS.TEST", ()], "VALIDATION_LOSS needs validation data"),
        (["BEST_CHECKPOINT.ENABLED", True, "DATASETS.TEST", ()], "BEST_CHECKPOINT needs"),
        (["EARLY_STOPPING.PATIENCE", 3, "TEST.EVAL_PERIOD", 0], "TEST.EVAL_PERIOD 0: expected"),
        (["EARLY_STOPPING.PATIENCE", -1], "PATIENCE is -1"),
        (["BEST_CHECKPOINT.METRIC", "segm/ap50"], "got 'segm/ap50'; did you mean 'segm/AP50'?"),
        (["BEST_CHECKPOINT.METRIC", "AP"], "expected one of segm/AP, .*got 'AP'"),
        (["BEST_CHECKPOINT.METRIC", "keypoints/AP"], "got 'keypoints/AP'"),
        (["BEST_CHECKPOINT.METRIC", "validation_loss/loss_mask"], "VALIDATION_LOSS True"),
        (["EMA.ENABLED", True, "TEST.PRECISE_BN.ENABLED", True], "Disable one of them"),
    ],
)
def test_keys_that_do_not_go_together(keys, told):
    cfg = make_cfg()
    require_fitting_selection(cfg)
    if keys[0] == "BEST_CHECKPOINT.METRIC":
        keys = ["BEST_CHECKPOINT.ENABLED", True, *keys]
    for key, value in zip(keys[::2], keys[1::2], strict=True):
        known = key.startswith(("DATASETS", "TEST"))
        cfg.merge_from_list([key if known else f"MASK_RCNN_EXT.{key}", value])
    with pytest.raises(UserError, match=told):
        require_fitting_selection(cfg)


@pytest.mark.parametrize("metric", ["segm/AP-cat", "own_val/bbox/AP75", "custom/score"])
def test_metrics_that_a_run_may_have(metric):
    cfg = make_cfg(ENABLED=True, METRIC=metric)
    require_fitting_selection(cfg)  # raises nothing
    name = metric.removeprefix("own_val/")
    assert choose_metric(metric, {name: 1.0, "own_val/bbox/AP75": 1.0}, cfg.DATASETS.TEST)


def test_metrics_of_an_rpn_alone():
    cfg = make_cfg(ENABLED=True, METRIC="box_proposals/ARs@100")
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    require_fitting_selection(cfg)  # raises nothing
    for metric in ("bbox/AP", "bbox/AP-cat", "segm/AP", "box_proposals/AR@10"):
        cfg.MASK_RCNN_EXT.BEST_CHECKPOINT.METRIC = metric
        with pytest.raises(UserError, match=f"one of box_proposals/AR@100, .*got '{metric}'"):
            require_fitting_selection(cfg)


@pytest.mark.parametrize(
    ("classes", "metric", "told"),
    [
        (["cat", "dog"], "segm/AP-cat", None),
        (["cat", "dog"], "segm/AP-dgo", "got 'segm/AP-dgo'; did you mean 'segm/AP-dog'?"),
        (["cat"], "segm/AP-cat", "expected one of segm/AP, .*, bbox/APl, or a loss"),
    ],
)
def test_the_ap_of_a_class_is_of_one_in_the_data(classes, metric, told):
    """Of one class alone, COCO's evaluation has no AP under its name."""
    cfg = make_cfg(ENABLED=True, METRIC=metric)
    cfg.MASK_RCNN_EXT.CLASS_NAMES = classes
    with contextlib.nullcontext() if told is None else pytest.raises(UserError, match=told):
        require_fitting_selection(cfg)


@pytest.mark.parametrize(("period", "late"), [(1000, False), (13_333, False), (13_334, True)])
def test_a_patience_that_cannot_end_the_run_is_said(period, late, tmp_path, said):
    """The third evaluation is the first that can end a run, with a patience of 2."""
    cfg = get_cfg()
    cfg.TEST.EVAL_PERIOD, cfg.MASK_RCNN_EXT.EARLY_STOPPING.PATIENCE = period, 2
    cfg.SOLVER.MAX_ITER = 40_000
    BestModel(cfg, Checkpointer(torch.nn.Linear(1, 1), str(tmp_path)))
    assert [line for line in said if "PATIENCE 2 cannot end this run" in line] == said
    assert len(said) == late
