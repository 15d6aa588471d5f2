"""The files of the results of videos replace none that no prediction has written."""

import json

import cv2
import numpy as np
import pytest

from mask_rcnn_ext import UserError
from mask_rcnn_ext.prediction.video import _MaskVideo
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
