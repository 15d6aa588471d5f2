"""The analysis in the report of a run: what it says, names that look like code, other models."""

import json
import shlex
from pathlib import Path

import make_report as tool
import pytest
from detectron2.data import MetadataCatalog
from report_runs import Page, write_run

from mask_rcnn_ext.overlap.analysis.analysis import Confusion
from mask_rcnn_ext.report.analysis_view import view_confusion
from mask_rcnn_ext.report.run_analysis import analyze_run
from mask_rcnn_ext.report.run_data import read_predictions, read_run
from mask_rcnn_ext.report.run_page import write_report
from mask_rcnn_ext.report.text import NO_NUMBER

NAMES = ["disk", "square"]
PREDICTIONS = "inference/own_val/coco_instances_results.json"


@pytest.fixture
def run_folder(tmp_path):
    return write_run(tmp_path, NAMES)


def change(folder, edit):
    """Change the list of predictions by a function; it may return another list."""
    path = folder / PREDICTIONS
    found = json.loads(path.read_text())
    path.write_text(json.dumps(edit(found) or found))


def make(folder, *options):
    """Return the page's text, and what is in analysis.json."""
    assert tool.main([str(folder), *options]) == 0
    content = json.loads((folder / "analysis.json").read_text())
    return Page(folder / "report.html").text, content


def analyze(folder):
    """Return the analysis of a run, from Python."""
    run = read_run(folder)
    tool.find_data(run.config, str(folder))
    return analyze_run(run, "own_val", read_predictions(run, "own_val"))


def test_the_page_says_what_the_analysis_found(run_folder, capsys):
    def spoil(found):
        found[0]["category_id"] = 7  # a disk as a square, with a score of 0.3
        found[3]["score"] = 0.2  # a square

    change(run_folder, spoil)
    text, content = make(run_folder)
    printed = capsys.readouterr().out
    assert "Best score threshold: 0.1 (f1 0.94, precision 0.94, recall 0.94). To" in printed
    path = shlex.quote(str(run_folder / "analysis.json"))
    assert f"--score-threshold {path}\n" in printed
    assert content["dataset"] == "own_val"
    assert content["iou"] == "mask"
    assert content["thresholds"] == {"disk": 0.15, "square": 0.1}
    assert content["chosen"] == content["best"]
    assert content["best"]["threshold"] == 0.1  # 17 of 18 are right; without the last one 16 of 17
    assert content["confusion"]["counts"] == [[8, 1, 0], [0, 9, 0], [0, 0, 0]]
    for expected in (
        "95 % intervals of mask AP: AP",
        "classification IoU of 0.5 or more with an object of another class",
        "Confusion matrix, scores of 0.1 or more",
        "true \\ detected disk square background disk 8 1 0 square 0 9 0 background 0 0",
        "The most frequent confusions of two classes true class detected as objects disk square 1",
        "small: up to 32² pixels 18",
        "all together 0.1 0.94 0.94 0.94",
        "disk 0.15 0.94 1.00 0.89 square 0.1 0.95 0.90 1.00",
        "Expected calibration error: ",
        "picture_00.png · quality 0.50: 1 of 2 objects found, 1 wrong",
        "quality 1.00: 2 of 2 objects found, 0 wrong",
    ):
        assert expected in text, expected
    page = Page(run_folder / "report.html")
    labels = [attrs["aria-label"] for tag, attrs in page.tags if "aria-label" in attrs]
    for start in ("All classes: precision over recall", "F1, precision and recall", "Reliability"):
        assert any(label.startswith(start) for label in labels), start


def test_the_threshold_of_the_command_line_counts(run_folder):
    text, content = make(run_folder, "--score-threshold", "0.5")
    assert content["chosen"]["threshold"] == 0.5
    assert content["thresholds"] == analyze(run_folder).thresholds
    assert content["confusion"]["counts"] == [[0, 0, 9], [0, 9, 0], [0, 0, 0]]
    assert "Confusion matrix, scores of 0.5 or more" in text
    assert "score >= 0.5" in text


HOSTILE = [
    """"><script>alert(1)</script> ' style='x $\\frac{1}$ {{ 7 * 7 }}""",
    "</title></svg><img src=x onerror=alert(2)> {% raw %}<!--&lt;" + "a" * 200,
]


