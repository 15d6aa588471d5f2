"""A model reads the colours of a video as those of an image file."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_model import tiny_cfg, tiny_model

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.prediction.folder import FolderJob
from mask_rcnn_ext.prediction.highest_score import describe_highest_in_video
from mask_rcnn_ext.prediction.tiles import Tiling
from mask_rcnn_ext.prediction.video import predict_video
from mask_rcnn_ext.prediction.video_inputs import VideoInput


@pytest.fixture
def video(tmp_path) -> VideoInput:
    """Three equal frames, red with a blue square, and the same picture as a PNG."""
    rgb = np.full((64, 64, 3), (200, 0, 0), dtype=np.uint8)
    rgb[20:50, 10:40] = (0, 0, 220)
    Image.fromarray(rgb).save(tmp_path / "red.png")
    path = str(tmp_path / "red.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"FFV1"), 25, (64, 64))
    for _ in range(3):
        writer.write(np.ascontiguousarray(rgb[:, :, ::-1]))
    writer.release()
    return VideoInput(path, "red.avi")


@pytest.mark.parametrize("channels", [0, 3])
@pytest.mark.parametrize("tiling", [None, Tiling(64, 16)], ids=["whole", "tiles"])
def test_red_is_red_for_every_reader(tmp_path, video, channels, tiling, monkeypatch):
    cfg = tiny_cfg(2)
    cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS = channels
    cfg.MASK_RCNN_EXT.DATA.PIXEL_STATISTICS = "fixed"
    torch.save({"model": tiny_model(2, seed=1).state_dict()}, tmp_path / "model.pth")
    predictor = Predictor(cfg, tmp_path / "model.pth", score_threshold=0)
    expected = predictor.prepare(tmp_path / "red.png")["image"]
    prepare, seen = Predictor.prepare, []

    def record(self, image):
        seen.append(prepare(self, image)["image"])
        return prepare(self, image)

    monkeypatch.setattr(Predictor, "prepare", record)
    summary = predict_video(predictor, video, tmp_path / "out", tiling=tiling)
    assert len(seen) == 3
    job = FolderJob(lambda rank: predictor, [], tmp_path / "out", tiling=tiling)
    assert " in 3 frames was " in describe_highest_in_video(job, video, 1, predictor)
    assert len(seen) == 6
    for image in seen:
        assert (image - expected).abs().max() <= 1  # of 255
    # The video with masks is red, too.
    blue, _, red = cv2.VideoCapture(str(summary.video_path)).read()[1].mean(axis=(0, 1))
    assert red > blue
