"""`results/ablations.json` from elsewhere: read completely, or refused in one line; its chart."""

import json

import pytest
import run_ablations as tool
from reproduction.ablations import page as ablation_page
from reproduction.ablations.results import (
    AblationResults,
    IntervalMethod,
    collect,
    read_ablation_results,
)
from support import REPO

from mask_rcnn_ext.report.json_records import from_json, to_json

C4 = "mask_rcnn_tiny_C4"


@pytest.fixture
def content(tmp_path):
    """Return what the tool writes when nothing was run, with one run put in by hand."""
    found = to_json(collect(tmp_path / "none"))
    run = {"variant": C4, "seed": 1, "config_sha256": "", "metrics": {"segm": {"AP": 30.0}}}
    run |= {"train_seconds": 1.0, "eval_seconds": 1.0, "peak_memory_mb": 1.0, "device": "a cpu"}
    found["runs"] = [{**run, "versions": {"torch": "9.8"}}]
    return found


def report(tmp_path, content) -> int:
    """Write the file and call the tool with --only-report."""
    (tmp_path / "in.json").write_text(json.dumps(content))
    options = {"--results": "in.json", "--output": "out", "--chart": "chart.png"}
    words = [word for key, name in options.items() for word in (key, str(tmp_path / name))]
    return tool.main(["--only-report", *words])


def test_a_file_made_by_hand_gives_a_page(tmp_path, content):
    assert report(tmp_path, content) == 0
    assert "a cpu" in (tmp_path / "out/ablations.html").read_text()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda c: c.pop("settings"),
        lambda c: c["rows"][0].pop("ours"),
        lambda c: c["runs"][0].pop("seed"),
        lambda c: c["runs"][0].update(variant="a_former_name"),
        lambda c: c.update(rows=3),
    ],
)
def test_an_incomplete_file_is_one_line_and_leaves_nothing(tmp_path, content, capsys, spoil):
    spoil(content)
    assert report(tmp_path, content) == 2
    assert "is not what projects/reproduction/run_ablations.py writes" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_committed_file_is_rewritten_as_it_is():
    path = REPO / "results/ablations.json"
    assert json.dumps(to_json(read_ablation_results(path)), indent=1) + "\n" == path.read_text()


@pytest.mark.parametrize(
    ("method", "low", "label"),
    [
        (IntervalMethod.STUDENT_T, 0.5, "here, over seeds"),
        (IntervalMethod.BOOTSTRAP, 0.5, "here, one seed, over images"),
        (IntervalMethod.NO_PREDICTIONS, None, "here, no interval"),
    ],
)
def test_a_difference_without_interval_does_not_pass_for_one_over_seeds(
    content, method, low, label
):
    bounds = {"difference": 1.0, "low": low, "high": None if low is None else 2.0}
    ours = dict.fromkeys(("AP", "AP50", "AP75"), bounds)
    content["rows"][0].update(method=method.value, ours=ours)
    handles = ablation_page._make_legend(from_json(AblationResults, content))
    assert [handle.get_label() for handle in handles] == [label, "the paper, on COCO"]
