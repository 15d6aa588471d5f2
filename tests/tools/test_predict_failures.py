"""tools/predict.py goes on with the other inputs if it cannot use one of them."""

import json
import os
import sys

import pytest
from predict_runs import *  # noqa: F403
from predict_runs import outputs, write_image, write_video


@pytest.mark.parametrize("world", ["hello world", "nan 0 0 -1 0 0"])
def test_a_bad_world_file_costs_one_image(predict, tmp_path, capsys, world):
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / "in" / name)
    (tmp_path / "in/b.wld").write_text(world)
    (tmp_path / "in/c.wld").write_text("1 0 0 -1 0 0", encoding="utf-8-sig")
    assert predict(tmp_path / "in", more=["--write", "geojson"]) == 1
    said = capsys.readouterr().err
    assert "1 of 3 images failed" in said
    assert f"  {tmp_path / 'in/b.png'}: " in said
    assert sorted(os.listdir(tmp_path / "out/geojson")) == ["a.png.geojson", "c.png.geojson"]
    for name in ("a.png", "c.png"):
        json.loads((tmp_path / f"out/geojson/{name}.geojson").read_text())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits the whole path")
def test_a_name_that_is_too_long_for_a_picture_costs_one_image(predict, tmp_path, capsys):
    long = "x" * 250 + ".webp"  # 255 bytes, the most that a folder takes
    for name in ("a.png", long, "z.png"):
        write_image(tmp_path / "in" / name)
    for _ in range(2):
        assert predict(tmp_path / "in") == 1
        said = capsys.readouterr().err
        assert "1 of 3 images failed" in said
        assert "File name too long. Give a shorter name" in said
        assert sorted(os.listdir(tmp_path / "out/pictures")) == ["a.png", "z.png"]
        assert len(outputs(tmp_path)[1]["images"]) == 3


def test_a_bad_video_costs_no_other(predict, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_text("garbage")
    write_video(tmp_path / "good.avi", 3, "MJPG")
    assert predict(tmp_path / "bad.mp4", tmp_path / "good.avi") == 1
    said = capsys.readouterr()
    assert f"error: {tmp_path}/bad.mp4: cannot be read as a video" in said.err
    assert "3 frames, " in said.out
    names = ["good.avi.mp4", "good.avi.tracks.json"]
    assert sorted(os.listdir(tmp_path / "out/videos")) == names
    write_image(tmp_path / "x.png")
    assert predict(tmp_path / "bad.mp4", tmp_path / "x.png") == 1
    assert [i["file_name"] for i in outputs(tmp_path)[1]["images"]] == ["x.png"]
