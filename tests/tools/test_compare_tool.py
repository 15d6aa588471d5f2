"""Two result files compared from the command line."""

import json
import os
import shutil

import compare as tool
import numpy as np
import pytest
from comparison_cases import CATEGORIES, SIDE, write_pair
from pycocotools import mask as mask_util
from reference.overlap import text_rle

from mask_rcnn_ext.overlap.comparison import METRICS, load_results, load_truth, measure
from mask_rcnn_ext.overlap.lines import LINE_METRICS
from mask_rcnn_ext.report.comparison_gallery import draw_gallery, rank_differences


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    write_pair(folder)
    return folder


@pytest.fixture
def call(data, tmp_path):
    """Return a function that compares two files of `data`: (exit code, comparison.json)."""

    def compare(first, second, *more, images=True):
        command = ["--gt-json", str(data / "truth.json"), "--output", str(tmp_path / "out")]
        command += ["--images", str(data / "images")] if images else []
        command += ["--a", str(data / first), "--b", str(data / second), "--draws", "50", *more]
        code = tool.main(command)
        path = tmp_path / "out" / "comparison.json"
        return code, json.loads(path.read_text()) if path.is_file() else None

    return compare


def test_a_model_that_leaks_is_found_out(call, tmp_path, capsys):
    code, content = call("exact.json", "cut.json", "--names", "Mask R-CNN", "FCIS")
    assert code == 0
    metrics = content["metrics"]
    assert list(metrics) == list(METRICS)
    assert metrics["AP/AP"]["a"] == pytest.approx(100)
    assert metrics["errors/leak"]["a"] == metrics["errors/spurious_edge"]["a"] == 0
    assert metrics["errors/spurious_edge"]["b"] > 0
    assert metrics["errors/leak"]["high"] < 0
    assert metrics["overlap/AP_none"]["difference"] == pytest.approx(0, abs=1e-6)
    assert metrics["overlap/AP_heavy"]["difference"] > 10
    assert content["names"] == ["Mask R-CNN", "FCIS"]
    assert (content["counts"]["a"]["images"], content["counts"]["a"]["objects"]) == (6, 12)
    page = (tmp_path / "out/comparison.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3 * 3  # the images where objects meet
    assert page.count("leak 0 %") == 3 * 2  # said twice, to readers and as alternative text
    printed = capsys.readouterr().out
    assert "double claim, %" in printed
    assert printed.rstrip().endswith("comparison.png")


def test_the_image_that_differs_most_comes_first(data):
    truth = load_truth(data / "truth.json")
    exact, other = (load_results(data / name, truth) for name in ("exact.json", "cut.json"))
    mixed = {**exact, 2: [exact[2][0], other[2][1]], 4: other[4], 6: [exact[6][0], other[6][1]]}
    first, second = (measure(truth, found) for found in (exact, mixed))
    assert rank_differences(first, second)[0] == rank_differences(second, first)[0] == 4
    assert sorted(rank_differences(first, second)) == [2, 4, 6]
    drawn, problems = draw_gallery(truth, data / "images", (mixed, exact), (second, first), 1)
    assert problems == []
    assert [case.name for case in drawn] == ["4.png"]
    assert drawn[0].texts[0] == "2 objects"
    # An exact mask is drawn as its object is, in the same colour.
    np.testing.assert_array_equal(drawn[0].tiles[0], drawn[0].tiles[2])
    assert drawn[0].texts[1].startswith("leak ")
    assert not drawn[0].texts[1].startswith("leak 0 %")
    exact_text = "leak 0 % \u00b7 miss 0 % \u00b7 spurious edge 0 %"
    assert drawn[0].texts[2] == exact_text


def test_low_detections_without_a_match_are_not_drawn(data):
    truth = load_truth(data / "truth.json")
    exact, other = (load_results(data / name, truth) for name in ("exact.json", "cut.json"))
    spurious = json.loads((data / "exact.json").read_text())
    box = np.zeros((SIDE, SIDE), dtype=bool)
    box[5:15, 5:15] = True
    entry = {"image_id": 2, "category_id": CATEGORIES[1], "segmentation": text_rle(box)}
    path = data / "spurious.json"
    path.write_text(json.dumps([*spurious, {**entry, "score": 0.3}]))
    found = load_results(path, truth)

    def draw(first, threshold):
        records = measure(truth, first), measure(truth, other)
        drawn, _ = draw_gallery(
            truth, data / "images", (first, other), records, 1, score_threshold=threshold
        )
        assert drawn[0].name == "2.png"
        return drawn[0].tiles[1]

    np.testing.assert_array_equal(draw(exact, 0.5), draw(found, 0.5))
    assert (draw(exact, 0.2) != draw(found, 0.2)).any()


def test_a_file_without_detections_gives_zeros(call, tmp_path):
    code, content = call("exact.json", "none.json")
    assert code == 0
    assert content["metrics"]["AP/AP"]["b"] == 0
    assert content["metrics"]["errors/leak"]["b"] is None
    assert (tmp_path / "out/comparison.html").is_file()
    code, content = call("none.json", "none.json")
    assert code == 0
    assert content["metrics"]["overlap/AP_heavy"]["difference"] == 0


def test_without_images_there_are_no_pictures(call, tmp_path):
    assert call("exact.json", "cut.json", images=False)[0] == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["comparison.html", "comparison.json"]


def test_an_image_that_is_missing_is_said_on_the_page(call, data, tmp_path):
    moved = tmp_path / "4.png"
    shutil.move(data / "images/4.png", moved)
    try:
        code, content = call("exact.json", "cut.json")
    finally:
        shutil.move(moved, data / "images/4.png")
    assert code == 0
    assert "4.png" in " ".join(content["notes"])
    assert "4.png" in (tmp_path / "out/comparison.html").read_text()


def test_the_number_of_processes_is_passed_on(call, monkeypatch):
    asked, real = [], tool.measure

    def record(truth, found, *, progress, processes, **options):
        asked.append(processes)
        return real(truth, found, progress=progress, **options)

    monkeypatch.setattr(tool, "measure", record)
    assert call("exact.json", "cut.json", "--processes", "3", images=False)[0] == 0
    assert asked == [3, 3]


def test_the_number_of_detections_that_count_can_be_changed(call, tmp_path, capsys):
    default = call("exact.json", "cut.json", images=False)[1]
    more = call("exact.json", "cut.json", "--max-detections", "300", images=False)[1]
    assert more["notes"] == [
        "--max-detections: 300 detections of a class count in an image, at most."
    ]
    assert {**more, "notes": []} == default
    one = call("exact.json", "cut.json", "--max-detections", "1", images=False)[1]
    assert one["metrics"]["AP/AP"]["a"] < default["metrics"]["AP/AP"]["a"]
    assert call("exact.json", "cut.json", "--max-detections", "0")[0] == 2
    assert "--max-detections: expected 1 or more, got 0" in capsys.readouterr().err


def add_boxes(data, name, margin=0.5):
    """Write a result file with boxes larger than its masks by a margin; return its name."""
    entries = json.loads((data / name).read_text())
    for entry in entries:
        rle = entry["segmentation"]
        box = mask_util.toBbox({**rle, "counts": rle["counts"].encode()})
        entry["bbox"] = (box + margin * np.array([-1, -1, 2, 2])).tolist()
    (data / f"boxed_{name}").write_text(json.dumps(entries))
    return f"boxed_{name}"


def test_same_part_errors_of_files_with_boxes(call, data, tmp_path, capsys):
    first, second = (add_boxes(data, name) for name in ("exact.json", "cut.json"))
    code, content = call(first, second, "--parts", "1", images=False)
    assert code == 0
    assert content["parts"] == 1
    assert list(content["lines"]) == list(LINE_METRICS)
    same = content["lines"]["same_part/one_class/same"]
    assert (same["a"]["value"], same["a"]["low"]) == (0, 0)
    assert same["b"]["value"] > 5
    assert same["difference"]["high"] < 0
    assert content["lines"]["same_part/two_classes/same"]["a"]["value"] is None
    printed = capsys.readouterr().out
    assert "same-part error, pairs of one class, points" in printed
    assert "\nsame-part error: Pixel error where both RoIs" in printed
    page = (tmp_path / "out/comparison.html").read_text()
    assert "k = 1" in page
    assert "Pixel error where both RoIs read the same part" in page


def test_without_parts_the_page_has_the_axis_excess(call, tmp_path, capsys):
    code, content = call("exact.json", "cut.json", images=False)
    assert code == 0
    assert list(content["lines"]) == ["axis/excess"]
    assert "\naxis excess: Length of contour" in capsys.readouterr().out
    assert ">axis excess</th>" in (tmp_path / "out/comparison.html").read_text()


@pytest.mark.parametrize(
    ("first", "parts", "message"),
    [
        ("exact.json", "7", "has no 'bbox'"),
        ("boxed_exact.json", "7", "MODEL.FCIS.MASK_VOTING False"),
        ("exact.json", "0", "--parts"),
    ],
)
def test_parts_need_the_boxes_of_the_masks(call, data, tmp_path, capsys, first, parts, message):
    add_boxes(data, "exact.json", margin=0)
    second = "cut.json" if first == "exact.json" else first
    assert call(first, second, "--parts", parts) == (2, None)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_options_of_the_gallery_are_passed_on(call, monkeypatch):
    asked = []

    def record(truth, folder, detections, records, wanted, *, score_threshold):
        asked.append((wanted, score_threshold))
        return [], []

    monkeypatch.setattr(tool, "draw_gallery", record)
    call("exact.json", "cut.json", "--num-images", "7", "--score-threshold", "0.25")
    assert asked == [(7, 0.25)]


def wrong(change):
    def edit(entries):
        entries[3].update(change)
        return entries

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (wrong({"image_id": 99}), "image_id 99"),
        (wrong({"category_id": 4}), "category_id 4"),
        (wrong({"score": 1.5}), "1.5"),
        (wrong({"segmentation": {"size": [9, 9], "counts": "01"}}), "[9, 9]"),
        (lambda entries: [*entries, entries[3]], "same as detection 3"),
        (lambda entries: {"a": entries}, "expected a list"),
    ],
)
def test_a_bad_result_file_is_one_line_and_leaves_nothing(
    call, data, tmp_path, capsys, edit, message
):
    entries = json.loads((data / "exact.json").read_text())
    (data / "bad.json").write_text(json.dumps(edit(entries)))
    assert call("exact.json", "bad.json") == (2, None)
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("error: ")
    assert "bad.json" in err
    assert message in err
    assert not (tmp_path / "out").exists()


def test_both_files_are_read_before_either_is_measured(call, monkeypatch, capsys):
    monkeypatch.setattr(tool, "measure", lambda *args, **kwargs: pytest.fail("measured"))
    assert call("exact.json", "gone.json") == (2, None)
    assert "gone.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "occluded_shapes_vall"], "did you mean 'occluded_shapes_val'"),
        ([], "either --dataset"),
        (["--gt-json", "gone.json"], "gone.json"),
        (["--dataset", "occluded_shapes_val", "--images", "x"], "--images goes with --gt-json"),
        (["--gt-json", "gone.json", "--draws", "0"], "--draws"),
        (["--gt-json", "gone.json", "--score-threshold", "2"], "--score-threshold"),
    ],
)
def test_a_bad_command_line_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tool.main(["--a", "a.json", "--b", "b.json", "--output", "out", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert os.listdir(tmp_path) == []
