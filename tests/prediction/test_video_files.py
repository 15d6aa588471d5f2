"""The files of the results of videos replace none that no prediction has written."""

import json

import cv2
import numpy as np
import pytest
import torch
from tiny_model import tiny_cfg, tiny_model

from mask_rcnn_ext import Predictor, UserError
from mask_rcnn_ext.errors import InputFailure
from mask_rcnn_ext.prediction.video import _MaskVideo, _TrackFile, predict_video
from mask_rcnn_ext.prediction.video_inputs import (
    VideoInput,
    name_video_files,
    require_free_video_files,
)


def inputs_of(folder, *names) -> list[VideoInput]:
    return [VideoInput(str(folder / name), name) for name in names]


def write_tracks(path, name):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"video": name, "fps": 25.0, "frames": []}))


@pytest.mark.parametrize("name", ["clip.avi.mp4", "clip.avi.tracks.json"])
def test_a_file_that_no_prediction_of_the_video_has_written_is_kept(tmp_path, name):
    out = tmp_path / "out"
    videos = inputs_of(tmp_path, "first.avi", "clip.avi")
    require_free_video_files(videos, out, draw=True)
    out.mkdir()
    (out / name).write_text('{"video": "mine"}')
    # The tracks of another video say nothing about this one.
    write_tracks(out / "clip.avi.mp4.tracks.json", "clip.avi.mp4")
    with pytest.raises(UserError, match=f"{name}: the prediction would replace this file"):
        require_free_video_files(videos, out, draw=True)
    write_tracks(out / "clip.avi.tracks.json", "clip.avi")
    require_free_video_files(videos, out, draw=True)


def test_without_the_video_with_masks_only_the_tracks_are_written(tmp_path):
    (tmp_path / "clip.avi.mp4").touch()
    require_free_video_files(inputs_of(tmp_path / "in", "clip.avi"), tmp_path, draw=False)


def test_two_videos_have_two_files_and_no_video_replaces_another_input(tmp_path):
    videos = inputs_of(tmp_path / "in", "clip.avi", "clip.avi.mp4")
    with pytest.raises(UserError, match=r"clip\.avi and clip\.avi\.mp4 would have the same video"):
        require_free_video_files(videos, tmp_path, draw=True)
    require_free_video_files(videos, tmp_path, draw=False)
    videos = [
        *inputs_of(tmp_path / "in", "clip.avi"),
        VideoInput(str(tmp_path / "clip.avi.mp4"), "y"),
    ]
    with pytest.raises(UserError, match=r"clip\.avi\.mp4 would replace the input"):
        require_free_video_files(videos, tmp_path, draw=True)


def test_a_video_in_a_folder_has_its_files_in_a_folder(tmp_path):
    masks, tracks = name_video_files(VideoInput("/x/a/clip.mp4", "a/clip.mp4"), tmp_path)
    assert masks == tmp_path / "a/clip.mp4"
    assert tracks == tmp_path / "a/clip.mp4.tracks.json"


@pytest.mark.parametrize("fps", [0.0003, 0.0333, 23.976, 59.94, 65.535, 119.847, 655.351, 999.99])
def test_every_frame_rate_can_be_written(tmp_path, fps):
    path = tmp_path / "x.mp4"
    with _MaskVideo(path, fps) as video:
        for _ in range(3):
            video.write(np.zeros((64, 64, 3), dtype=np.uint8))
    found = cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FPS)
    assert found == pytest.approx(fps, rel=1e-4, abs=0.01)


def test_a_name_that_is_too_long_ends_no_command(tmp_path):
    """It is found out before the first frame."""
    for length in (245, 255):
        name = "x" * (length - 4) + ".avi"
        with pytest.raises(InputFailure, match=r"File name too long\. Give a shorter name"):
            predict_video(None, VideoInput(str(tmp_path / name), name), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_tracks_are_there_before_the_video(tmp_path, monkeypatch):
    """They tell the next run that the video is ours."""
    source = str(tmp_path / "clip.avi")
    writer = cv2.VideoWriter(source, cv2.VideoWriter.fourcc(*"FFV1"), 25, (64, 64))
    for _ in range(3):
        writer.write(np.zeros((64, 64, 3), dtype=np.uint8))
    writer.release()
    torch.save({"model": tiny_model(2, seed=1).state_dict()}, tmp_path / "model.pth")
    predictor = Predictor(tiny_cfg(2), tmp_path / "model.pth")

    def fail(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr(_TrackFile, "__exit__", fail)
    with pytest.raises(UserError, match="disk is full"):
        predict_video(predictor, VideoInput(source, "clip.avi"), tmp_path / "out")
    assert not (tmp_path / "out/clip.avi.mp4").exists()
