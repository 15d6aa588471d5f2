"""tools/predict.py next to a user's files: it replaces none that no prediction has written."""

import json
import shutil

import pytest
from predict_runs import *  # noqa: F403
from predict_runs import write_image
from small_runs import list_files

from mask_rcnn_ext.files import read_json
from mask_rcnn_ext.prediction import folder as folder_module
from mask_rcnn_ext.prediction.parts import PartWriter


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("pictures/a.png", []),
        ("labels/a.png.png", ["--write", "labels"]),
        ("images.json", []),
        ("coco_instances_results.json", []),
        ("coco_annotations.json", ["--write", "polygons"]),
    ],
)
def test_a_file_that_no_prediction_has_written_is_never_replaced(
    predict, tmp_path, capsys, name, more
):
    out = tmp_path / "out"
    write_image(tmp_path / "a.png")
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"images": [{"file_name": "a.png"}]}')
    before = (out / name).read_bytes()
    for processes in ("1", "2"):
        assert predict(tmp_path / "a.png", more=[*more, "--processes", processes]) == 2
        said = capsys.readouterr().err
        assert f"would replace files that no prediction has written: {name}. Move" in said
        assert list_files(out) == {name}
    shutil.move(out / name, tmp_path / "mine")
    assert predict(tmp_path / "a.png", more=more) == 0
    assert predict(tmp_path / "a.png", more=more) == 0  # our own files are replaced
    assert (out / name).read_bytes() != before


def test_no_file_outside_of_the_folder_is_ours(predict, tmp_path):
    write_image(tmp_path / "a.png")
    (tmp_path / "mine.txt").write_text("mine")
    parts = tmp_path / "out/parts/part-0.jsonl"
    parts.parent.mkdir(parents=True)
    parts.write_text(json.dumps({"begun": ["../mine.txt", str(tmp_path / "mine.txt")]}) + "\n")
    assert predict(tmp_path / "a.png") == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert list_files(tmp_path / "out") == {
        *("coco_instances_results.json", "images.json", "pictures/a.png")
    }


def test_what_a_kill_has_left_of_an_image_that_fails_later_is_ours(predict, tmp_path):
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name)
    write_image(tmp_path / "out/pictures/b.png")
    parts = tmp_path / "out/parts/part-0.jsonl"
    parts.parent.mkdir(parents=True)
    parts.write_text(json.dumps({"begun": ["pictures/b.png"]}) + "\n")
    (tmp_path / "in/b.png").write_bytes(b"broken")
    assert predict(tmp_path / "in") == 1
    write_image(tmp_path / "in/b.png")
    assert predict(tmp_path / "in") == 0
    assert (tmp_path / "out/earlier_runs/1/pictures/b.png").is_file()


@pytest.mark.parametrize("finished", [True, False])
def test_a_prediction_without_pictures_owns_no_picture(
    predict, tmp_path, capsys, finished, monkeypatch
):
    """The user adds one with the name of an image of an earlier prediction."""
    mine = tmp_path / "out/pictures/a.png"
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    more = ["--write", "coco"]
    if not finished:
        monkeypatch.setattr(folder_module, "merge_shares", dies)
        monkeypatch.setattr("mask_rcnn_ext.prediction.processes.merge_shares", dies)
        with pytest.raises(Killed):
            predict(tmp_path / "a.png", more=more)
        monkeypatch.undo()
    else:
        assert predict(tmp_path / "a.png", more=more) == 0
    write_image(mine)
    before = mine.read_bytes()
    assert predict(tmp_path / "a.png") == 2
    assert "no prediction has written: pictures/a.png. Move" in capsys.readouterr().err
    assert predict(tmp_path / "b.png", more=more) == 0  # nor does it move aside
    assert mine.read_bytes() == before


class Killed(BaseException):
    """Stands for a kill: no code of the tool handles it."""


def dies(*args, **kwargs):
    raise Killed


def test_files_that_a_kill_has_left_without_their_line_are_ours(predict, tmp_path, monkeypatch):
    out, more = tmp_path / "out", ["--write", "pictures,labels"]
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name)
    monkeypatch.setattr(PartWriter, "add", dies)
    with pytest.raises(Killed):
        predict(tmp_path / "in", more=more)
    monkeypatch.undo()
    assert {"pictures/a.png", "labels/a.png.png"} < list_files(out)
    # Another prediction moves aside what it does not write itself.
    assert predict(tmp_path / "in/b.png", tmp_path / "in/a.png", more=["--write", "pictures"]) == 0
    ours = {"coco_instances_results.json", "images.json", "pictures/a.png", "pictures/b.png"}
    assert list_files(out) == {*ours, "earlier_runs/1/labels/a.png.png"}


def test_a_user_s_pictures_are_inputs_and_earlier_results_are_not(predict, tmp_path, caplog):
    for name in ("pictures/p0.png", "labels/p1.png", "test/p2.png"):
        write_image(tmp_path / name)
    own = {"pictures/p0.png", "labels/p1.png", "test/p2.png"}
    for _ in range(2):
        caplog.clear()
        with caplog.at_level("INFO"):
            assert predict(tmp_path, output=tmp_path, more=["--recursive"]) == 0
        images = read_json(tmp_path / "images.json")["images"]
        assert {image["file_name"] for image in images} == own
    # Three pictures and two jsons of the first time.
    assert "left out 5 files that earlier predictions have written" in caplog.text
    assert list_files(tmp_path) >= own | {f"pictures/{name}" for name in own}


def test_a_folder_of_the_output_that_is_an_input_is_not_empty(predict, tmp_path, capsys, caplog):
    out = tmp_path / "out"
    write_image(out / "pictures/p0.png")
    write_image(out / "earlier_runs/1/pictures/x.png")
    assert predict(out / "pictures") == 2  # it would replace p0.png
    assert "pictures/p0.png is among the files that predictions write" in capsys.readouterr().err
    assert predict(out / "earlier_runs/1/pictures") == 0
    with caplog.at_level("INFO"):
        assert predict(f"{out}/pictures/x*.png") == 2
    assert "left out 1 file that earlier predictions have written" in caplog.text


def test_two_images_have_two_pictures(predict, tmp_path, capsys):
    for name in ("x.bmp", "x.bmp.png"):
        write_image(tmp_path / "in" / name)
    assert predict(tmp_path / "in") == 2
    said = capsys.readouterr().err
    assert "x.bmp and x.bmp.png would have the same file pictures/x.bmp.png: rename one" in said
    assert predict(tmp_path / "in", more=["--write", "labels,soft,geojson"]) == 0
