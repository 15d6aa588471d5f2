"""The ablations: runs that are skipped, resumed or redone; the results, and the page."""

import base64
import functools
import io
import json
import logging
import shutil

import numpy as np
import pytest
import run_ablations as tool
from boxes_coco import as_rle, predictions_of, truth_json
from finished_runs import check_refusal
from PIL import Image
from reproduction import training_runs
from reproduction.ablations import results as ablation_results
from reproduction.ablations.page import write_ablation_report
from reproduction.ablations.results import AblationResults, IntervalMethod
from reproduction.ablations.runs import AblationRun
from reproduction.ablations.tables import VARIANTS
from reproduction.training_runs import TrainingProgress
from support import REPO

from mask_rcnn_ext import config
from mask_rcnn_ext.config import load_config
from mask_rcnn_ext.overlap.analysis.tables import read_ap_table
from mask_rcnn_ext.overlap.average_precision import AP_METRICS
from mask_rcnn_ext.overlap.intervals import compute_t_interval
from mask_rcnn_ext.report.json_records import from_json

C4, SOFTMAX = "mask_rcnn_tiny_C4", "mask_rcnn_tiny_C4_softmax"


# The runs


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Return the path of a small data set in place of `occluded_shapes_val`."""
    path = tmp_path_factory.mktemp("truth") / "annotations.json"
    path.write_text(json.dumps(truth_json(np.random.default_rng(3))))
    return path


_load_yaml = functools.cache(load_config)
_WRITTEN = {}  # text of a config.yaml -> config: reading one takes 50 ms


def _load_once(path):
    return _load_yaml(path) if path.startswith(str(REPO)) else load_config(path)


def _read_written(path):
    return _WRITTEN[path.read_text()]


@pytest.fixture(autouse=True)
def _quick(truth, monkeypatch):
    """Use the small data, few draws, and read every yaml once."""
    monkeypatch.setattr(training_runs, "load_config", _load_once)
    monkeypatch.setattr(training_runs, "read_run_config", _read_written)
    monkeypatch.setattr(ablation_results, "_annotations", lambda name: str(truth))
    monkeypatch.setattr(ablation_results, "DRAWS", 40)


class FakeTraining:
    """Leaves what train_net.py leaves, from random boxes; the softmax variant's are worse."""

    def __init__(self, truth):
        self.truth, self.calls, self.fail = truth, [], set()

    def __call__(self, run, resume):
        self.calls.append((run.variant, run.seed, resume))
        if run.variant in self.fail:
            return 1
        jitter = 3.0 if "softmax" in run.variant else 1.0
        rng = np.random.default_rng([run.seed, len(run.variant)])
        truth = json.loads(self.truth.read_text())
        predictions = run.folder / "inference/occluded_shapes_val/coco_instances_results.json"
        predictions.parent.mkdir(parents=True, exist_ok=True)
        cfg = run.config().clone()
        cfg.SEED = run.seed
        text = f"# {run.sha256()}\n{cfg.SEED}"
        _WRITTEN[text] = cfg
        (run.folder / "config.yaml").write_text(text)
        for name in ("model_0000099.pth", "model_final.pth"):
            (run.folder / name).touch()
        predictions.write_text(json.dumps(as_rle(truth, predictions_of(truth, rng, jitter))))
        info = {"train_seconds": 100.0, "eval_seconds": 20.0, "peak_memory_mb": 500.0}
        info |= {"device": "a cpu", "seed": run.seed, "versions": {"torch": "9.8"}}
        content = {"run": info}
        for task in ("segm", "bbox"):
            aps = read_ap_table(self.truth, predictions, task).compute_ap()[0]
            content[task] = {**dict(zip(AP_METRICS, aps, strict=True)), "APs": 1.0}
        (run.folder / "results.json").write_text(json.dumps(content))
        return 0


@pytest.fixture
def training(truth, monkeypatch):
    fake = FakeTraining(truth)
    monkeypatch.setattr(AblationRun, "train", lambda run, resume: fake(run, resume))
    return fake


