"""The benchmark of COCO evaluation: its data, its comparison of outputs, one small run."""

import json
from pathlib import Path

import benchmark
import pytest
from benchmarking import coco_data, evaluation
from benchmarking.evaluate_once import BASELINE, evaluate_once
from detectron2.data import MetadataCatalog

from mask_rcnn_ext.evaluation.compiled_coco import find_compiled_version


@pytest.mark.skipif(find_compiled_version() is None, reason="hotcoco is not installed")
def test_a_small_run_says_that_the_outputs_are_equal(tmp_path, capsys, monkeypatch):
    """One contender runs in this process: to start another one takes seconds."""
    start = evaluation.run_in_process

    def run(module, name, task, folder):
        if name == BASELINE:
            return evaluate_once(name, task, Path(folder))
        return start(module, name, task, folder)

    monkeypatch.setattr(evaluation, "run_in_process", run)
    path = tmp_path / "benchmark.json"
    options = ["--images", "4", "--rounds", "1", "--tasks", "segm", "--output", str(path)]
    assert benchmark.main(["evaluation", *options]) == 0
    rows = json.loads(path.read_text())["evaluation"]["rows"]
    case = "segm, 4 images, 144 detections"
    assert [row["case"] for row in rows] == [case] * 2 + [f"{case}, matching alone"] * 2
    assert [row["output"] for row in rows] == ["", "equal", "", ""]
    for whole, part in zip(rows[:2], rows[2:], strict=True):
        assert 0 < part["seconds"] < whole["seconds"]
    assert rows[1]["verdict"] == "no verdict: fewer than 3 rounds"
    assert 50 < rows[0]["peak_mb"] < 5000
    assert "hotcoco" in capsys.readouterr().out
    MetadataCatalog.remove("benchmark_coco")


def test_what_differs_is_named():
    report = {"arrays": "a", "metrics": "m", "file": "f"}
    assert evaluation._compare_outputs([report], [report]) == "equal"
    other = report | {"arrays": "b"}
    assert evaluation._compare_outputs([report, report], [report, other]) == "differs: arrays"


@pytest.mark.parametrize("keypoints", [False, True])
def test_the_data_come_from_the_seed_and_lie_in_the_images(keypoints):
    content, predictions = coco_data.make_coco_data(3, 5, keypoints)
    assert (content, predictions) == coco_data.make_coco_data(3, 5, keypoints)
    assert len(content["annotations"]) == 21
    found = [entry for image in predictions for entry in image["instances"]]
    assert len(found) == 108
    for x, y, w, h in (entry["bbox"] for entry in (*content["annotations"], *found)):
        assert x >= 0
        assert y >= 0
        assert x + w <= coco_data.WIDTH
        assert y + h <= coco_data.HEIGHT
    assert all(("keypoints" in entry) == keypoints for entry in found)


def test_wrong_numbers_and_a_missing_library_are_errors(monkeypatch, capsys):
    assert benchmark.main(["evaluation", "--images", "0"]) == 2
    assert "--images: expected 1 or more" in capsys.readouterr().err
    monkeypatch.setattr(evaluation, "find_compiled_version", lambda: None)
    assert benchmark.main(["evaluation"]) == 2
    assert "pip install" in capsys.readouterr().err
