"""Training with validation losses, a best model, an average of the weights and an early end.

All of it survives a stop: a resumed run has what a run without a break has, to the bit.
"""

import json
import math
import os
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from detectron2.utils.events import get_event_storage
from small_runs import (
    read_error,
    read_results,
    read_weights,
    same,
    start_fork,
    train_small,
    write_data,
)

from mask_rcnn_ext import get_cfg
from mask_rcnn_ext.engine import trainer
from mask_rcnn_ext.engine.hooks import RunRecord, StepSeed

KEYS = [
    "SOLVER.IMS_PER_BATCH", "1", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "2",
    "SOLVER.MAX_ITER", "6",
]  # fmt: skip
LOSS = ["MASK_RCNN_EXT.VALIDATION_LOSS", "True"]
ALL = [
    *LOSS, "MASK_RCNN_EXT.BEST_CHECKPOINT.ENABLED", "True", "MASK_RCNN_EXT.EMA.ENABLED", "True",
    "MASK_RCNN_EXT.EARLY_STOPPING.PATIENCE", "2",
]  # fmt: skip
PATIENT = [*ALL, "SOLVER.MAX_ITER", "14", "MASK_RCNN_EXT.VALIDATION_LOSS", "False"]
# The mask AP that evaluations give, by iteration. Before the third there is one without a value.
SCRIPT = {1: 20.0, 3: 10.0, 5: math.nan, 7: 30.0, 9: 5.0, 11: 6.0, 12: 6.0, 13: 7.0}


def run(flags, folder, *keys: str) -> int:
    return train_small(flags, folder, *KEYS, *keys)


def read_metrics(folder, name: str) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {line["iteration"]: line[name] for line in lines if name in line}


def read_hooks(path) -> dict:
    return torch.load(path, weights_only=True)["trainer"]["hooks"]


def assert_same_end(out, expected, updates: int) -> None:
    """Assert that two runs have ended with the same bits, after so many updates of the average."""
    for name in ("model_final.pth", "model_best.pth"):
        assert same(read_weights(out / name), read_weights(expected / name)), name
    ours, theirs = (read_hooks(folder / "model_final.pth") for folder in (out, expected))
    assert ours["BestModel"] == theirs["BestModel"]
    assert ours["WeightAverage"]["updates"] == theirs["WeightAverage"]["updates"] == updates
    assert same(*(hooks["WeightAverage"]["weights"] for hooks in (ours, theirs)))


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"), train=3, val=2)


def give_scripted(cfg, model):
    """Return the mask AP of `SCRIPT`, in place of an evaluation."""
    return {"segm": {"AP": SCRIPT.get(get_event_storage().iter, 0.0)}}


@pytest.fixture
def script(monkeypatch):
    """Let each evaluation give the mask AP of `SCRIPT`."""
    monkeypatch.setattr(trainer.Trainer, "test", staticmethod(give_scripted))


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """Six iterations with all keys; the loss decides which model is the best."""
    torch.set_num_threads(1)  # this fixture comes before the one that does it for each test
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run(flags, out, *ALL, *METRIC) == 0
    return out


METRIC = ["MASK_RCNN_EXT.BEST_CHECKPOINT.METRIC", "validation_loss/total_loss"]


def test_training_itself_does_not_change(flags, whole, tmp_path):
    assert run(flags, tmp_path / "plain", "TEST.EVAL_PERIOD", "0") == 0
    plain = read_weights(tmp_path / "plain/model_final.pth")
    hooks = read_hooks(whole / "model_final.pth")
    assert same(hooks["WeightAverage"]["weights"], plain)
    assert not same(read_weights(whole / "model_final.pth"), plain)
    own = {"WeightAverage", "BestModel"}
    assert not own & read_hooks(tmp_path / "plain/model_final.pth").keys()
    assert not (tmp_path / "plain/model_best.pth").exists()


