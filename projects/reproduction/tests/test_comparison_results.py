"""`make compare`: its numbers, the page, and the Markdown, from hand-made runs."""

import json
import logging
import re
import shutil

import numpy as np
import pytest
import run_comparison as tool
from comparison_cases import write_pair
from fake_comparison import FCIS, RIVAL, FakeTraining
from PIL import Image
from reproduction.fcis import results as comparison_results
from reproduction.fcis.answers import describe_answers, make_answer_rows, make_lattice_rows
from reproduction.fcis.markdown import COMPARISON, comparison_doc
from reproduction.fcis.results import ComparisonResults
from reproduction.fcis.runs import MODELS, ComparisonRun
from reproduction.pages import write as generated_pages
from reproduction.training_runs import plan_runs
from support import REPO

from mask_rcnn_ext import UserError
from mask_rcnn_ext.overlap.detections import load_results, load_truth
from mask_rcnn_ext.overlap.lattice import measure_lattice
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


def test_the_committed_file_is_rewritten_as_it_is(tmp_path):
    text = (REPO / COMPARISON).read_text()
    comparison_results.write_comparison_results(tmp_path / "again.json", read(json.loads(text)))
    assert (tmp_path / "again.json").read_text() == text


@pytest.fixture
def content(measured):
    return json.loads((measured / "results.json").read_text())


