"""The trial of our trainer against detectron2's: its runs are pairs, and what is made of them."""

import json

import pytest
import run_trainer_trial as tool
from finished_runs import leave_training
from reproduction.json_runs import select_images
from reproduction.training_runs import find_differences
from reproduction.trial.plain_loop import PlainTrainer
from reproduction.trial.runs import TRIAL_DATA, TrialRun, plan_trial
from small_runs import same
from support import SMALL, write_coco

from mask_rcnn_ext import argument_parser
from mask_rcnn_ext.engine.run import prepare_run
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.errors import UserError


@pytest.fixture
def folders(tmp_path):
    """Write both data sets, small, in the layout of the options; return them."""
    found = {}
    for name, (category, _) in TRIAL_DATA.items():
        for split in ("train", "val"):
            path, _ = write_coco(tmp_path / name, images=4, classes=(category, "other"))
            path.rename(path.with_name(f"annotations_{split}.json"))
        found[name] = str(tmp_path / name)
    return found


def test_the_runs_of_a_seed_differ_in_the_trainer_only(folders, tmp_path):
    runs = plan_trial(tmp_path / "out", folders, 2)
    assert [(run.data, run.trainer, run.seed) for run in runs] == [
        (data, trainer, seed)
        for seed in (1, 2)
        for data in ("dsb2018", "persons")
        for trainer in ("ours", "plain")
    ]
    ours, plain = runs[:2]
    assert ours.files == plain.files
    configs = {run.trainer: run.config() for run in (ours, plain)}
    assert set(find_differences(configs, same=["MODEL", "INPUT", "DATALOADER"], base="")) == {
        "SOLVER.AMP.ENABLED",
        "MASK_RCNN_EXT.AMP_INFERENCE",
        "MASK_RCNN_EXT.CHANNELS_LAST",
    }
    assert ours.command(False)[0] == "train_net.py"
    assert plain.command(False)[0] == "projects/reproduction/train_plain.py"
    assert [run.state() for run in runs] == ["left"] * 8


def test_a_pair_starts_from_the_same_weights_and_sees_the_same_images(folders, tmp_path):
    ours, plain = plan_trial(tmp_path / "out", folders, 2)[:2]
    models, orders = [], []
    for run, kind in ((ours, Trainer), (plain, PlainTrainer)):
        _, *options = run.command(False)
        with prepare_run(argument_parser().parse_args([*options, *SMALL])) as cfg:
            trainer = kind(cfg)
        models.append(trainer.model.state_dict())
        batches = [batch for batch, _ in zip(trainer._trainer.data_loader, range(5), strict=False)]
        orders.append([[image["file_name"] for image in batch] for batch in batches])
    assert same(*models)
    assert orders[0] == orders[1]


def test_only_the_images_of_a_class_and_a_size_are_kept(tmp_path):
    path, _ = write_coco(tmp_path, images=6)
    content = json.loads(path.read_text())
    kept = select_images(content, "dog", 64)
    with_dogs = {a["image_id"] for a in content["annotations"] if a["category_id"] == 10}
    assert {image["id"] for image in kept["images"]} == with_dogs
    assert {a["category_id"] for a in kept["annotations"]} == {10}
    assert [c["name"] for c in kept["categories"]] == ["dog"]
    assert select_images(content, "dog", 63)["images"] == []
    with pytest.raises(UserError, match="no class 'cow'"):
        select_images(content, "cow", 64)


def pretend_run(run, ap, loss):
    """Leave the files of a finished training."""
    info = {"train_seconds": 60.0, "eval_seconds": 5.0, "device": "cpu", "versions": {"torch": "2"}}
    leave_training(run, {"AP": ap, "AP50": 2 * ap}, **info)
    (run.folder / "inputs.json").write_text(json.dumps(run.find_other_inputs()))
    lines = [{"iteration": i, "total_loss": loss if i > 149 else 99.0} for i in range(19, 250, 20)]
    (run.folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_differences_are_paired_by_seed(folders, tmp_path, capsys, monkeypatch):
    runs = plan_trial(tmp_path / "out", folders, 2)
    for run in runs:
        better = run.trainer == "ours"
        pretend_run(run, 20.0 + 10 * run.seed + (run.seed if better else 0), 2.0 - better)
    monkeypatch.setattr(TrialRun, "train", lambda *_: pytest.fail("trains again"))
    options = ["--dsb2018", folders["dsb2018"], "--coco", folders["persons"], "--seeds", "2"]
    path = tmp_path / "results.json"
    assert tool.main([*options, "--output", str(tmp_path / "out"), "--results", str(path)]) == 0
    assert "dsb2018  segm/AP   ours  36.500" in capsys.readouterr().out
    content = json.loads(path.read_text())
    first = content["differences"][0]
    # The mean of 1 and 2 is 1.5, its standard error 0.5; t with one degree of freedom is 12.706.
    assert (first["data"], first["metric"], first["by_seed"]) == ("dsb2018", "segm/AP", [1, 2])
    assert first["difference"] == 1.5
    assert first["low"] == pytest.approx(1.5 - 12.706 / 2, abs=1e-3)
    assert first["high"] == pytest.approx(1.5 + 12.706 / 2, abs=1e-3)
    losses = [d for d in content["differences"] if d["metric"] == "loss"]
    assert [(d["ours"], d["plain"]) for d in losses] == [(1, 2), (1, 2)]
    assert len(content["runs"]) == 8
    assert content["runs"][0]["versions"] == {"torch": "2"}


def test_one_seed_is_refused(folders, tmp_path, capsys):
    options = ["--dsb2018", folders["dsb2018"], "--coco", folders["persons"], "--seeds", "1"]
    assert tool.main([*options, "--output", str(tmp_path / "out"), "--list"]) == 2
    assert "expected 2 or more" in capsys.readouterr().err