def test_what_a_run_leaves(whole):
    losses = read_metrics(whole, "validation_loss/total_loss")
    parts = [read_metrics(whole, f"validation_loss/loss_{part}") for part in
             ("cls", "box_reg", "mask", "rpn_cls", "rpn_loc")]  # fmt: skip
    assert losses[3] == pytest.approx(sum(part[3] for part in parts))
    best = min(losses, key=losses.get)  # which one depends on the processor
    results = read_results(whole)
    assert results["validation_loss"]["total_loss"] == losses[6]
    last, name = {1: (1, "0000001"), 3: (3, "0000003"), 6: (5, "final")}[best]
    record = {"metric": "validation_loss/total_loss", "value": losses[best], "iteration": last}
    assert results["run"]["best"] == record
    content = torch.load(whole / "model_best.pth", weights_only=True)
    assert content["best"] == record
    assert same(content["model"], read_weights(whole / f"model_{name}.pth"))  # both are averages


@pytest.mark.parametrize("moment", ["killed before the evaluation", "stopped in the evaluation"])
def test_a_resumed_run_is_the_same_to_the_bit(flags, whole, tmp_path, monkeypatch, moment):
    out = tmp_path / "out"
    if moment.startswith("killed"):  # its files are from later than its last checkpoint
        shutil.copytree(whole, out)
        (out / "last_checkpoint").write_text("model_0000003.pth")
        (out / "model_final.pth").unlink()
    else:
        test = trainer.Trainer.test

        def stop(cfg, model):
            if get_event_storage().iter == 3:
                signal.raise_signal(signal.SIGINT)
            return test(cfg, model)

        monkeypatch.setattr(sys, "argv", ["train_net.py"])
        with monkeypatch.context() as patch:
            patch.setattr(trainer.Trainer, "test", staticmethod(stop))
            assert run(flags, out, *ALL, *METRIC) == 130
        assert (out / "last_checkpoint").read_text() == "model_0000003.pth"
    assert run([*flags, "--resume"], out, *ALL, *METRIC) == 0
    assert_same_end(out, whole, updates=6)
    for name in ("validation_loss/total_loss", "segm/AP"):
        assert read_metrics(out, name)[6] == read_metrics(whole, name)[6]
    ours, theirs = read_results(out), read_results(whole)
    assert ours["run"]["best"] == theirs["run"]["best"]
    assert ours["validation_loss"] == theirs["validation_loss"]


def test_a_run_without_progress_ends_as_a_finished_one(flags, tmp_path, script, capsys):
    out, stops = tmp_path / "out", ("", "model_0000011.pth", "model_final.pth")
    for last in stops:
        if last:  # killed after this checkpoint; the last one is of a run that has ended
            (out / "last_checkpoint").write_text(last)
            (out / "results.json").unlink()
        assert run([*flags, *(["--resume"] if last else [])], out, *PATIENT) == 0
        said = capsys.readouterr().out
        told = "Training ends after 12 iterations: segm/AP has not improved in 2 evaluations"
        assert said.count(told) == 1
        assert said.splitlines()[-1].endswith("model_best.pth: segm/AP 30 after 8 iterations.")
        assert (out / "last_checkpoint").read_text() == "model_final.pth"
        assert not (out / "model_0000013.pth").exists()
        results = read_results(out)
        assert results["segm"] == {"AP": 6.0}
        assert results["run"]["best"] == {"metric": "segm/AP", "value": 30.0, "iteration": 7}
        hooks = read_hooks(out / "model_final.pth")
        assert hooks["WeightAverage"]["updates"] == 12
        assert hooks["BestModel"]["waited"] == 2
        assert same(read_weights(out / "model_final.pth"), read_weights(out / "model_0000011.pth"))