def test_the_file_has_what_a_reader_needs(content):
    assert content.keys() == {
        *("dataset", "names", "settings", "configs", "method", "answers", "lattice", "counts"),
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
    assert content["settings"]["lattice_bins"] == 7
    assert content["settings"]["mask_cells"] == {"a": 14, "b": 21}
    assert content["configs"][FCIS] == "configs/shapes/fcis_tiny.yaml"
    counts = content["counts"]["b"]
    assert (counts["images"], counts["objects"]) == (6, 12)  # of the data, once
    assert (counts["matched"], counts["pairs"]) == (24, 6)  # of both trainings


def test_the_answers_are_the_metrics(content):
    """With seed 1 FCIS cuts one of the three pairs that meet, with seed 2 two of them."""
    seams = content["answers"]["seam_share"]
    assert seams["a"] == 0
    assert seams["b"] == pytest.approx(50)
    assert seams["ratio_b_to_a"]["value"] is None  # of none
    assert seams["excludes_zero"] == (seams["high"] < 0)
    values = [seed["metrics"]["errors/seam_share"]["b"] for seed in content["seeds"]]
    assert values == pytest.approx([100 / 3, 200 / 3], abs=1e-3)
    loss, relative = (content["answers"][k] for k in ("overlap_loss", "relative_overlap_loss"))
    heavy = content["metrics"]["overlap/AP_heavy"]
    none = content["metrics"]["overlap/AP_none"]
    assert loss["b"] == pytest.approx(none["b"] - heavy["b"], abs=1e-3)
    assert relative["b"] == pytest.approx(100 * (1 - heavy["b"] / none["b"]), abs=1e-3)
    assert relative["a"] == pytest.approx(0, abs=1e-6)
    assert relative["low"] <= relative["difference"] <= relative["high"]


def test_the_lattice_is_that_of_the_file_before_voting(measured, content, data):
    sides = content["lattice"]
    run = ComparisonRun.under(measured / "out", FCIS, 1)
    assert run.rois_file.parent.parent.parent == run.unvoted
    truth = load_truth(data / "truth.json")
    cracks, with_voting = (
        sum(
            record.sums["edges/cracks"]
            for record in measure_lattice(truth, load_results(path, truth, with_boxes=True))
        )
        for path in (run.rois_file, run.predictions)
    )
    assert cracks > with_voting > 0
    # Both trainings are the same before voting.
    assert sides["b"]["counts"]["edges/cracks"] == 2 * cracks
    assert sides["a"]["counts"]["edges/cracks"] == 0
    assert len(sides["b"]["seeds"]) == 2
    rival = ComparisonRun.under(measured / "out", RIVAL, 1)
    assert rival.rois_file == rival.predictions


def test_masks_before_voting_are_measured_too(measured, content, data):
    """Every FCIS run cuts the same pairs before voting: here, all."""
    before = content["before_voting"]
    assert before["errors/seam_share"]["a"] == content["metrics"]["errors/seam_share"]["a"] == 0
    assert before["errors/seam_share"]["b"] > content["metrics"]["errors/seam_share"]["b"]
    assert set(before) > {"AP/AP", "overlap/AP_drop", "errors/leak", "errors/miss"}
    doc = re.sub(r" {2,}", " ", comparison_doc(content))
    assert "## Before voting" in doc
    row = f"| straight seam, pairs, % | 0.0 | 50.0 | {before['errors/seam_share']['b']:.1f} |"
    assert row in doc


def test_the_page_the_picture_and_the_report_again(measured, content, data, tmp_path, monkeypatch):
    page = (measured / "out/comparison.html").read_text()
    for sentence in describe_answers(read(content)):
        assert sentence.replace("'", "&#39;") in page
    assert "Is it the lattice?" in page
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


def test_the_ratio_of_two_models():
    draws = np.array([2.0, 1.5, 3.0, np.inf, np.nan])
    ratio = comparison_results._ratio(draws)
    assert (ratio.value, ratio.high, ratio.excludes_one) == (2.0, np.inf, True)
    assert 1.5 <= ratio.low < 3
    ratio = comparison_results._ratio(np.array([0.5, 0.25, 0.75]))
    assert (ratio.low, ratio.high) == pytest.approx((0.2625, 0.7375))
    assert ratio.excludes_one
    assert comparison_results._ratio(np.full(4, np.nan)).excludes_one is None


@pytest.fixture
def numbers(content):
    """Return the content with numbers made by hand."""
    entry = {"a": 30.0, "b": 42.0, "difference": -12.0, "low": -20.04, "high": -4.0}
    content["answers"]["overlap_loss"] |= {**entry, "excludes_zero": True}
    content["answers"]["relative_overlap_loss"] |= {
        **{"a": 50.0, "b": 60.0, "difference": -10.0, "low": -25.0, "high": 5.0},
        "excludes_zero": False,
    }
    content["answers"]["seam_share"] |= {
        **{"a": 5.0, "b": 20.0, "difference": -15.0, "low": None, "high": None},
        "excludes_zero": None,
        "ratio_b_to_a": {"value": 4.0, "low": 2.0, "high": None, "excludes_one": True},
    }
    side = {
        "share": {"value": 0.25, "low": 0.2, "high": 0.3},
        "chance": {"value": 0.1, "low": 0.1, "high": 0.1},
        "ratio": {"value": 2.5, "low": 2.0, "high": 3.0},
        "density_ratio": {"value": 1.2, "low": 0.7, "high": 1.9},
    }
    excluded = {"ratio": True, "density_ratio": False}
    content["lattice"]["b"] |= {**side, "excludes_one": excluded}
    near = {"value": 1.0, "low": 0.9, "high": 1.1}
    content["lattice"]["a"] |= {"ratio": near, "density_ratio": near}
    return content


def test_the_answers_in_words(numbers):
    loss, seams, lattice = (s.replace("\u2212", "-") for s in describe_answers(read(numbers)))
    assert "Mask R-CNN loses 30.0 AP (50.0 % of its AP) and FCIS 42.0 AP (60.0 %)" in loss
    assert "minus FCIS: -12.0 AP [-20.0, -4.0]; the interval excludes zero." in loss
    assert "minus FCIS: -10.0 points [-25.0, +5.0]; the interval includes zero." in loss
    assert "in 5.0 % of" in seams
    assert "FCIS in 20.0 %, 4.00 times as often [2.00, \u221e]" in seams
    assert seams.endswith("there is no interval.")
    assert "25.0 % of FCIS's spurious contour lies on the k = 7 lattice lines" in lattice
    assert "10.0 % would by chance: 2.50 times as much [2.00, 3.00]; the interval excludes 1" in (
        lattice
    )
    assert "has 1.20 times as much [0.70, 1.90] as a line beside it" in lattice
    assert "score maps; the interval includes 1." in lattice
    assert lattice.endswith(
        "1.00 times as much [0.90, 1.10] as by chance, 1.00 times as much [0.90, 1.10] as the "
        "lines beside."
    )


def test_without_spurious_contour_the_lattice_says_so(content):
    empty = {"value": None, "low": None, "high": None}
    content["lattice"]["b"] |= {"ratio": empty, "density_ratio": empty}
    assert "no spurious contour" in describe_answers(read(content))[2]
    rows = make_lattice_rows(read(content))
    assert rows[2][3:] == ("\u2013", "\u2013")


def test_the_doc_has_the_numbers_and_even_tables(numbers):
    doc = re.sub(r" {2,}", " ", comparison_doc(numbers))
    rows = make_answer_rows(read(numbers))
    assert rows[0][0] == "AP lost from no overlap to heavy"
    assert rows[0][1:3] == ("30.0", "42.0")
    assert [row[5] for row in rows[:3]] == ["yes", "no", "\u2013"]
    for row in [*rows, *make_lattice_rows(read(numbers))]:
        assert f"| {' | '.join(row)} |\n" in doc.replace(r"\|", "|")
    for sentence in describe_answers(read(numbers)):
        assert f"- {sentence}\n" in doc
    assert "| Mask R-CNN | 2 | 52.0 / 52.0 / 52.0 | 52.0 / 52.0 / 52.0 | 200 |" in doc
    assert "| `MODEL.META_ARCHITECTURE` | `MaskRCNN` | `MaskRCNNExtFCIS` |" in doc
    assert "2 seeds of each" in doc
    width = 0
    for line in doc.splitlines():
        count = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert count in (0, width) or not width, line
        width = count
    for variant in MODELS:
        assert (REPO / f"docs/../configs/shapes/{variant}.yaml").is_file()
        assert f"(../configs/shapes/{variant}.yaml)" in doc


def test_the_doc_and_the_readme_are_generated_from_the_results(numbers, tmp_path):
    results = {f"results/{path.name}" for path in (REPO / "results").glob("*.json")}
    pages = {"README.md", *(f"docs/{path.name}" for path in (REPO / "docs").glob("*.md"))}
    for name in pages | results - {COMPARISON}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, tmp_path / name)
    with pytest.raises(UserError, match=r"Run: python projects/reproduction/run_comparison.py"):
        generated_pages.pages(tmp_path, ())
    (tmp_path / COMPARISON).write_text(json.dumps(numbers))
    assert comparison_doc(numbers) in generated_pages.pages(tmp_path, ())[DOC]
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
