"""The report of a run: its folder, the pictures, the page, and what is said when parts lack."""

import html
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import make_report as tool
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from mask_rcnn_ext.config import get_cfg
from mask_rcnn_ext.report.gallery import choose_samples, draw_sample
from mask_rcnn_ext.report.run_data import read_predictions, read_run
from mask_rcnn_ext.report.run_page import write_report

# pycocotools' compiled code under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

NAMES = ["disk & <b>bold</b>", "square"]
SIDE = 40


def square_rle(x, y, side):
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    mask[y : y + side, x : x + side] = 1
    rle = mask_util.encode(mask)
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def write_data(folder, count):
    """Write `count` images, each with an object of each class, ids 3 and 7, and the json."""
    images, annotations = [], []
    for i in range(count):
        name = f"picture_{i:02d}.png"
        Image.fromarray(np.full((SIDE, SIDE, 3), 40 + i, dtype=np.uint8)).save(folder / name)
        images.append({"id": 100 + i, "file_name": name, "width": SIDE, "height": SIDE})
        for k, (category, x, y, side) in enumerate([(3, 2, 3, 10), (7, 20, 18, 16)]):
            annotations.append(
                {
                    "id": 2 * i + k + 1,
                    "image_id": 100 + i,
                    "category_id": category,
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                    "segmentation": square_rle(x, y, side),
                }
            )
    categories = [{"id": i, "name": n} for i, n in zip((3, 7), NAMES, strict=True)]
    path = folder / "data.json"
    content = {"images": images, "annotations": annotations, "categories": categories, "info": {}}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path, annotations


def metrics(folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.json").write_text(text, encoding="utf-8")


def results(**more):
    """Return what a run leaves in results.json."""
    ap = {"AP": 55.87, "AP50": 83.21, "AP75": 60.0, "APs": 33.0, "APm": 61.0, "APl": None}
    ap.update({f"AP-{NAMES[0]}": 70.04, f"AP-{NAMES[1]}": None})
    run = {
        "train_seconds": 372.4,
        "eval_seconds": 9.1,
        "peak_memory_mb": 1834.2,
        "device": "a cpu",
        "seed": 5,
        "versions": {"torch": "9.8.7"},
    }
    return {"segm": ap, "bbox": {"AP": 52.3, "AP50": 80.0}, **more, "run": run}


@pytest.fixture
def run_folder(tmp_path):
    """A complete run on a user's own data: 9 images, the second object found in each."""
    data_json, annotations = write_data(tmp_path, 9)
    folder = tmp_path / "run"
    (folder / "inference" / "own_val").mkdir(parents=True)
    cfg = get_cfg()
    data = cfg.MASK_RCNN_EXT.DATA
    data.TRAIN_JSON = data.VAL_JSON = str(data_json)
    data.TRAIN_IMAGES = data.VAL_IMAGES = str(tmp_path)
    cfg.MASK_RCNN_EXT.CATEGORY_IDS, cfg.MASK_RCNN_EXT.CLASS_NAMES = [3, 7], NAMES
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("own_train",), ("own_val",)
    cfg.SOLVER.BASE_LR = 0.0125
    (folder / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    metrics(
        folder,
        [
            {"iteration": 19, "total_loss": 3.0, "loss_mask": 0.7, "lr": 0.01},
            {"iteration": 39, "total_loss": 2.0, "loss_mask": 0.5, "lr": 0.01, "segm/AP": 41.0},
        ],
    )
    found = [
        {key: a[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
        | {"score": 0.9 if a["category_id"] == 7 else 0.3}
        for a in annotations
    ]
    predictions = folder / "inference" / "own_val" / "coco_instances_results.json"
    predictions.write_text(json.dumps(found), encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(results()), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, path):
        super().__init__()
        self.source = Path(path).read_text(encoding="utf-8")
        self.tags, self.text = [], ""
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += " " + data

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def test_a_complete_run_from_the_command_line(run_folder, capsys):
    assert tool.main([str(run_folder), "--num-images", "4"]) == 0
    assert capsys.readouterr().out.split() == [
        str(run_folder / "report.html"),
        str(run_folder / "predictions.png"),
    ]
    with Image.open(run_folder / "predictions.png") as sheet:
        assert 1600 <= sheet.width <= 2000
    page = Page(run_folder / "report.html")
    text = re.sub(r"\s+", " ", page.text)
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
        f"train_net.py --config-file {run_folder / 'config.yaml'}",
        "SEED 5",
        NAMES[0],
        f"Ground truth 1 \u00d7 {NAMES[0]}, 1 \u00d7 square",
        "Prediction 1 \u00d7 square",  # the other one is below the threshold
    ):
        assert expected in text, expected
    assert "Not on this page" not in text
    assert page.count("svg") == 4
    assert page.count("img") == 8
    assert sorted(os.listdir(run_folder)) == [
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
    text = re.sub(r"\s+", " ", page.text)
    assert "model_best.pth after 40 iterations, segm/AP 41.04" in text
    assert "Loss on the test set" in text
    assert "total_loss 1.234" in text
    assert "Dashed lines are losses on the test set" in text
    assert page.source.count(">best</text>") == 2  # total loss, test AP


def test_the_page_needs_nothing_from_outside_and_escapes_names(run_folder):
    assert tool.main([str(run_folder)]) == 0
    page = Page(run_folder / "report.html")
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


def test_the_same_run_gives_the_same_files(run_folder):
    files = [run_folder / "predictions.png", run_folder / "report.html"]
    tool.main([str(run_folder)])
    first = [file.read_bytes() for file in files]
    tool.main([str(run_folder)])
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
    assert (sample.predicted.masks[0] == sample.truth.masks[1]).all()
    left, right = draw_sample(sample, NAMES, SIDE * 4)
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


def test_the_page_says_what_the_check_of_the_data_warns_of(run_folder):
    assert tool.main([str(run_folder)]) == 0
    text = re.sub(r"\s+", " ", Page(run_folder / "report.html").text)
    assert "The check of the data warns" in text
    assert "data.json is the train and the val json: the same images." in text
    write_report(run_folder, train_names=["own_train"])
    assert "The check of the data warns" not in Page(run_folder / "report.html").text


def test_further_tasks_become_tables(run_folder):
    levels = {
        "none": {"AP": 61.25, "objects": 120},
        "heavy": {"AP": None, "objects": 7, "leak": 0.0123},
    }
    content = results(overlap=levels, boundary={"AP": 44.44})
    (run_folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    write_report(run_folder)
    text = re.sub(r"\s+", " ", Page(run_folder / "report.html").text)
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
    text = re.sub(r"\s+", " ", Page(run_folder / "report.html").text)
    assert "easy AP" in text
    assert "hard AP" in text
