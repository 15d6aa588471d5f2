"""`make lineage`: runs that are planned, recognised, skipped, resumed or redone."""

import json
import os

import pytest
import run_lineage as tool
from fake_lineage import (
    ALIGN,
    FAST,
    FASTER,
    MASK,
    RCNN,
    SETS,
    SVM,
    TRAINED,
    FakeLineage,
    pretend_svm,
    use_small_configs,
)
from finished_runs import check_refusal
from reproduction import training_runs
from reproduction.lineage import runs as lineage_runs
from reproduction.lineage.results import require_proposals
from reproduction.lineage.runs import METHODS, LineageRun, compare_configs, methods
from reproduction.report import Report
from support import REPO

from mask_rcnn_ext.errors import UserError


@pytest.fixture
def training(monkeypatch):
    fake = FakeLineage()
    use_small_configs(monkeypatch)
    monkeypatch.setattr(LineageRun, "train", lambda run, resume: fake.train(run, resume))
    monkeypatch.setattr(tool, "propose_in_subprocess", fake.propose)
    return fake


@pytest.fixture
def call(training, tmp_path, monkeypatch):
    """Return a function that calls the tool; it makes files only when told `report=True`."""
    real = Report.update

    def run(*arguments, report=False):
        training.calls.clear()
        monkeypatch.setattr(Report, "update", real if report else lambda *_, **__: None)
        options = ["--output", str(tmp_path / "out"), "--results", str(tmp_path / "results.json")]
        return tool.main([*options, "--picture", str(tmp_path / "picture.png"), *arguments])

    return run


def the_run(tmp_path, variant, seed=1):
    return LineageRun.under(tmp_path / "out", variant, seed)


def trained(*variants):
    return [(variant, "trained") for variant in variants]


PROPOSED = ("proposals", *SETS)


def test_the_methods_share_backbone_data_and_image_size():
    configs = compare_configs()
    assert configs["shared"]["backbone"] == "mask_rcnn_ext_tiny_resnet_backbone"
    assert configs["shared"]["train"] == "occluded_shapes_train"
    assert configs["differing"]["MODEL.LOAD_PROPOSALS"][FAST]
    assert not configs["differing"]["MODEL.LOAD_PROPOSALS"][FASTER]
    assert not [key for key in configs["differing"] if "PROPOSAL_FILES" in key]
    names = [method.variant for method in methods()]
    assert [name for name in names if name not in (SVM, ALIGN)] == TRAINED
    assert names.index(FASTER) < names.index(ALIGN) < names.index(MASK)


@pytest.mark.parametrize("key", ["MASK_RCNN_EXT.TINY_RESNET.CHANNELS", "INPUT.MIN_SIZE_TEST"])
def test_unfair_configs_are_refused(call, training, monkeypatch, capsys, key):
    real = LineageRun.config

    def unfair(run):
        cfg = real(run)
        if run.variant == FAST:
            cfg.merge_from_list([key, "[1, 2, 3, 4]" if "CHANNELS" in key else "99"])
        return cfg

    monkeypatch.setattr(LineageRun, "config", unfair)
    assert call() == 2
    assert f"{key} is" in capsys.readouterr().err
    assert training.calls == []


def test_proposals_first_then_the_methods_in_order_and_nothing_twice(call, training, tmp_path):
    assert call("--seeds", "2") == 0
    assert training.calls == [PROPOSED, *trained(*TRAINED, *TRAINED)]
    left = {path.name for path in the_run(tmp_path, RCNN, 2).folder.glob("*.pth")}
    assert left == {"model_final.pth"}
    assert call("--seeds", "2") == 0
    assert training.calls == [PROPOSED]


def test_new_proposals_make_the_runs_that_read_them_stale(call, training, tmp_path):
    call()
    assert call() == 0
    assert training.calls == [PROPOSED]
    training.best = 5.0
    assert call() == 0
    assert training.calls == [PROPOSED, *trained(RCNN, FAST)]


def test_an_interrupted_run_is_resumed_and_without_weights_it_is_not_done(call, training, tmp_path):
    call()
    first, second = (the_run(tmp_path, variant) for variant in (RCNN, MASK))
    first.predictions.unlink()
    (first.folder / "last_checkpoint").write_text("model_0000099.pth")
    second.weights.unlink()
    assert (first.state(), second.state()) == ("interrupted", "left")
    call()
    assert training.calls == [PROPOSED, (RCNN, "resumed"), (MASK, "trained")]


