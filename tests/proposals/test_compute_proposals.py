"""Stored proposals: the file, resuming, processes, mistakes."""

import json
import os
import pickle
import shutil
import time

import compute_proposals
import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.build import get_detection_dataset_dicts, load_proposals_into_dataset
from detectron2.data.datasets import register_coco_instances
from reference.proposal_recall import recall_at
from small_runs import read_error
from support import change_json, needs_search, write_coco

from mask_rcnn_ext import UserError
from mask_rcnn_ext.proposals import compute as module
from mask_rcnn_ext.proposals.compute import compute_proposals as compute

DATA = "proposals_of_rectangles"
IMAGES = 12  # two parts


@pytest.fixture(scope="module")
def coco(tmp_path_factory, forget_data_sets_of_file):
    """A registered data set; returns its json and its image folder."""
    paths = write_coco(tmp_path_factory.mktemp("data"), images=IMAGES)
    register_coco_instances(DATA, {}, *map(str, paths))
    return paths


def search(output, *arguments: str) -> int:
    options = ["--dataset", DATA, "--output", str(output)]
    return compute_proposals.main(["selective-search", *options, *arguments])


@pytest.fixture(scope="module")
def stored(coco, tmp_path_factory):
    """The folder of finished proposals; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("stored")
    assert search(folder) == 0
    return folder


def read(path):
    return pickle.loads(path.read_bytes())


class Corners:
    """Proposes two boxes that depend on the image alone; counts the images; can fail at one."""

    def __init__(self, fail_at=None, how=None):
        self.fail_at, self.how, self.seen = fail_at, how, 0

    def settings(self):
        return {"method": "corners"}

    def start(self, rank):
        return self.propose

    def propose(self, record):
        if record["image_id"] == self.fail_at:
            self.how()
        self.seen += 1
        boxes = np.array([[0, 0, record["image_id"] + 1, 9], [0, 0, 5, 5]], np.float32)
        return boxes[: record["image_id"] % 3], np.zeros(2, np.float32)[: record["image_id"] % 3]


# ---------------------------------------------------------------- selective search


@needs_search
def test_stock_detectron2_reads_the_file(stored):
    file = str(stored / f"{DATA}.pkl")
    records = load_proposals_into_dataset(DatasetCatalog.get(DATA), file)
    assert len(records) == IMAGES
    for record in records:
        boxes, logits = record["proposal_boxes"], record["proposal_objectness_logits"]
        assert record["proposal_bbox_mode"] == 0  # XYXY_ABS
        assert boxes.dtype == logits.dtype == np.float32
        assert len(boxes) == len(logits) > 3
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] <= [64, 48]).all()
        assert (boxes[:, 2:] - boxes[:, :2] >= 5).all()
        assert len(np.unique(boxes, axis=0)) == len(boxes)
        assert (np.diff(logits) == -1).all()
    dicts = get_detection_dataset_dicts([DATA], proposal_files=[file])
    assert all("proposal_boxes" in record for record in dicts)


@needs_search
def test_the_json_has_recall_and_settings(stored, coco, capsys):
    summary = json.loads((stored / f"{DATA}.json").read_text())
    settings = [summary[key] for key in ("method", "mode", "topk")]
    assert settings == ["selective-search", "fast", 2000]
    content = read(stored / f"{DATA}.pkl")
    assert summary["proposals_per_image"] == np.mean([len(boxes) for boxes in content["boxes"]])
    assert 0 < summary["seconds_per_image"] < 1
    objects = [
        [(x, y, x + w, y + h) for x, y, w, h in (a["bbox"] for a in r["annotations"])]
        for r in DatasetCatalog.get(DATA)
    ]
    expected = recall_at(list(zip(content["boxes"], objects, strict=True)), 0.5)
    assert summary["recall"]["recall_50"] == pytest.approx(expected)
    assert expected > 50  # bright rectangles
    assert search(stored) == 0  # nothing to do, but it is reported again
    line = capsys.readouterr().out.splitlines()[0]
    assert f"{DATA}: {IMAGES} images" in line
    assert f"recall {expected:.1f} at IoU 0.5" in line


def test_another_opencv_is_reported(coco, tmp_path, capsys, monkeypatch):
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    assert search(tmp_path / "out") == 2
    error = read_error(capsys)
    assert "pip install opencv-contrib-python" in error
    assert "uninstall" in error
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- resuming and processes


def interrupted():
    raise KeyboardInterrupt


def killed():
    os._exit(9)


def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(coco, tmp_path):
    compute(Corners(), [DATA], tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        compute(Corners(fail_at=IMAGES, how=interrupted), [DATA], tmp_path / "out")
    parts = tmp_path / f"out/{DATA}.parts"
    assert sorted(p.name for p in parts.iterdir()) == ["000000.npz", "settings.json"]
    (parts / "notes.txt").write_text("of a user")
    assert not (tmp_path / f"out/{DATA}.pkl").exists()
    method = Corners()
    compute(method, [DATA], tmp_path / "out")
    assert method.seen == IMAGES - module.IMAGES_PER_PART  # only what was missing
    whole, resumed = (tmp_path / folder / f"{DATA}.pkl" for folder in ("whole", "out"))
    assert resumed.read_bytes() == whole.read_bytes()
    assert [p.name for p in parts.iterdir()] == ["notes.txt"]
    others = set(resumed.parent.iterdir()) - {parts}
    assert sorted(p.name for p in others) == [f"{DATA}.json", f"{DATA}.pkl"]
    content = read(resumed)
    assert [len(boxes) for boxes in content["boxes"]] == [i % 3 for i in content["ids"]]


def test_a_mistake_in_one_of_two_processes_stops_the_work(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_START", "fork")
    monkeypatch.setattr(module, "IMAGES_PER_PART", 1)

    def broken():
        raise UserError("image 1 is broken")

    def slow(record):
        time.sleep(0.3)
        return corners(record)

    method = Corners(fail_at=1, how=broken)
    corners = method.propose
    monkeypatch.setattr(method, "propose", slow)
    with pytest.raises(UserError, match="image 1 is broken"):
        compute(method, [DATA], tmp_path / "out", processes=2)
    done = list(tmp_path.rglob("*.npz"))
    assert len(done) < IMAGES - 4  # what was at work, and what waited for it
    assert bool(done) == (tmp_path / f"out/{DATA}.parts/settings.json").exists()
    assert not (tmp_path / f"out/{DATA}.pkl").exists()


def test_two_processes_give_the_same_bytes(coco, tmp_path, monkeypatch):
    # A new Python would import everything again, which takes longer than all tests here.
    monkeypatch.setattr(module, "_START", "fork")
    for processes in (1, 2):
        compute(Corners(), [DATA], tmp_path / str(processes), processes=processes)
    one, two = (tmp_path / folder / f"{DATA}.pkl" for folder in "12")
    assert one.read_bytes() == two.read_bytes()


def test_a_killed_process_is_reported_and_the_rest_is_kept(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_START", "fork")
    method = Corners(fail_at=IMAGES, how=killed)
    with pytest.raises(UserError, match="a process was killed"):
        compute(method, [DATA], tmp_path, processes=2)
    compute(Corners(), [DATA], tmp_path)
    assert len(read(tmp_path / f"{DATA}.pkl")["ids"]) == IMAGES


@needs_search
def test_other_settings_are_refused_unless_they_may_replace(stored, tmp_path, capsys):
    folder = shutil.copytree(stored, tmp_path / "out")
    file = folder / f"{DATA}.pkl"
    before = file.read_bytes()
    assert search(folder, "--topk", "3") == 2
    assert "made with topk 2000, now it is 3" in read_error(capsys)
    assert file.read_bytes() == before
    assert search(folder, "--topk", "3", "--overwrite") == 0
    assert max(map(len, read(file)["boxes"])) == 3
    stamp = file.stat().st_mtime_ns
    assert search(folder, "--topk", "3", "--overwrite") == 0  # the same settings: left alone
    assert file.stat().st_mtime_ns == stamp


def test_unfinished_parts_of_other_settings_are_refused(coco, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compute(Corners(fail_at=IMAGES, how=interrupted), [DATA], tmp_path)
    other = Corners()
    other.settings = lambda: {"method": "other corners"}
    with pytest.raises(UserError, match=r"\.parts already exists, made with method corners"):
        compute(other, [DATA], tmp_path)
    compute(other, [DATA], tmp_path, overwrite=True)
    assert other.seen == IMAGES


def test_a_damaged_part_is_reported(coco, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        compute(Corners(fail_at=IMAGES, how=interrupted), [DATA], tmp_path)
    (tmp_path / f"{DATA}.parts/000000.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"000000\.npz is damaged"):
        compute(Corners(), [DATA], tmp_path)


# ---------------------------------------------------------------- mistakes


def test_own_data_has_the_names_of_train_net(coco, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compute_proposals, "build_method", lambda args: Corners())
    own = ["--val-json", str(coco[0]), "--val-images", str(coco[1])]
    args = ["selective-search", "--output", str(tmp_path), *own]
    assert compute_proposals.main(args) == 0
    assert read(tmp_path / "own_val.pkl")["ids"] == list(range(1, IMAGES + 1))
    assert f"{tmp_path}/own_val.pkl" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "no_set"], "unknown data set 'no_set'"),
        (["--dataset", "no_set", "MODEL.WEIGHTS", "x"], "MODEL.WEIGHTS is a config key"),
        ([], "no data: expected --dataset NAME"),
        (["--val-json", "f.json"], "needs its counterpart: also give --val-images"),
        (["--dataset", DATA, "--topk", "0"], "--topk: expected 1 or more, got 0"),
        (["--dataset", DATA, "--width", "-1"], "--width: expected 0 or more"),
        (["--dataset", DATA, "--processes", "0"], "--processes: expected 1 or more"),
    ],
    ids=["unknown", "key", "none", "half", "topk", "width", "processes"],
)
@needs_search
def test_mistakes_are_one_line(coco, tmp_path, capsys, arguments, message):
    out = ["--output", str(tmp_path / "out")]
    assert compute_proposals.main(["selective-search", *arguments, *out]) == 2
    assert message in read_error(capsys)
    assert not (tmp_path / "out").exists()


@needs_search
def test_an_output_that_is_no_folder(coco, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert search(tmp_path / "out") == 2
    assert "cannot be written to" in read_error(capsys)


@needs_search
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no image", "cannot be read as an image"), (None, "expected 64 x 48 pixels")],
    ids=["unreadable", "other-size"],
)
def test_an_image_that_cannot_be_used(coco, tmp_path, capsys, monkeypatch, content, message):
    folder = shutil.copytree(coco[1], tmp_path / "images")
    if content:
        (folder / "003.png").write_bytes(content)
    else:
        cv2.imwrite(str(folder / "003.png"), np.zeros((10, 20, 3), np.uint8))
    records = DatasetCatalog.get(DATA)
    for record in records:
        record["file_name"] = record["file_name"].replace(str(coco[1]), str(folder))
    monkeypatch.setitem(DatasetCatalog.data, DATA, lambda: records)
    assert search(tmp_path / "out") == 2
    error = read_error(capsys)
    assert message in error
    assert "003.png" in error
    assert not (tmp_path / "out").exists()  # it was in the first part


@needs_search
def test_own_boxes_without_masks_are_enough(tmp_path, capsys):
    path, images = write_coco(tmp_path / "data", images=2)
    with change_json(path) as content:
        for annotation in content["annotations"]:
            del annotation["segmentation"]
    own = ["--train-json", str(path), "--train-images", str(images)]
    args = ["selective-search", *own, "--output", str(tmp_path / "out")]
    assert compute_proposals.main(args) == 0
    assert "(4 objects)" in capsys.readouterr().out
