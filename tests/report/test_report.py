"""The report of a run: its folder, the pictures, the page, and what is said when parts lack."""

import contextlib
import html
import io
import json
import os
import re
import shlex
from pathlib import Path

import make_report as tool
import numpy as np
import pytest
from PIL import Image
from report_runs import NAMES, SIDE, Page, results, write_run
from support import change_json

from mask_rcnn_ext.config import get_cfg
from mask_rcnn_ext.report.gallery import choose_samples, draw_truth_and_prediction
from mask_rcnn_ext.report.run_data import read_predictions, read_run
from mask_rcnn_ext.report.run_page import write_report

OPTIONS = ["--num-images", "4", "--score-threshold", "0.5"]


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a run with its report, and what the command has printed."""
    folder, printed = write_run(tmp_path_factory.mktemp("a folder")), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert tool.main([str(folder), *OPTIONS]) == 0
    return folder, printed.getvalue()


def test_a_complete_run_from_the_command_line(made):
    run_folder, printed = made
    *paths, threshold = printed.splitlines()
    assert threshold.startswith("Best score threshold: ")
    assert shlex.split(threshold)[-2:] == ["--score-threshold", f"{run_folder / 'analysis.json'}"]
    assert paths == [
        str(run_folder / "report.html"),
        str(run_folder / "analysis.json"),
        str(run_folder / "predictions.png"),
    ]
    with Image.open(run_folder / "predictions.png") as sheet:
        assert 1600 <= sheet.width <= 2000
    page = Page(run_folder / "report.html")
    text = page.text
    for expected in (
        "55.9",  # mask AP
        "83.2",
        "52.3",  # box AP
        "70.0",  # of a class
        "6 min 12 s",
        "a cpu",
        "9.8.7",
        "9 images, 18 objects, 2 classes",
        "4 of the 9 images of own_val",
        "score >= 0.5",
        "SOLVER.BASE_LR 0.0125 0.001",
        f"mask-rcnn-ext train --config-file {shlex.quote(str(run_folder / 'config.yaml'))}",
        "SEED 5",
        NAMES[0],
        f"Ground truth 1 \u00d7 {NAMES[0]}, 1 \u00d7 square",
        "Prediction 1 \u00d7 square",  # the other one is below the threshold
    ):
        assert expected in text, expected
    assert "Not on this page" not in text
    assert page.count("svg") == 8  # 4 of training, 4 of the analysis
    assert page.count("img") == 26  # 4 images, the 5 worst ones and the 4 best ones
    assert sorted(os.listdir(run_folder)) == [
        "analysis.json",
        "config.yaml",
        "inference",
        "metrics.json",
        "predictions.png",
        "report.html",
        "results.json",
    ]


def test_a_run_that_kept_its_best_model(run_folder):
    best = {"metric": "segm/AP", "value": 41.04, "iteration": 39}
    content = results(validation_loss={"loss_mask": 0.61, "total_loss": 1.234})
    content["run"]["best"] = best
    (run_folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    line = {"iteration": 39, "validation_loss/loss_mask": 0.61, "validation_loss/total_loss": 1.2}
    with (run_folder / "metrics.json").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    write_report(run_folder)
    page = Page(run_folder / "report.html")
    text = page.text
    assert "model_best.pth after 40 iterations, segm/AP 41.04" in text
    assert "Loss on the test set" in text
    assert "total_loss 1.234" in text
    assert "Dashed lines are losses on the test set" in text
    assert page.source.count(">best</text>") == 2  # total loss, test AP


def test_the_page_needs_nothing_from_outside_and_escapes_names(made):
    page = Page(made[0] / "report.html")
    assert page.count("script") == page.count("link") == 0
    assert not any(key in attrs for _, attrs in page.tags for key in ("href", "onclick", "onload"))
    sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert "@import" not in page.source
    assert NAMES[0] not in page.source
    assert html.escape(NAMES[0]) in page.source


def test_the_same_run_gives_the_same_files(made):
    names = ("predictions.png", "report.html", "analysis.json")
    files = [made[0] / name for name in names]
    first = [file.read_bytes() for file in files]
    tool.main([str(made[0]), *OPTIONS])
    assert [file.read_bytes() for file in files] == first


def test_the_prediction_is_drawn_over_its_image(run_folder):
    run = read_run(run_folder)
    tool.find_data(run.config, str(run_folder))
    samples, problems = choose_samples("own_val", read_predictions(run, "own_val"), 1, 0.5)
    assert problems == []
    (sample,) = samples
    assert sample.name == "picture_04.png"  # the middle of nine
    assert (sample.predicted.classes, sample.predicted.scores) == ([1], [0.9])
    np.testing.assert_array_equal(sample.predicted.boxes, [[20, 18, 36, 34]])
    found, expected = (shown.masks.unpack() for shown in (sample.predicted, sample.truth))
    assert (found[0] == expected[1]).all()
    left, right = draw_truth_and_prediction(sample, NAMES, SIDE * 4)
    inside, missed = (30 * 4, 28 * 4), (5 * 4, 8 * 4)  # x, y in the second and the first object
    assert (left[inside[::-1]] == right[inside[::-1]]).all()  # found: the same colour
    assert (left[missed[1], missed[0]] != right[missed[1], missed[0]]).any()


def test_parts_that_lack_are_said_and_do_not_stop_the_page(run_folder):
    for name in ("metrics.json", "results.json", "inference/own_val/coco_instances_results.json"):
        (run_folder / name).unlink()
    assert tool.main([str(run_folder)]) == 0
    page = Page(run_folder / "report.html")
    assert "No metrics.json" in page.text
    assert "No results.json" in page.text
    assert "No pictures" in page.text
    assert page.count("svg") == page.count("img") == 0
    assert not (run_folder / "predictions.png").exists()
    assert not (run_folder / "analysis.json").exists()


def test_files_of_an_earlier_report_are_told_apart(run_folder):
    assert tool.main([str(run_folder)]) == 0
    before = (run_folder / "analysis.json").read_bytes()
    (run_folder / "inference/own_val/coco_instances_results.json").unlink()
    assert tool.main([str(run_folder)]) == 0
    text = Page(run_folder / "report.html").text
    for name in ("analysis.json", "predictions.png"):
        assert f"{name} in this folder is of an earlier report." in text
    assert (run_folder / "analysis.json").read_bytes() == before


def test_data_that_has_gone_is_said(run_folder):
    (run_folder.parent / "data.json").unlink()
    assert tool.main([str(run_folder)]) == 0
    page = Page(run_folder / "report.html")
    assert "cannot be read any more" in page.text
    assert "55.9" in page.text


def test_no_test_set_is_said(run_folder):
    (run_folder / "config.yaml").write_text(get_cfg().dump(), encoding="utf-8")
    assert tool.main([str(run_folder)]) == 0
    assert "names no test set" in Page(run_folder / "report.html").text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no folder"),
        (["."], "config.yaml"),
        ([".", "--num-images", "0"], "--num-images"),
        ([".", "--score-threshold", "50"], "--score-threshold"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tool.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert os.listdir(tmp_path) == []


def test_the_page_says_what_the_check_of_the_data_warns_of(made, run_folder):
    text = Page(made[0] / "report.html").text
    assert "The check of the data warns" in text
    assert "data.json is the train and the val json: the same images." in text
    tool.find_data(read_run(run_folder).config, str(run_folder))
    write_report(run_folder, train_names=["own_train"])
    assert "The check of the data warns" not in Page(run_folder / "report.html").text


def test_images_that_the_run_has_skipped_are_not_analyzed(run_folder):
    """They are readable again, for example after a lost mount."""
    tool.main([str(run_folder), *OPTIONS])
    whole = json.loads((run_folder / "analysis.json").read_text())
    predictions = run_folder / "inference/own_val/coco_instances_results.json"
    with change_json(predictions) as found:
        found[:] = [each for each in found if each["image_id"] != 100]
    with change_json(run_folder / "results.json") as content:
        path = run_folder.parent / "picture_00.png"
        content["run"]["skipped_images"] = {str(path): f"{path}: cut off"}
    tool.main([str(run_folder), *OPTIONS])
    left = json.loads((run_folder / "analysis.json").read_text())
    assert [each["images"] for each in (whole, left)] == [9, 8]
    assert [each["objects"] for each in (whole, left)] == [18, 16]
    assert whole["ap"]["AP"]["value"] == left["ap"]["AP"]["value"] == 100


def test_further_tasks_become_tables(run_folder):
    levels = {
        "none": {"AP": 61.25, "objects": 120},
        "heavy": {"AP": None, "objects": 7, "leak": 0.0123},
    }
    content = results(overlap=levels, boundary={"AP": 44.44})
    (run_folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    write_report(run_folder)
    text = Page(run_folder / "report.html").text
    assert "By overlap with other objects level AP objects leak" in text
    assert "none 61.2 120 \u2013 heavy \u2013 7 0.0123" in text
    assert "boundary value AP 44.4" in text


def test_results_of_several_test_sets(run_folder):
    cfg = get_cfg()
    cfg.DATASETS.TEST = ("easy", "hard")
    (run_folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    content = {"easy": {"segm": {"AP": 60.0}}, "hard": {"segm": {"AP": 30.0}}, "run": {}}
    (run_folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    assert read_run(run_folder).results == {
        "easy": {"segm": {"AP": 60.0}},
        "hard": {"segm": {"AP": 30.0}},
    }
    write_report(run_folder)
    text = Page(run_folder / "report.html").text
    assert "easy AP" in text
    assert "hard AP" in text


def test_the_ap_of_an_exported_model_that_was_evaluated(run_folder):
    write_report(run_folder)
    assert "Exported models" not in (run_folder / "report.html").read_text()
    cfg = get_cfg()
    for weights, ap in (("export/model.onnx", 41.26), ("model_0000009.pth", 12.3)):
        folder = run_folder / "evaluations" / Path(weights).stem
        folder.mkdir(parents=True)
        cfg.MODEL.WEIGHTS = f"/somewhere/{weights}"
        cfg.DATASETS.TEST, cfg.MASK_RCNN_EXT.DATA.VAL_JSON = ("own_val",), "/data/new.json"
        (folder / "config.yaml").write_text(cfg.dump())
        content = {"bbox": {"AP": 50.0}, "segm": {"AP": ap}, "run": {}}
        (folder / "results.json").write_text(json.dumps(content))
    (run_folder / "evaluations" / "unfinished").mkdir()
    write_report(run_folder)
    page = (run_folder / "report.html").read_text()
    section = page[page.index("Exported models") :]
    row = section[section.index("<tbody>") : section.index("</tbody>")]
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row)
    assert cells == ["model.onnx", "new.json", "41.3", "50.0"]


@pytest.mark.parametrize(
    "info",
    [
        7,
        None,
        {"skipped_images": None, "versions": [1], "data_sha256": "x", "best": 3},
        {"best": {"iteration": 3}},
        {"best": {"iteration": 3, "value": "high", "metric": "segm/AP"}},
    ],
)
def test_run_info_of_another_program_is_left_out(run_folder, info):
    content = {"own_val": {"segm": {"AP": 41.0}, "bbox": 5}, "run": info}
    (run_folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    assert tool.main([str(run_folder), *OPTIONS]) == 0
    text = Page(run_folder / "report.html").text
    assert "41.0" in text
    assert "model_best.pth" not in text
