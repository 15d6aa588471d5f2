"""tools/predict.py on videos: the command, its messages and exit codes."""

import json
import os
import re

from predict_runs import *  # noqa: F403
from predict_runs import write_image, write_video


def test_a_video_and_an_image(predict, tmp_path, capsys):
    write_video(tmp_path / "clip.mp4", 5, "mp4v")
    write_image(tmp_path / "x.png")
    options = {"threshold": "cat=0.3,0.4", "more": ["--every", "2"]}
    assert predict(tmp_path / "clip.mp4", tmp_path / "x.png", **options) == 0
    out = tmp_path / "out"
    assert sorted(os.listdir(out / "videos")) == ["clip.mp4", "clip.mp4.tracks.json"]
    assert (out / "pictures/x.png").exists()
    tracks = json.loads((out / "videos/clip.mp4.tracks.json").read_text())
    ids = {one["id"] for frame in tracks["frames"] for one in frame["objects"]}
    assert f"3 frames, {len(ids)} objects: {out}/videos/clip.mp4\n" in capsys.readouterr().out


def test_videos_stay_next_to_each_other_and_are_no_input_of_their_own_folder(
    predict, tmp_path, capsys
):
    for name in ("one.mp4", "two.mp4"):
        write_video(tmp_path / name, 2, "mp4v")
    (tmp_path / "cut.mp4").write_text("no video")
    assert predict(tmp_path / "one.mp4") == 0
    assert predict(tmp_path / "cut.mp4") == 2
    assert os.listdir(tmp_path / "out") == ["videos"]
    assert predict(tmp_path / "two.mp4") == 0
    names = ["one.mp4", "one.mp4.tracks.json", "two.mp4", "two.mp4.tracks.json"]
    assert sorted(os.listdir(tmp_path / "out/videos")) == names
    (tmp_path / "link").symlink_to(tmp_path / "out")
    capsys.readouterr()
    assert predict(tmp_path / "link/videos/one.mp4") == 2
    assert "one.mp4 would replace the input" in capsys.readouterr().err


def test_without_an_object_the_highest_score_is_told(predict, tmp_path, capsys):
    write_video(tmp_path / "clip.mp4", 18, "mp4v")
    assert predict(tmp_path / "clip.mp4", threshold="1") == 0
    said = capsys.readouterr().out
    assert re.search(r"\nno detection reached 1; the highest score in 8 frames was 0\.\d+ \(", said)
    for every, frames in ((100, "1 frame"), (9, "2 frames"), (2, "8 frames")):  # of 18
        options = {"threshold": "1", "more": ["--every", str(every)]}
        assert predict(tmp_path / "clip.mp4", **options) == 0
        assert f"the highest score in {frames} was " in capsys.readouterr().out


def test_a_video_that_is_cut_short_ends_with_1(predict, tmp_path, capsys):
    write_video(tmp_path / "clip.avi", 16, "MJPG")
    data = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(data[: len(data) // 2])
    assert predict(tmp_path / "clip.avi") == 1
    said = capsys.readouterr().err
    assert "at the end cannot be read; the file may be cut short" in said


def test_what_is_no_video_or_needs_one_process_ends_with_2(predict, tmp_path, capsys, monkeypatch):
    (tmp_path / "clip.mp4").write_text("no video")
    assert predict(tmp_path / "clip.mp4") == 2
    assert "clip.mp4: cannot be read as a video" in capsys.readouterr().err
    assert predict(tmp_path / "clip.mp4", more=["--processes", "2"]) == 2
    assert "error: a video is predicted by one process" in capsys.readouterr().err
    # A job of Slurm sets the variables of torchrun. With one task it can predict videos.
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert predict(tmp_path / "clip.mp4") == 2
    assert "error: a video is predicted by one process" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert predict(tmp_path / "clip.mp4") == 2
    assert "clip.mp4: cannot be read as a video" in capsys.readouterr().err


def test_a_user_s_file_ends_the_command_before_the_first_image(predict, tmp_path, capsys):
    write_video(tmp_path / "clip.avi", 3, "MJPG")
    write_image(tmp_path / "x.png")
    (tmp_path / "out/videos").mkdir(parents=True)
    mine = tmp_path / "out/videos/clip.avi.mp4"
    mine.write_text("mine")
    assert predict(tmp_path / "x.png", tmp_path / "clip.avi") == 2
    assert "which no prediction of clip.avi has written" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert os.listdir(tmp_path / "out") == ["videos"]
    mine.unlink()
    for _ in range(2):
        assert predict(tmp_path / "clip.avi") == 0
