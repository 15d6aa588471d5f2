"""`make compare`: its numbers, the page, and the Markdown, from hand-made runs."""

import json
import logging
import re

import pytest
import run_comparison as tool
from comparison_cases import write_pair
from fake_comparison import FCIS, FakeTraining
from page_copies import check_tables_are_even, copy_pages
from PIL import Image
from reproduction.fcis import results as comparison_results
from reproduction.fcis.answers import describe_loss, make_answer_rows
from reproduction.fcis.markdown import COMPARISON, comparison_doc
from reproduction.fcis.results import ComparisonResults
from reproduction.fcis.runs import MODELS, ComparisonRun
from reproduction.pages import write as generated_pages
from reproduction.training_runs import plan_runs
from support import REPO

from mask_rcnn_ext import UserError
from mask_rcnn_ext.overlap.metrics import METRICS
from mask_rcnn_ext.report.json_records import from_json

DOC = "docs/fcis_comparison.md"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the folder of a small data set in place of `occluded_shapes_val`."""
    folder = tmp_path_factory.mktemp("data")
    write_pair(folder)
    return folder


@pytest.fixture(autouse=True)
def _small(data, monkeypatch):
    truth = (str(data / "truth.json"), str(data / "images"))
    monkeypatch.setattr(comparison_results, "find_truth", lambda name: truth)
    monkeypatch.setattr(comparison_results, "DRAWS", 40)


@pytest.fixture(scope="module")
def measured(data, tmp_path_factory):
    """Return the folder of a whole comparison of two seeds."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeTraining()
        truth = (str(data / "truth.json"), str(data / "images"))
        fake.use(patch)
        patch.setattr(comparison_results, "find_truth", lambda name: truth)
        patch.setattr(comparison_results, "DRAWS", 40)
        options = ["--seeds", "2", "--output", str(folder / "out")]
        options += ["--results", str(folder / "results.json")]
        assert tool.main([*options, "--picture", str(folder / "images/picture.png")]) == 0
    return folder


def read(content):
    return from_json(ComparisonResults, content)


@pytest.fixture
def content(measured):
    return json.loads((measured / "results.json").read_text())


def test_the_file_has_what_a_reader_needs(content):
    assert content.keys() == {
        *("dataset", "names", "settings", "configs", "method", "answers", "counts"),
        "before_voting",
        *("metrics", "seeds", "runs"),
    }
    assert list(content["metrics"]) == list(METRICS)
    assert [run["model"] for run in content["runs"]] == ["Mask R-CNN", "FCIS"] * 2
    assert [run["seed"] for run in content["runs"]] == [1, 1, 2, 2]
    run = content["runs"][1]
    assert run["config_sha256"] == ComparisonRun.under("", FCIS, 1).sha256()
    assert run["metrics"]["segm"] == {"AP": 51, "AP50": 51, "AP75": 51, "APs": 51}
    assert (run["device"], run["train_seconds"]) == ("a cpu", 100)
    assert content["settings"]["seeds"] == [1, 2]
    assert content["configs"][FCIS] == "configs/shapes/fcis_tiny.yaml"
    counts = content["counts"]["b"]
    assert (counts["images"], counts["objects"]) == (6, 12)  # of the data, once
    assert (counts["matched"], counts["pairs"]) == (24, 6)  # of both trainings


def test_the_answers_are_the_metrics(content):
    """With seed 1 FCIS cuts one of the three pairs that meet, with seed 2 two of them."""
    leak = content["answers"]["leak"]
    assert leak["a"] == 0
    assert leak["excludes_zero"] == (leak["high"] < 0)
    one, two = (seed["metrics"]["errors/leak"]["b"] for seed in content["seeds"])
    assert two == pytest.approx(2 * one, abs=1e-3)
    assert leak["b"] == pytest.approx((one + two) / 2, abs=1e-3)
    assert one > 0
    loss, relative = (content["answers"][k] for k in ("overlap_loss", "relative_overlap_loss"))
    heavy = content["metrics"]["overlap/AP_heavy"]
    none = content["metrics"]["overlap/AP_none"]
    assert loss["b"] == pytest.approx(none["b"] - heavy["b"], abs=1e-3)
    assert relative["b"] == pytest.approx(100 * (1 - heavy["b"] / none["b"]), abs=1e-3)
    assert relative["a"] == pytest.approx(0, abs=1e-6)
    assert relative["low"] <= relative["difference"] <= relative["high"]


def test_masks_before_voting_are_measured_too(content):
    """Every FCIS run cuts the same pairs before voting: here, all."""
    before, leak = content["before_voting"], content["metrics"]["errors/leak"]
    assert before["errors/leak"]["a"] == leak["a"] == 0
    assert before["errors/leak"]["b"] == pytest.approx(2 * leak["b"], abs=1e-3)
    assert set(before) > {"AP/AP", "overlap/AP_drop", "errors/leak", "errors/miss"}
    doc = re.sub(r" {2,}", " ", comparison_doc(read(content)))
    assert "## Before voting" in doc
    row = f"| leak, % | 0.0 | {leak['b']:.1f} | {before['errors/leak']['b']:.1f} |"
    assert row in doc


