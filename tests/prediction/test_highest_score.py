"""The highest score of a prediction that found nothing: from a few tiles, without their masks."""

import re

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image
from tiny_model import picture, tiny_cfg, tiny_model

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.data.images import read_bgr
from mask_rcnn_ext.layers.packed_masks import PackedMasks
from mask_rcnn_ext.prediction import tiled
from mask_rcnn_ext.prediction.folder import FolderJob
from mask_rcnn_ext.prediction.highest_score import (
    MOST_TILES,
    describe_highest_in_images,
    describe_highest_in_video,
)
from mask_rcnn_ext.prediction.image_files import find_images
from mask_rcnn_ext.prediction.tiles import Tiling
from mask_rcnn_ext.prediction.video_inputs import VideoInput


@pytest.fixture(scope="module")
def predictor(tmp_path_factory) -> Predictor:
    path = tmp_path_factory.mktemp("model") / "model.pth"
    torch.save({"model": tiny_model(2, seed=1).state_dict()}, path)
    return Predictor(tiny_cfg(2), path, score_threshold=0)


@pytest.fixture
def calls(monkeypatch) -> list[tuple[int, ...]]:
    """Return a list that gets the shape of each input of the model; no mask may be made."""
    prepare, shapes = Predictor.prepare, []

    def record(self, image):
        shapes.append(np.shape(image))
        return prepare(self, image)

    def refuse(*arguments, **options):
        raise AssertionError("a mask was pasted, or tiles were merged")

    monkeypatch.setattr(Predictor, "prepare", record)
    monkeypatch.setattr(PackedMasks, "paste", refuse)
    monkeypatch.setattr(tiled, "merge_tiles", refuse)
    return shapes


def make_job(folder, tiling=None, **filters) -> FolderJob:
    def fail(rank):
        raise AssertionError("the job has a predictor")

    return FolderJob(fail, find_images([str(folder)]), folder / "out", (), filters, tiling)


@pytest.mark.parametrize(
    ("number", "looked_at", "tiles"),
    [(1, "", 32), (3, "", 32), (9, " of 8 of 9 images", 32)],
    ids=["one", "three", "nine"],
)
def test_a_few_tiles_are_predicted_without_masks(
    number, looked_at, tiles, tmp_path, predictor, calls
):
    for index in range(number):
        Image.fromarray(picture(256, 256, index)).save(tmp_path / f"{index}.png")
    job = make_job(tmp_path, Tiling(32, 4))  # 8 tiles in a row cover 228 pixels, so there are 9 x 9
    said = describe_highest_in_images(job, predictor)
    assert calls == [(32, 32, 3)] * tiles
    assert tiles <= MOST_TILES
    every = f"{min(number, 8) * 81}"
    line = rf"the highest score inside {tiles} of {every} tiles{looked_at} was 0\.\d+ \(class \d\)"
    assert re.fullmatch(line, said)


def test_small_and_broken_images_leave_their_tiles_to_the_others(tmp_path, predictor, calls):
    (tmp_path / "0.png").write_bytes(b"no image")
    Image.fromarray(picture(20, 20)).save(tmp_path / "1.png")
    Image.fromarray(picture(256, 256)).save(tmp_path / "2.png")
    said = describe_highest_in_images(make_job(tmp_path, Tiling(32, 4)), predictor)
    assert "inside 32 of 82 tiles of 2 of 3 images" in said
    assert calls == [(20, 20, 3)] + [(32, 32, 3)] * 31


def test_frames_are_cut_into_a_few_tiles_too(tmp_path, predictor, calls):
    path = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 25, (256, 256))
    for seed in range(20):
        writer.write(picture(256, 256, seed))
    writer.release()
    job, video = make_job(tmp_path / "clip.avi"), VideoInput(path, "clip.avi")
    said = describe_highest_in_video(job, video, 1, predictor)
    assert re.fullmatch(r"the highest score in 8 frames was 0\.\d+ \(class \d\)", said)
    assert calls == [(256, 256, 3)] * 8
    calls.clear()
    job = make_job(tmp_path / "clip.avi", Tiling(32, 4))
    said = describe_highest_in_video(job, video, 1, predictor)
    assert "the highest score inside 32 of 648 tiles of 8 frames was 0." in said
    assert calls == [(32, 32, 3)] * MOST_TILES


class BoxPredictor:
    """Stands for a model: in each image it finds the same boxes with the same scores."""

    cfg, class_names, batch_size = tiny_cfg(2), ["cat", "dog"], 2

    def __init__(self, *found) -> None:
        self._found = found  # box, score, class
        self.read = read_bgr

    def stream_packed(self, images, *, masks):
        assert not masks
        for image in images:
            instances = Instances(image.shape[:2])
            boxes, scores, classes = zip(*self._found, strict=True)
            instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
            instances.scores = torch.tensor(scores)
            instances.pred_classes = torch.tensor(classes)
            yield instances


@pytest.mark.parametrize(
    ("found", "said"),
    [
        # The one tile's right edge cuts the image, the other's left edge; other edges do not.
        ([([0, 0, 61, 64], 0.5, 0)], "the highest score inside 2 tiles was 0.5 (cat)"),
        ([([3, 0, 64, 64], 0.5, 1)], "the highest score inside 2 tiles was 0.5 (dog)"),
        ([([1, 9, 63, 20], 0.5, 0)], "nothing has a score inside 2 tiles, however low"),
        (
            [([1, 9, 63, 20], 0.875, 0), ([9, 9, 20, 20], 0.5, 0), ([9, 9, 20, 20], 0.75, 1)],
            "the highest score inside 2 tiles was 0.75 (dog)",
        ),
    ],
    ids=["at the left", "at the right", "at both", "two"],
)
def test_objects_at_a_cut_do_not_count(found, said, tmp_path):
    """The merging of tiles may drop them, so they need not be in the result."""
    Image.fromarray(picture(64, 120)).save(tmp_path / "x.png")
    cut = describe_highest_in_images(make_job(tmp_path, Tiling(64, 8)), BoxPredictor(*found))
    assert cut == said
    whole = describe_highest_in_images(make_job(tmp_path), BoxPredictor(*found))
    best = max(found, key=lambda one: one[1])
    assert whole == f"the highest score was {best[1]} ({['cat', 'dog'][best[2]]})"


def test_only_the_wanted_classes_and_readable_images_count(tmp_path):
    Image.fromarray(picture(64, 64)).save(tmp_path / "x.png")
    found = BoxPredictor(([0, 0, 9, 9], 0.9, 0), ([0, 0, 9, 9], 0.1239, 1))
    job = make_job(tmp_path, classes=["dog"])
    assert describe_highest_in_images(job, found) == "the highest score was 0.123 (dog)"
    (tmp_path / "y.png").write_text("no image")
    job = make_job(tmp_path, classes=["dog"])
    said = "the highest score in 1 of 2 images was 0.123 (dog)"
    assert describe_highest_in_images(job, found) == said
    (tmp_path / "x.png").unlink()
    assert describe_highest_in_images(make_job(tmp_path), found) == ""
