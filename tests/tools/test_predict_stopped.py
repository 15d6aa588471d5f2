"""tools/predict.py on a full disk, in a crash and at a signal: results stay whole."""

import os
import signal
from pathlib import Path

import pytest
from predict_runs import *  # noqa: F403
from predict_runs import outputs, write_image

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.prediction.parts import PartWriter


@pytest.mark.parametrize("name", ["coco_instances_results.json", "images.json", "x.png"])
def test_a_disk_that_fills_up_is_one_line_and_leaves_the_former_results(
    predict, tmp_path, monkeypatch, capsys, name
):
    write_image(tmp_path / "x.png")
    assert predict(tmp_path / "x.png") == 0

    def contents():
        files = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
        return {p: p.read_bytes() for p in files if p.parent.name != "parts"}

    before, replace = contents(), os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(28, "No space left on device", str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    capsys.readouterr()
    assert predict(tmp_path / "x.png") == 2
    said = capsys.readouterr().err
    assert "error: cannot write " in said
    assert f"{name}: No space left on device" in said
    assert contents() == before


def test_a_crash_leaves_the_former_results_whole(predict, tmp_path, monkeypatch):
    write_image(tmp_path / "in" / "a.png")
    assert predict(tmp_path / "in") == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()}
    write_image(tmp_path / "in" / "b.png")
    monkeypatch.setattr(PartWriter, "add", dies_at("b.png", UserError("full")))
    assert predict(tmp_path / "in") == 2
    after = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir() if p.is_file()}
    assert after == before


def dies_at(name: str, cause: BaseException | signal.Signals):
    """Return a `PartWriter.add` that ends in the middle of the line of the image `name`."""
    add = PartWriter.add

    def dies(self, file, record):
        if file.name == name:
            self._write(b'{"name": "half')
            if isinstance(cause, BaseException):
                raise cause
            signal.raise_signal(cause)
        return add(self, file, record)

    return dies


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["a.png", "c.png"])
def test_a_signal_leaves_the_results_of_the_images_that_are_done(
    predict, tmp_path, monkeypatch, capsys, number, name
):
    for each in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / "in" / each)
    monkeypatch.setattr(PartWriter, "add", dies_at(name, number))
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert predict(tmp_path / "in") == 128 + number
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    said, out = capsys.readouterr().err, tmp_path / "out"
    if name == "a.png":
        assert said.endswith("interrupted; 0 of 3 images are done\n")
        # The picture of the image whose line was cut, and the line that says whose it is.
        assert sorted(os.listdir(out)) == ["parts", "pictures"]
        monkeypatch.undo()
        assert predict(tmp_path / "in") == 0
        assert sorted(os.listdir(out / "pictures")) == ["a.png", "b.png", "c.png"]
        assert not (out / "parts").exists()
        return
    assert f"interrupted; 2 of 3 images are done: {out}/coco_instances_results.json\n" in said
    results, images = outputs(tmp_path)
    assert [i["file_name"] for i in images["images"]] == ["a.png", "b.png"]
    assert {r["image_id"] for r in results} == {1, 2}
    assert not list(out.rglob("*.tmp"))
    monkeypatch.undo()
    assert predict(tmp_path / "in") == 0
    assert [i["file_name"] for i in outputs(tmp_path)[1]["images"]] == ["a.png", "b.png", "c.png"]
    assert not (out / "parts").exists()


def test_a_prediction_continues_after_the_clock_was_set_back(predict, tmp_path, monkeypatch):
    write_image(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_text("a copy that has only begun")
    write_image(tmp_path / "in/c.png")
    monkeypatch.setattr(PartWriter, "add", dies_at("c.png", signal.SIGINT))
    assert predict(tmp_path / "in") == 130
    monkeypatch.undo()
    write_image(tmp_path / "in/b.png")
    monkeypatch.setattr("mask_rcnn_ext.prediction.parts.time.time_ns", lambda: 1)
    assert predict(tmp_path / "in") == 0
    assert [i["file_name"] for i in outputs(tmp_path)[1]["images"]] == ["a.png", "b.png", "c.png"]
