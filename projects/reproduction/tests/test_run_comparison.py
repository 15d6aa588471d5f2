"""`make compare`: runs that are recognised, skipped, resumed or redone."""

import functools
import os
import shutil

import pytest
import run_comparison as tool
from fake_comparison import FCIS, RIVAL, FakeTraining
from finished_runs import check_refusal
from reproduction import report as report_step
from reproduction import training_runs
from reproduction.fcis import runs as fcis_runs
from reproduction.fcis.runs import MODELS, ComparisonRun, UnvotedEvaluation, compare_fcis_configs
from reproduction.report import Report
from reproduction.training_runs import plan_runs
from support import REPO

from mask_rcnn_ext import UserError
from mask_rcnn_ext.config import load_config


@functools.cache
def load_once(path):
    return load_config(path)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Read every yaml of the checkout once."""

    def load(path):
        return load_once(path).clone() if path.startswith(str(REPO)) else load_config(path)

    monkeypatch.setattr(training_runs, "load_config", load)


@pytest.fixture
def training(monkeypatch):
    fake = FakeTraining()
    fake.use(monkeypatch)
    return fake


@pytest.fixture
def call(training, tmp_path, monkeypatch):
    """Return a function that calls the tool; it makes files only when told `report=True`."""
    real = Report.update

    def run(*arguments, report=False):
        monkeypatch.setattr(Report, "update", real if report else lambda *_, **__: None)
        options = ["--output", str(tmp_path / "out"), "--results", str(tmp_path / "results.json")]
        return tool.main([*options, "--picture", str(tmp_path / "picture.png"), *arguments])

    return run


def the_run(tmp_path, variant, seed=1):
    return ComparisonRun.under(tmp_path / "out", variant, seed)


# The runs


def test_the_models_have_the_same_backbone_data_and_schedule():
    configs = compare_fcis_configs()
    assert configs["shared"]["train"] == "occluded_shapes_train"
    assert configs["differing"]["MODEL.META_ARCHITECTURE"][FCIS] == "MaskRCNNExtFCIS"
    first, second = (ComparisonRun.under("", variant, 1).config() for variant in MODELS)
    for key in ("BACKBONE", "RESNETS", "ANCHOR_GENERATOR"):
        assert first.MODEL[key] == second.MODEL[key], key
    assert first.MASK_RCNN_EXT.TINY_RESNET == second.MASK_RCNN_EXT.TINY_RESNET
    for key in ("DATASETS", "INPUT"):
        assert first[key] == second[key], key


def test_an_unfair_comparison_is_refused(call, training, monkeypatch, capsys):
    real = ComparisonRun.config

    def unfair(run):
        cfg = real(run)
        if run.is_fcis:
            cfg.SOLVER.MAX_ITER += 1
        return cfg

    monkeypatch.setattr(ComparisonRun, "config", unfair)
    assert call() == 2
    assert "SOLVER.MAX_ITER" in capsys.readouterr().err
    assert training.calls == []


def test_both_models_seed_by_seed_and_each_fcis_once_more_without_voting(call, training, tmp_path):
    assert call("--seeds", "2") == 0
    assert training.calls == [
        *((RIVAL, 1, "trained"), (FCIS, 1, "trained"), (FCIS, 1, "unvoted")),
        *((RIVAL, 2, "trained"), (FCIS, 2, "trained"), (FCIS, 2, "unvoted")),
    ]
    left = {path.name for path in the_run(tmp_path, FCIS).folder.glob("*.pth")}
    assert left == {"model_final.pth"}
    training.calls.clear()
    assert call("--seeds", "2") == 0
    assert training.calls == []


def test_a_run_made_by_hand_is_recognised(call, training, tmp_path):
    for variant in MODELS:
        run = the_run(tmp_path, variant)
        training.leave(run, run.folder, [])
        assert run.state() == "done"
    assert call("--seeds", "1") == 0
    assert training.calls == [(FCIS, 1, "unvoted")]


@pytest.mark.parametrize(
    ("key", "value", "state"),
    [
        ("SOLVER.MAX_ITER", "77", "stale"),
        ("SEED", "9", "stale"),
        ("OUTPUT_DIR", "elsewhere", "done"),
        ("MODEL.DEVICE", "cuda", "done"),
        ("MASK_RCNN_EXT.CLASS_NAMES", "['cat']", "done"),
    ],
    ids=str,
)
def test_a_run_of_another_config_is_stale_and_redone(call, training, tmp_path, key, value, state):
    run = the_run(tmp_path, FCIS)
    training.leave(run, run.folder, [])
    training.evaluate(run)
    cfg = load_config(str(run.folder / "config.yaml"))
    cfg.merge_from_list([key, value])
    (run.folder / "config.yaml").write_text(cfg.dump())
    (run.folder / "notes.txt").write_text("of a user")
    assert run.state() == state
    training.calls.clear()
    assert call("--seeds", "1") == 0
    redone = [(FCIS, 1, "trained"), (FCIS, 1, "unvoted")] if state == "stale" else []
    assert training.calls == [(RIVAL, 1, "trained"), *redone]
    assert (run.folder / "earlier_runs/1/unvoted").exists() == (state == "stale")
    assert (run.folder / "notes.txt").exists()


def test_a_config_that_this_version_cannot_read_is_stale(training, tmp_path):
    run = the_run(tmp_path, FCIS)
    training.leave(run, run.folder, [])
    (run.folder / "config.yaml").write_text("MODEL: {GONE: 1}\n")
    assert run.state() == "stale"


@pytest.mark.parametrize("gone", ["results.json", "inference"])
def test_an_interrupted_run_is_resumed(call, training, tmp_path, gone):
    call("--seeds", "1")
    run = the_run(tmp_path, RIVAL)
    path = run.folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run.state() == "left"
    (run.folder / "last_checkpoint").write_text("model_0000099.pth")
    assert run.state() == "interrupted"
    training.calls.clear()
    call("--seeds", "1")
    assert training.calls == [(RIVAL, 1, "resumed")]


def test_a_run_that_was_stopped_at_its_start_begins_again(call, training, tmp_path):
    run = the_run(tmp_path, RIVAL)
    run.folder.mkdir(parents=True)
    (run.folder / "console.txt").write_text("stopped")
    assert run.state() == "left"
    assert call("--seeds", "1") == 0
    assert training.calls[0] == (RIVAL, 1, "trained")


def test_a_folder_of_something_else_is_left_alone(call, training, tmp_path, capsys):
    run = the_run(tmp_path, RIVAL)
    run.folder.mkdir(parents=True)
    (run.folder / "thesis.txt").write_text("dear")
    assert call("--seeds", "1") == 2
    assert "is not a training run" in capsys.readouterr().err
    assert (run.folder / "thesis.txt").exists()
    assert training.calls == []


def touch(path, seconds):
    os.utime(path, (path.stat().st_mtime + seconds,) * 2)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda run: touch(run.folder / "model_final.pth", 60),
        lambda run: run.unvoted_predictions.unlink(),
        lambda run: (run.unvoted / "results.json").unlink(),
        lambda run: shutil.copy(run.folder / "config.yaml", run.unvoted),
    ],
    ids=["newer weights", "no result file", "no results", "with voting"],
)
def test_an_evaluation_before_voting_that_does_not_count_is_redone(call, training, tmp_path, spoil):
    call("--seeds", "1")
    run = the_run(tmp_path, FCIS)
    assert UnvotedEvaluation(run).state() == "done"
    spoil(run)
    assert UnvotedEvaluation(run).state() != "done"
    training.calls.clear()
    assert call("--only-report", "--seeds", "1") == 2
    assert training.calls == []
    call("--seeds", "1")
    assert training.calls == [(FCIS, 1, "unvoted")]


@pytest.mark.parametrize("unvoted", [False, True], ids=["training", "evaluation"])
def test_what_failed_is_told_and_made_up_for(call, training, capsys, unvoted):
    training.fail = {(FCIS, 1, unvoted)}
    assert call("--seeds", "1") == 2
    err = capsys.readouterr().err
    assert f"{FCIS} seed 1" in err
    assert "console.txt" in err
    training.fail = set()
    training.calls.clear()
    assert call("--seeds", "1") == 0
    assert training.calls[-1] == (FCIS, 1, "unvoted")
    assert (RIVAL, 1, "trained") not in training.calls


def test_the_page_is_made_again_when_a_run_or_the_code_has_changed(
    call, training, tmp_path, monkeypatch, capsys
):
    page, made = tmp_path / "out/comparison.html", []

    def report(args, runs):
        made.append(len(runs))
        for path in (page, tmp_path / "results.json"):
            path.write_text("")

    monkeypatch.setattr(tool, "report", report)
    assert call("--seeds", "1", report=True) == call("--seeds", "1", report=True) == 0
    assert f"{page} is up to date" in capsys.readouterr().out
    assert made == [2]
    call("--seeds", "1", "--only-report", report=True)
    assert made == [2, 2]  # asked for
    call("--seeds", "2", report=True)
    assert made == [2, 2, 4]
    (tmp_path / "results.json").unlink()
    call("--seeds", "2", report=True)
    monkeypatch.setattr(report_step, "code_sha256", lambda *_: "other")
    call("--seeds", "2", report=True)
    assert made == [2, 2, 4, 4, 4]


def test_the_list_tells_what_is_left(call, capsys):
    call("--seeds", "1")
    capsys.readouterr()
    assert call("--list", "--seeds", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[:4]] == [
        [RIVAL, "seed", "1", "done"],
        [FCIS, "seed", "1", "done"],
        [RIVAL, "seed", "2", "left"],
        [FCIS, "seed", "2", "left"],
    ]
    assert lines[-1] == "2 of 4 runs done, about 4 min left"


def test_the_commands(tmp_path, monkeypatch):
    asked = []
    for module in (training_runs, fcis_runs):
        monkeypatch.setattr(module, "run_command", lambda *words: asked.append(words) or 3)
    run = the_run(tmp_path, FCIS, 2)
    assert run.train(True) == UnvotedEvaluation(run).evaluate() == 3
    (train, train_console), (evaluate, evaluate_console) = asked
    config = str(REPO / "configs/shapes/fcis_tiny.yaml")
    own = ["OUTPUT_DIR", str(run.folder), "SEED", "2"]
    assert train[2:] == ["--config-file", config, "--resume", *own]
    assert evaluate[2:] == [
        *("--config-file", config, "--eval-only", "MODEL.FCIS.MASK_VOTING", "False"),
        *("MODEL.WEIGHTS", str(run.folder / "model_final.pth")),
        *("OUTPUT_DIR", str(run.folder / "unvoted"), "SEED", "2"),
    ]
    assert train_console == run.folder / "console.txt"
    assert evaluate_console == run.folder / "unvoted/console.txt"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds: expected 1 or more"),
        (["--processes", "0"], "--processes: expected 1 or more"),
        (["--only-report"], f"{RIVAL} seed 1 (left)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    call, training, tmp_path, capsys, arguments, message
):
    check_refusal(call(*arguments, report=True), message, capsys, tmp_path)
    assert training.calls == []


def test_the_plan_needs_a_seed(tmp_path):
    with pytest.raises(UserError, match="--seeds"):
        plan_runs(ComparisonRun, tmp_path, MODELS, 0)