@pytest.fixture
def ablations(training, tmp_path, monkeypatch):
    """Return a function that calls the tool and returns (exit code, ablations.json).

    With `page=True` it also makes the page and the chart.
    """
    paths = {
        "--output": tmp_path / "out",
        "--results": tmp_path / "results.json",
        "--chart": tmp_path / "chart.png",
    }

    def call(*arguments, page=False):
        report = write_ablation_report if page else lambda *_: []
        monkeypatch.setattr(tool, "write_ablation_report", report)
        options = [str(word) for pair in paths.items() for word in pair]
        code = tool.main([*options, *arguments])
        results = paths["--results"]
        return code, json.loads(results.read_text()) if results.exists() else None

    return call


def row_of(content, name=f"2b: {C4} - {SOFTMAX}, segm"):
    (row,) = (row for row in content["rows"] if row["name"] == name)
    return row


def result_row(results):
    return next(r for r in results.rows if r.name == f"2b: {C4} - {SOFTMAX}, segm")


def collect(root, content):
    return ablation_results.collect(root, from_json(AblationResults, content))


def test_finished_runs_are_skipped_and_keep_their_last_weights(ablations, training, tmp_path):
    assert ablations("--rows", "2b", "--seeds", "1")[0] == 0
    assert training.calls == [(C4, 1, False), (SOFTMAX, 1, False)]
    left = {path.name for path in (tmp_path / "out" / C4 / "seed1").glob("*.pth")}
    assert left == {"model_final.pth"}
    assert ablations("--rows", "2b,agnostic", "--seeds", "1")[0] == 0
    assert training.calls[2:] == [(f"{C4}_agnostic", 1, False)]


def test_an_interrupted_run_is_resumed_and_one_without_checkpoint_starts_again(
    ablations, training, tmp_path
):
    ablations("--rows", "2b", "--seeds", "1")
    for variant, checkpoint in ((C4, True), (SOFTMAX, False)):
        run = AblationRun.under(tmp_path / "out", variant, 1)
        (run.folder / "results.json").unlink()
        (run.folder / "metrics.json").write_text("{}")
        if checkpoint:
            (run.folder / "last_checkpoint").write_text("model_0000099.pth")
        assert run.state() == ("interrupted" if checkpoint else "left")
    training.calls.clear()
    ablations("--rows", "2b", "--seeds", "1")
    assert training.calls == [(C4, 1, True), (SOFTMAX, 1, False)]
    assert (tmp_path / "out" / C4 / "seed1/metrics.json").exists()
    assert not (tmp_path / "out" / SOFTMAX / "seed1/metrics.json").exists()


def test_a_changed_config_makes_a_run_stale_and_it_is_redone(
    ablations, training, tmp_path, monkeypatch
):
    _, content = ablations("--rows", "2b", "--seeds", "1")
    copies = tmp_path / "shapes"
    shutil.copytree(REPO / "configs/shapes", copies)
    yaml = copies / f"ablations/{SOFTMAX}.yaml"
    yaml.write_text(yaml.read_text() + "SOLVER:\n  MAX_ITER: 701\n")
    monkeypatch.setattr(
        training_runs, "get_config_file", lambda name: str(tmp_path / f"{name}.yaml")
    )
    run = AblationRun.under(tmp_path / "out", SOFTMAX, 1)
    (run.folder / "notes.txt").write_text("of a user")
    former = (run.folder / "config.yaml").read_text()
    assert run.state() == "stale"
    assert not result_row(collect(tmp_path / "out", content)).seeds
    training.calls.clear()
    ablations("--rows", "2b", "--seeds", "1")
    assert training.calls == [(SOFTMAX, 1, False)]
    assert (run.folder / "notes.txt").read_text() == "of a user"
    assert (run.folder / "earlier_runs/1/config.yaml").read_text() == former
    assert (run.folder / "config.yaml").read_text() != former


def test_output_dir_and_new_keys_do_not_make_a_run_stale(monkeypatch):
    cfg = AblationRun.under("", C4, 1).config().clone()
    before = config.config_hash(cfg, 1)
    assert before != config.config_hash(cfg, 2)
    cfg.OUTPUT_DIR = "elsewhere"
    with_key, defaults = cfg.clone(), config.get_cfg()
    for node in (with_key, defaults):
        node.MASK_RCNN_EXT.NEW = 3
    monkeypatch.setattr(config, "get_cfg", lambda: defaults)
    assert config.config_hash(with_key, 1) == before