def test_the_page_the_picture_and_the_report_again(measured, content, data, tmp_path, monkeypatch):
    page = (measured / "out/comparison.html").read_text()
    assert describe_loss(read(content)) in page
    assert ">Seed 2<" in page
    assert "http" not in page
    picture = (measured / "images/picture.png").read_bytes()
    assert picture == (measured / "out/comparison.png").read_bytes()
    with Image.open(measured / "images/picture.png") as image:
        assert image.width > 900
    whole = json.loads((measured / "out/comparison.json").read_text())
    assert {key: whole[key] for key in content} == content
    assert str(measured) not in (measured / "results.json").read_text()
    options = ["--seeds", "2", "--output", str(measured / "out"), "--only-report"]
    options += ["--results", str(tmp_path / "again.json")]
    assert tool.main([*options, "--picture", str(tmp_path / "again.png")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == content
    assert (tmp_path / "again.png").read_bytes() == picture


@pytest.fixture
def numbers(content):
    """Return the content with numbers made by hand."""
    entry = {"a": 30.0, "b": 42.0, "difference": -12.0, "low": -20.04, "high": -4.0}
    content["answers"]["overlap_loss"] |= {**entry, "excludes_zero": True}
    content["answers"]["relative_overlap_loss"] |= {
        **{"a": 50.0, "b": 60.0, "difference": -10.0, "low": -25.0, "high": 5.0},
        "excludes_zero": False,
    }
    content["answers"]["leak"] |= {"low": None, "high": None, "excludes_zero": None}
    return content


def test_the_answers_in_words(numbers):
    loss = describe_loss(read(numbers)).replace("\u2212", "-")
    assert "Mask R-CNN loses 30.0 AP (50.0 % of its AP), and FCIS loses 42.0 AP (60.0 %)" in loss
    assert "minus FCIS is -12.0 AP [-20.0, -4.0]: the interval excludes zero." in loss
    assert "minus FCIS is -10.0 points [-25.0, +5.0]: the interval includes zero." in loss


def test_the_doc_has_the_numbers_and_even_tables(numbers):
    doc = re.sub(r" {2,}", " ", comparison_doc(read(numbers)))
    rows = make_answer_rows(read(numbers))
    assert rows[0][0] == "AP lost from no overlap to heavy"
    assert rows[0][1:3] == ("30.0", "42.0")
    assert [row[5] for row in rows[:3]] == ["yes", "no", "\u2013"]
    for row in rows:
        assert f"| {' | '.join(row)} |\n" in doc.replace(r"\|", "|")
    assert f"{describe_loss(read(numbers))}\n" in doc
    assert "| Mask R-CNN | 2 | 52.0 / 52.0 / 52.0 | 52.0 / 52.0 / 52.0 | 200 |" in doc
    assert "| `MODEL.META_ARCHITECTURE` | `MaskRCNN` | `MaskRCNNExtFCIS` |" in doc
    assert "with 2 seeds." in doc
    check_tables_are_even(doc)
    for variant in MODELS:
        assert (REPO / f"docs/../configs/shapes/{variant}.yaml").is_file()
        assert f"(../configs/shapes/{variant}.yaml)" in doc


def test_the_doc_and_the_readme_are_generated_from_the_results(numbers, tmp_path):
    (copy_pages(tmp_path) / COMPARISON).unlink()
    with pytest.raises(UserError, match=r"Run: python projects/reproduction/run_comparison.py"):
        generated_pages.pages(tmp_path, ())
    (tmp_path / COMPARISON).write_text(json.dumps(numbers))
    assert comparison_doc(read(numbers)) in generated_pages.pages(tmp_path, ())[DOC]
    assert DOC in generated_pages.write_pages(tmp_path, ())
    assert generated_pages.stale_pages(tmp_path, ()) == []
    numbers["answers"]["leak"]["a"] += 1
    (tmp_path / COMPARISON).write_text(json.dumps(numbers))
    assert generated_pages.stale_pages(tmp_path, ()) == [DOC]


def test_measuring_is_told(measured, data, monkeypatch, caplog):
    runs = plan_runs(ComparisonRun, measured / "out", MODELS, 1)
    with caplog.at_level(logging.INFO):
        found = comparison_results.measure_runs(runs)
    assert f"measuring {FCIS} seed 1" in caplog.text
    assert [len(side) for side in found.records] == [1, 1]


def test_the_method_says_what_the_intervals_cover(monkeypatch):
    monkeypatch.setattr(comparison_results, "DRAWS", 1000)
    assert "not the chance in training" in comparison_results._describe_intervals(1)
    monkeypatch.setattr(comparison_results, "BOOTSTRAP_SEED", 7)
    three = comparison_results._describe_intervals(3)
    assert "1000 draws, seed 7" in three
    assert "2/3 of their variance" in three