def test_svms_are_fitted_to_their_base_and_follow_it(call, training, tmp_path, monkeypatch):
    pretend_svm(monkeypatch)
    assert call() == 0
    assert training.calls == [PROPOSED, *trained(RCNN, SVM, FAST, FASTER, MASK)]
    run = the_run(tmp_path, SVM)
    assert run.base == the_run(tmp_path, RCNN)
    script, *options = run.command(False)
    assert script == "tools/train_rcnn_svm.py"
    pairs = dict(zip(options[::2], options[1::2], strict=True))
    assert pairs["MODEL.WEIGHTS"] == str(run.base.folder / "model_final.pth")
    assert pairs["OUTPUT_DIR"] == str(run.folder)
    # Another base, even one that proposes the same: what is fitted to it is stale.
    real = LineageRun.config

    def longer(run):
        cfg = real(run)
        cfg.SOLVER.MAX_ITER += run.variant == RCNN
        return cfg

    monkeypatch.setattr(LineageRun, "config", longer)
    assert call() == 0
    assert training.calls == [PROPOSED, *trained(RCNN, SVM)]
    # The same base, trained once more: other weights.
    training.calls.clear()
    run.base.weights.write_bytes(b"others")
    assert call() == 0
    assert training.calls == [PROPOSED, *trained(SVM)]


def test_without_its_yaml_the_second_step_is_left_out(monkeypatch):
    real = lineage_runs.get_config_file

    def missing(name):
        if name.endswith("_svm"):
            raise UserError("no config")
        return real(name)

    monkeypatch.setattr(lineage_runs, "get_config_file", missing)
    left = [RCNN, FAST, FASTER, ALIGN, MASK]
    assert [method.variant for method in methods()] == left
    assert [method.variant for method in METHODS if method.base] == [SVM]


def test_the_commands(call, training, tmp_path, monkeypatch):
    monkeypatch.undo()
    use_small_configs(monkeypatch)
    asked = []
    for module in (tool, training_runs):
        monkeypatch.setattr(module, "run_command", lambda *words: asked.append(words) or 3)
    for variant in (FAST, MASK):
        assert the_run(tmp_path, variant, 2).train(True) == 3
    folder = tmp_path / "out/proposals"
    assert tool.propose_in_subprocess(folder, SETS) == 3
    (fast, console), (mask, _), (propose, _) = asked
    own = ["OUTPUT_DIR", str(tmp_path / "out" / FAST / "seed2"), "SEED", "2"]
    config = str(REPO / f"configs/shapes/lineage/{FAST}.yaml")
    assert fast[1:7] == [str(REPO / "train_net.py"), "--config-file", config, "--resume", *own[:2]]
    assert fast[7:] == [
        *own[2:],
        *("DATASETS.PROPOSAL_FILES_TRAIN", repr((str(folder / "lineage_train.pkl"),))),
        *("DATASETS.PROPOSAL_FILES_TEST", repr((str(folder / "lineage_val.pkl"),))),
    ]
    assert console == tmp_path / "out" / FAST / "seed2/console.txt"
    assert "DATASETS.PROPOSAL_FILES_TEST" not in mask
    assert propose[1:] == [
        *(str(REPO / "tools/compute_proposals.py"), "selective-search", "--mode", "quality"),
        *("--overwrite", "--dataset", *SETS, "--output", str(folder)),
        *("--processes", str(min(len(os.sched_getaffinity(0)), 8))),
    ]


def test_the_list_tells_what_is_left(call, capsys):
    call()
    capsys.readouterr()
    assert call("--list", "--seeds", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == TRAINED * 2
    assert [line.split()[3] for line in lines[:-1]] == ["done"] * 4 + ["left"] * 4
    assert lines[-1].startswith("4 of 8 runs done, about")


@pytest.mark.parametrize("what", ["proposals", FAST])
def test_what_failed_is_told_and_made_up_for(call, training, capsys, what):
    training.fail = {what}
    assert call() == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert what in err
    assert "console.txt" in err
    # A method that fails does not stop those after it.
    assert (MASK, "trained") in training.calls or what == "proposals"
    training.fail = set()
    assert call() == 0
    assert training.calls == [PROPOSED, *trained(*(TRAINED if what == "proposals" else [FAST]))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds: expected 1 or more"),
        (["--timed-images", "0"], "--timed-images: expected 1 or more"),
        (["--only-report"], f"{RCNN} seed 1 (left), {FAST} seed 1 (left)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    call, training, tmp_path, capsys, arguments, message
):
    check_refusal(call(*arguments, report=True), message, capsys, tmp_path)
    assert training.calls == []


def test_a_folder_of_something_else_is_left_alone(call, training, tmp_path, capsys):
    run = the_run(tmp_path, FASTER)
    run.folder.mkdir(parents=True)
    (run.folder / "thesis.txt").write_text("dear")
    assert call() == 2
    assert "is not a training run" in capsys.readouterr().err
    assert (run.folder / "thesis.txt").exists()
    assert training.calls == []


def test_proposals_without_their_json_are_told(call, tmp_path):
    call()
    runs = [the_run(tmp_path, variant) for variant in TRAINED]
    assert require_proposals(runs)[SETS[1]]["seconds_per_image"] == 0.25
    path = tmp_path / "out/proposals" / f"{SETS[1]}.json"
    for content in ("{}", json.dumps([1]), "{"):
        path.write_text(content)
        with pytest.raises(UserError, match=r"lineage_val.json: expected .* Leave out"):
            require_proposals(runs)