def test_a_failed_run_is_told_and_does_not_stop_the_others(ablations, training, capsys):
    training.fail = {C4}
    code, content = ablations("--rows", "2b,agnostic", "--seeds", "1")
    assert code == 2
    assert len(training.calls) == 3
    assert f"{C4} seed 1" in capsys.readouterr().err
    assert [run["variant"] for run in content["runs"]] == [SOFTMAX, f"{C4}_agnostic"]
    training.fail = set()
    assert ablations("--rows", "2b,agnostic", "--seeds", "1")[0] == 0
    assert training.calls[3:] == [(C4, 1, False)]


def test_the_list_tells_what_is_left_and_how_long_it_takes(ablations, capsys):
    ablations("--list")
    assert "0 of 33 runs done; the time of a run" in capsys.readouterr().out
    ablations("--rows", "2b", "--seeds", "1")
    capsys.readouterr()
    assert ablations("--list", "--rows", "2b", "--seeds", "2")[0] == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:3]] == [
        [C4, "seed", "1", "done", "120", "s"],
        [SOFTMAX, "seed", "1", "done", "120", "s"],
        [C4, "seed", "2", "left", "~", "120", "s"],
    ]
    assert lines[-1] == "2 of 4 runs done, about 4 min left"


def test_the_estimate_prefers_the_same_variant_then_the_same_form(training, tmp_path):
    for variant, seconds in ((C4, 50.0), (SOFTMAX, 150.0), ("mask_rcnn_tiny_C5", 500.0)):
        run = AblationRun.under(tmp_path, variant, 1)
        run.start(False)
        training(run, False)
        content = run.results()
        content["run"] |= {"train_seconds": seconds, "eval_seconds": 0}
        (run.folder / "results.json").write_text(json.dumps(content))
    done = [AblationRun.under(tmp_path, v, 1) for v in (C4, SOFTMAX, "mask_rcnn_tiny_C5")]
    asked = [(C4, 2), (f"{C4}_deep", 1), ("mask_rcnn_tiny_FPN_FCN", 1)]
    runs = [AblationRun.under(tmp_path, variant, seed) for variant, seed in asked]
    progress = TrainingProgress([*done, *runs])
    assert [progress.seconds(run) for run in runs] == pytest.approx([50, 100, 700 / 3])


# The results


def test_the_file_has_what_the_page_and_a_reader_need(ablations):
    _, content = ablations("--rows", "2b", "--seeds", "1")
    assert content.keys() == {"settings", "variants", "rows", "runs"}
    assert [v["name"] for v in content["variants"]] == list(VARIANTS)
    run = content["runs"][0]
    assert run.keys() == {
        *("variant", "seed", "config_sha256", "metrics", "train_seconds", "eval_seconds"),
        *("peak_memory_mb", "device", "versions"),
    }
    assert run["metrics"].keys() == {"segm", "bbox"}
    assert run["metrics"]["segm"].keys() == {"AP", "AP50", "AP75", "APs"}
    for row in content["rows"]:
        assert row.keys() == {
            *("name", "table", "label", "of", "minus", "task", "keys", "note", "paper", "seeds"),
            *("method", "ours"),
        }
        assert row["paper"]["difference"].keys() >= {"AP"}


def test_without_runs_every_row_says_so(tmp_path):
    rows = ablation_results.collect(tmp_path).rows
    assert len(rows) == 15
    assert all(row.method == IntervalMethod.NOT_RUN and row.ours is None for row in rows)


def test_one_seed_gives_a_bootstrap_interval(ablations):
    _, content = ablations("--rows", "2b", "--seeds", "1")
    row, runs = row_of(content), content["runs"]
    assert (row["method"], row["seeds"]) == (IntervalMethod.BOOTSTRAP.value, [1])
    for metric in AP_METRICS:
        ours = row["ours"][metric]
        difference = runs[0]["metrics"]["segm"][metric] - runs[1]["metrics"]["segm"][metric]
        assert ours["difference"] == pytest.approx(difference, abs=1e-3)
        assert ours["low"] < ours["difference"] < ours["high"]