def test_hostile_names_stay_text(tmp_path):
    folder = write_run(tmp_path, HOSTILE)
    _, content = make(folder)
    assert list(content["thresholds"]) == HOSTILE
    page = Page(folder / "report.html")
    assert page.count("script") == 0
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in page.tags if tag == "img")
    titles = [attrs["title"] for tag, attrs in page.tags if tag == "span" and "title" in attrs]
    assert titles == [*HOSTILE, "background"]
    for name in HOSTILE:
        assert page.text.count(name) >= 4  # AP, matrix, thresholds, legend


def test_names_from_right_to_left_keep_the_order_of_the_counts(tmp_path):
    names = ["\u0642\u0637", "\u05db\u05dc\u05d1"]  # a cat in Arabic, a dog in Hebrew
    text, content = make(write_run(tmp_path, names))
    first, second = (f"1 \u00d7 \u2068{name}\u2069" for name in names)
    assert f"Ground truth {first}, {second}" in text
    assert list(content["thresholds"]) == names


@pytest.mark.parametrize("keypoints", [False, True], ids=["boxes", "keypoints"])
def test_a_model_without_masks_is_analyzed_by_its_boxes(run_folder, keypoints):
    def strip(found):
        for result in found:
            del result["segmentation"]
            if keypoints:
                result["keypoints"] = [1.0, 2.0, 0.5] * 3

    change(run_folder, strip)
    found = analyze(run_folder)
    assert (found.iou, found.ap["AP"].value) == ("box", pytest.approx(100))
    text, _ = make(run_folder)
    assert "95 % intervals of box AP" in text
    assert "mask-rcnn-ext compare" not in text  # which needs masks


def test_a_model_that_found_nothing(run_folder, capsys):
    change(run_folder, lambda found: found.clear())
    text, content = make(run_folder)
    assert "No score threshold is best: no detection is right." in capsys.readouterr().out
    assert content["iou"] == "mask"  # as results.json says
    assert content["ap"]["AP"]["value"] == 0
    assert content["thresholds"] == dict.fromkeys(NAMES)
    assert content["confusion"]["counts"] == [[0, 0, 9], [0, 0, 9], [0, 0, 0]]
    dashes = " ".join([NO_NUMBER] * 4)
    assert f"all together {dashes}" in text
    assert f"disk {dashes} square {dashes}" in text
    assert "score >= 0.5" in text


def test_a_broken_detection_is_one_line_and_leaves_no_file(run_folder, capsys):
    change(run_folder, lambda found: found[4].update(score=7))
    assert tool.main([str(run_folder)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: detections of image 102: expected a score from 0 to 1, got 7")
    assert not (run_folder / "report.html").exists()
    assert not (run_folder / "analysis.json").exists()


def test_pictures_that_have_gone_are_said_shortly(run_folder):
    run = read_run(run_folder)
    tool.find_data(run.config, str(run_folder))
    for path in run_folder.parent.glob("picture_*.png"):
        path.unlink()
    write_report(run_folder, test_names=["own_val"])
    text = Page(run_folder / "report.html").text
    assert text.count("A picture is left out: ") == 3
    assert "6 more pictures are left out in the same way." in text  # 9 images
    assert "Confusion matrix" in text
    assert not (run_folder / "predictions.png").exists()


def test_a_data_set_without_annotations_is_said(run_folder):
    run = read_run(run_folder)
    tool.find_data(run.config, str(run_folder))
    path = Path(MetadataCatalog.get("own_val").json_file)
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    write_report(run_folder, test_names=["own_val"])
    text = Page(run_folder / "report.html").text
    assert "No analysis: data set own_val has no annotations in COCO's format." in text
    assert "score >= 0.5" in text
    assert not (run_folder / "analysis.json").exists()


def test_the_matrix_shows_the_classes_with_the_most_errors():
    counts = [[0] * 16 for _ in range(16)]
    for k in range(15):
        counts[k][k] = 5
    counts[14][2] = counts[3][15] = 2  # class 14 as class 2; class 3 missed
    names = [f"class {k}" for k in range(15)]
    columns, rows, left_out = view_confusion(Confusion(names, counts))
    assert left_out == 3
    assert len(columns) == len(rows) == 13
    assert {"class 2", "class 3", "class 14", "background"} <= set(columns)
    assert rows[-1][1][-1] == (None, "")  # nothing that is detected as nothing