@pytest.fixture(scope="module")
def undisturbed(flags, tmp_path_factory):
    """The folder of a run that ends early, after 12 of 14 iterations; the best is after 8."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "test", staticmethod(give_scripted))
        assert run(flags, out, *PATIENT) == 0
    return out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_is_resumed_to_the_bit(flags, undisturbed, tmp_path, script, number):
    """Between two evaluations without progress, when the weights of the best one are in a file."""
    out, step = tmp_path / "out", trainer.Trainer.run_step

    def train_until_killed():
        def run_step(self):
            if self.iter == 10:
                os.kill(os.getpid(), number)
            step(self)

        trainer.Trainer.run_step = run_step  # of the child only
        sys.argv = ["train_net.py"]
        return run(flags, out, *PATIENT)

    child = start_fork(train_until_killed)
    child.join(120)
    assert child.exitcode == {signal.SIGKILL: -9, signal.SIGTERM: 143}[number]
    # SIGTERM saves the iteration that it came in; SIGKILL leaves what was there.
    last = {signal.SIGKILL: "model_0000009.pth", signal.SIGTERM: "model_0000010.pth"}[number]
    assert (out / "last_checkpoint").read_text() == last
    assert not (out / "model_final.pth").exists()
    assert run([*flags, "--resume"], out, *PATIENT) == 0
    assert_same_end(out, undisturbed, updates=12)
    assert read_hooks(out / "model_final.pth")["BestModel"]["waited"] == 2


def test_a_key_that_cannot_work_is_refused_before_training(flags, tmp_path, capsys):
    assert run(flags, tmp_path / "out", *ALL, "MASK_RCNN_EXT.EMA.DECAY", "1.0") == 2
    assert "EMA.DECAY: expected 0 or more and less than 1, got 1.0" in read_error(capsys)
    assert not (tmp_path / "out").exists()


def test_several_test_sets_have_losses_of_their_own(monkeypatch):
    monkeypatch.setattr(trainer, "load_dicts", lambda cfg, split, names, **_: names)
    monkeypatch.setattr(trainer, "build_loss_loader", lambda cfg, dicts, mapper: dicts)
    monkeypatch.setattr(trainer, "measure_losses", lambda model, loader: {"of": loader})
    cfg = get_cfg()
    cfg.DATASETS.TEST = ("a", "b")
    results = {"a": {"bbox": {}}, "b": {"bbox": {}}}
    trainer.Trainer.add_losses(cfg, torch.nn.Linear(1, 1), results)
    assert results == {name: {"bbox": {}, "validation_loss": {"of": [name]}} for name in "ab"}


def test_an_average_may_begin_and_end_when_a_run_is_resumed(flags, whole, tmp_path):
    """Training itself is the same in all of these runs: no average has a part in it."""
    ema, plain = tmp_path / "ema", tmp_path / "plain"
    shutil.copytree(whole, ema)
    (ema / "last_checkpoint").write_text("model_0000003.pth")
    keys = [*LOSS, "TEST.EVAL_PERIOD", "0"]
    assert run([*flags, "--resume"], ema, *keys) == 0
    weights = read_hooks(whole / "model_final.pth")["WeightAverage"]["weights"]
    assert same(read_weights(ema / "model_final.pth"), weights)
    assert run(flags, plain, *keys) == 0
    (plain / "last_checkpoint").write_text("model_0000003.pth")
    assert run([*flags, "--resume"], plain, *keys, "MASK_RCNN_EXT.EMA.ENABLED", "True") == 0
    average = read_hooks(plain / "model_final.pth")["WeightAverage"]
    assert average["updates"] == 2
    assert same(average["weights"], weights)


def test_an_evaluation_before_training_begins_is_no_time_of_training():
    """A run that was stopped before an evaluation does it first when it is resumed."""
    record = RunRecord(get_cfg(), StepSeed(0))
    record.trainer = SimpleNamespace(start_iter=0, max_iter=1)
    record.load_state_dict({"train_seconds": 20.0, "eval_seconds": 3.0})
    record.add_evaluation(100.0)
    record.before_train()
    assert 20.0 <= record.train_seconds < 21.0
    record._start -= 60.0  # a minute later
    record.add_evaluation(50.0)
    assert 30.0 <= record.train_seconds < 31.0
    assert record.state_dict()["eval_seconds"] == 153.0
