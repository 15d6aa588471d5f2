"""`run_fcis_experiment.py`: trained, measured and reported, and not again when nothing changed."""

import json

import numpy as np
import pytest
import run_fcis_experiment as tool
from finished_runs import leave_training
from made_up_experiment import make_changes, make_content, make_run
from reproduction.fcis.change_measurement import ChangeMeasurement
from reproduction.fcis.experiment import EXPERIMENT_MODELS, Measurement, NestedRun
from reproduction.fcis.nested_pairs import PairPictures
from support import REPO

WHAT = {Measurement: "measure", ChangeMeasurement: "change"}


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Return a function that calls the tool with one seed, and what was done: its list."""
    done = []

    def train(run, resume):
        done.append(f"train {run.variant}")
        metrics = make_run(run.variant, run.seed)["metrics"]["segm"]
        leave_training(run, metrics, train_seconds=60.0, eval_seconds=1.0)
        (run.folder / "metrics.json").write_text("")
        (run.folder / "model_final.pth").write_text(run.variant)
        return 0

    def measure(step, resume):
        done.append(f"{WHAT[type(step)]} {step.run.variant}")
        step.write({})

    def collect(runs):
        done.append("report")
        return make_content()

    monkeypatch.setattr(NestedRun, "train", train)
    for kind in WHAT:
        monkeypatch.setattr(kind, "make", measure)
    monkeypatch.setattr(tool, "collect_changes", lambda runs: make_changes())
    monkeypatch.setattr(tool, "collect", collect)
    pair = PairPictures("1.png", 0, [np.zeros((9, 9, 3), np.uint8)] * 5)
    monkeypatch.setattr(tool, "draw_pairs", lambda runs, dataset, wanted: [pair])
    options = ["--seeds", "1", "--output", str(tmp_path / "out")]
    options += ["--results", str(tmp_path / "results.json")]
    options += ["--picture", str(tmp_path / "images/picture.png")]
    return lambda *more: tool.main([*options, *more]), done


def test_all_is_done_once(call, tmp_path, capsys):
    run, done = call
    assert run() == 0
    trained = [f"train {variant}" for variant in EXPERIMENT_MODELS]
    measured = [
        f"{what} {variant}"
        for variant in EXPERIMENT_MODELS
        for what in ("measure", "change")
        if what == "measure" or variant != "fcis_tiny_nested_k1"
    ]
    assert done == [*trained, *measured, "report"]
    content = json.loads((tmp_path / "results.json").read_text())
    assert content == {**make_content(), "changes": make_changes()}
    assert "Prediction 4 came true" in (tmp_path / "out/fcis_experiment.html").read_text()
    assert (tmp_path / "images/picture_places.png").is_file()
    assert "Prediction 1 came true." in capsys.readouterr().out
    del done[:]
    assert run() == 0
    assert done == []
    assert "fcis_experiment.html is up to date" in capsys.readouterr().out
    assert run("--only-report") == 0
    assert done == ["report"]


def test_new_weights_are_measured_again(call, tmp_path):
    run, done = call
    run()
    del done[:]
    (tmp_path / "out/fcis_tiny_nested_k3/seed1/model_final.pth").write_text("trained again")
    assert run("--only-report") == 0
    assert done == ["measure fcis_tiny_nested_k3", "change fcis_tiny_nested_k3", "report"]


def test_runs_that_were_measured_before_get_the_changes(call, tmp_path):
    """The measurement that is there stays valid."""
    run, done = call
    run()
    del done[:]
    (tmp_path / "out/mask_rcnn_tiny_nested/seed1/nested_changes.json").unlink()
    assert run("--only-report") == 0
    assert done == ["change mask_rcnn_tiny_nested", "report"]


def test_a_report_needs_all_runs(call, tmp_path, capsys):
    run, done = call
    assert run("--only-report") == 2
    assert "mask_rcnn_tiny_nested seed 1 (left)" in capsys.readouterr().err
    assert run("--list") == 0
    assert done == []
    assert list(tmp_path.iterdir()) == []


def test_make_compare_runs_both_experiments():
    recipe = (REPO / "Makefile").read_text().split("\ncompare:")[1].split("\n\n")[0]
    scripts = ["run_comparison.py", "run_fcis_experiment.py", "make_tables.py"]
    places = [recipe.index(script) for script in scripts]
    assert places == sorted(places)
