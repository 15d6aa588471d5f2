"""Names of files with bytes that are not UTF-8: shown as plain letters, never a traceback."""

import io
import os
import sys

import check_dataset
import make_report
import pytest
from small_runs import read_error, train_small
from support import change_json, name_files, write_coco

from mask_rcnn_ext import run_as_command

FOLDER, IMAGE = (os.fsdecode(name) for name in (b"b\xe4ume", b"caf\xe9.png"))  # Latin-1
SHOWN = r"b\udce4ume"


@pytest.fixture
def coco(tmp_path):
    """A json and its folder of images, where the folder of both and an image have such names."""
    try:
        path, images = write_coco(tmp_path / FOLDER, images=2)
    except OSError:
        pytest.skip("this file system holds only names in UTF-8")
    os.rename(images / "000.png", images / IMAGE)
    with change_json(path) as content:
        content["images"][0]["file_name"] = IMAGE
    return path, images


def test_a_training_and_its_report(coco, tmp_path, capfd):
    flags = [*name_files("train", *coco), *name_files("val", *coco)]
    keys = ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "SOLVER.MAX_ITER", "1")
    assert train_small(flags, tmp_path / "out", *keys) == 0
    assert SHOWN in (tmp_path / "out/log.txt").read_text("utf-8")
    assert make_report.main([str(tmp_path / "out")]) == 0
    assert r"caf\udce9.png" in (tmp_path / "out/report.html").read_text("utf-8")
    assert "Logging error" not in capfd.readouterr().err


def test_the_page_of_a_check(coco, tmp_path):
    out = tmp_path / "out"
    assert check_dataset.main([*name_files("train", *coco), "--output", str(out)]) == 0
    for name in ("data_check.html", "data_check.txt"):
        assert SHOWN in (out / name).read_text("utf-8")


def test_the_folder_of_a_run_needs_a_readable_name(coco, tmp_path, capsys):
    out = tmp_path / FOLDER / "out"
    assert train_small(name_files("train", *coco), out) == 2
    assert "OUTPUT_DIR: expected a path in UTF-8" in read_error(capsys)
    assert not out.exists()


def test_a_terminal_that_lacks_the_letters(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run_as_command(lambda: print(IMAGE, "ä")) == 0
    assert terminal.buffer.getvalue() == rb"caf\udce9.png \xe4" + b"\n"