def test_three_seeds_give_a_t_interval_of_the_paired_differences(ablations):
    _, content = ablations("--rows", "2b", "--seeds", "3")
    row = row_of(content)
    assert (row["method"], row["seeds"]) == (IntervalMethod.STUDENT_T.value, [1, 2, 3])
    ap = {(r["variant"], r["seed"]): r["metrics"]["segm"]["AP"] for r in content["runs"]}
    differences = [ap[C4, seed] - ap[SOFTMAX, seed] for seed in (1, 2, 3)]
    ours = row["ours"]["AP"]
    assert ours["difference"] == pytest.approx(np.mean(differences), abs=1e-3)
    assert (ours["low"], ours["high"]) == pytest.approx(compute_t_interval(differences), abs=1e-3)


def test_a_bootstrap_is_done_once_and_runs_outlive_their_folder(ablations, tmp_path, monkeypatch):
    _, content = ablations("--rows", "2b", "--seeds", "1")
    monkeypatch.setattr(ablation_results, "bootstrap_ap_difference", None)  # not callable
    shutil.rmtree(tmp_path / "out")
    assert collect(tmp_path / "out", content) == from_json(AblationResults, content)
    content["rows"] = []
    row = result_row(collect(tmp_path / "out", content))
    assert row.method == IntervalMethod.NO_PREDICTIONS
    assert row.ours["AP"].low is None


def test_predictions_of_another_run_give_no_interval(ablations, tmp_path, caplog):
    ablations("--rows", "2b", "--seeds", "1")
    name = "seed1/inference/occluded_shapes_val/coco_instances_results.json"
    shutil.copy(tmp_path / "out" / SOFTMAX / name, tmp_path / "out" / C4 / name)
    (tmp_path / "results.json").unlink()
    with caplog.at_level(logging.WARNING):
        row = row_of(ablations("--rows", "2b", "--seeds", "1")[1])
    assert row["method"] == IntervalMethod.NO_PREDICTIONS.value
    assert "the predictions in its folder do not give its segm AP" in caplog.text


# The page


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_page_and_the_chart(ablations, tmp_path, seeds):
    _, content = ablations("--rows", "2b", "--seeds", str(seeds), page=True)
    page = (tmp_path / "out/ablations.html").read_text()
    chart = (tmp_path / "chart.png").read_bytes()
    assert base64.b64encode(chart).decode() in page
    with Image.open(io.BytesIO(chart)) as image:
        assert image.width >= 1500
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    assert {(47, 95, 208), (217, 72, 15)} <= colours  # ours and the paper's
    ours = row_of(content)["ours"]["AP"]
    assert f"{ours['difference']:+.1f}" in page
    assert "+5.5" in page
    assert (
        IntervalMethod.STUDENT_T.value if seeds == 3 else IntervalMethod.BOOTSTRAP.value
    ) in page
    assert ("\u00b1" in page.split("Absolute numbers")[1].split("AP from 0")[0]) == (seeds == 3)
    assert "not run" in page
    assert "http" not in page
    assert "<script" not in page
    (tmp_path / "out/ablations.html").unlink()
    (tmp_path / "chart.png").unlink()
    assert ablations("--only-report", page=True)[0] == 0
    assert (tmp_path / "out/ablations.html").read_text() == page
    assert (tmp_path / "chart.png").read_bytes() == chart


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "2x"], "got '2x'"),
        (["--seeds", "0"], "--seeds"),
        (["--only-report"], "no results yet"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    ablations, training, tmp_path, capsys, arguments, message
):
    check_refusal(ablations(*arguments)[0], message, capsys, tmp_path)
    assert training.calls == []


def test_a_results_file_of_something_else_is_left_alone(ablations, training, tmp_path, capsys):
    (tmp_path / "results.json").write_text('{"segm": {"AP": 3}}')
    assert ablations("--rows", "2b")[0] == 2
    assert "is not what projects/reproduction/run_ablations.py writes" in capsys.readouterr().err
    assert training.calls == []
    assert (tmp_path / "results.json").read_text() == '{"segm": {"AP": 3}}'
