"""The conversion of data sets from the command line."""

import json
import shlex

import convert_dataset as tool
import pytest
from PIL import Image
from small_runs import read_error
from support import write_coco

from mask_rcnn_ext.data.formats import FORMATS
from mask_rcnn_ext.data.own_data import register_own_data

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_the_help_names_the_formats():
    assert list(FORMATS) == list(tool._FORMATS)


def test_there_and_back_and_what_train_net_takes(tmp_path, capsys):
    path, images = write_coco(tmp_path / "data", images=10)
    yolo = tmp_path / "yolo"
    assert tool.main([str(path), "--images", str(images), "--to", "yolo", str(yolo)]) == 0
    said = capsys.readouterr().out
    assert f"{path}: read as coco" in said
    assert "10 images, 20 objects" in said
    assert "no val set" in said
    output = tmp_path / "split"
    assert tool.main([str(yolo), "--split", "0.8", str(output)]) == 0
    said = capsys.readouterr().out
    assert f"{yolo}: read as yolo" in said
    assert "train: 8 images, " in said
    assert "val: 2 images, " in said
    (command,) = (line for line in said.splitlines() if line.startswith("mask-rcnn-ext train "))
    words = shlex.split(command)[2:]
    flags = dict(zip(words[::2], words[1::2], strict=True))
    data = register_own_data(
        flags["--train-json"],
        flags["--train-images"],
        flags["--val-json"],
        flags["--val-images"],
        clean_dir=str(tmp_path / "clean"),
        strict=True,
    )
    assert data.class_names == ("cat", "dog")
    boxes = [
        sorted(a["bbox"] for a in json.loads(p.read_text())["annotations"])
        for p in (path, *output.iterdir())
    ]
    assert sorted(boxes[1] + boxes[2]) == boxes[0]


def test_images_next_to_the_folder_of_the_json_are_named(tmp_path, capsys):
    path, images = write_coco(tmp_path / "data", images=2)
    moved = tmp_path / "data" / "annotations" / path.name
    moved.parent.mkdir()
    path.rename(moved)
    assert tool.main([str(moved), str(tmp_path / "all.json")]) == 2
    said = read_error(capsys)
    assert f"They are in {images}: " in said
    assert said.rstrip().endswith("If the images are in another folder, give it with --images")


def test_the_command_that_trains_is_one_for_the_shell(tmp_path, capsys):
    path, images = write_coco(tmp_path / "my $HOME", images=2)
    output = tmp_path / "all.json"
    assert tool.main([str(path), "--images", str(images), str(output)]) == 0
    command = capsys.readouterr().out.splitlines()[-1]
    words = ["--train-json", str(output), "--train-images", str(images)]
    assert shlex.split(command) == ["mask-rcnn-ext", "train", *words]
    assert "'" in command  # in double quotes, the shell would replace $HOME


def test_without_a_training_set_no_command_is_shown(tmp_path, capsys):
    path, images = write_coco(tmp_path / "data", images=2)
    yolo, output = tmp_path / "yolo", tmp_path / "out"
    assert tool.main([str(path), "--images", str(images), "--to", "yolo", str(yolo)]) == 0
    for split in ("val", "test"):
        (yolo / "images" / split).mkdir()
        (yolo / "labels" / split).mkdir()
        name = sorted((yolo / "images" / "train").iterdir())[0].stem
        for folder in ("images", "labels"):
            (file,) = (yolo / folder / "train").glob(f"{name}.*")
            file.rename(yolo / folder / split / file.name)
    (yolo / "data.yaml").write_text("names: [cat, dog]\nval: images/val\ntest: images/test\n")
    capsys.readouterr()
    assert tool.main([str(yolo), str(output)]) == 0
    said = capsys.readouterr().out
    assert "written: " in said.splitlines()[-1]
    assert "None" not in said


def test_groups_and_seeds(tmp_path, capsys):
    path, images = write_coco(tmp_path / "data", images=10)
    parts = []
    for number, options in enumerate(
        (["--seed", "0"], [], ["--seed", "5"], ["--group-by", r"\d$|\d(?=\.)"])
    ):
        output = tmp_path / str(number)
        argv = [str(path), str(output), "--images", str(images), "--split", "0.5", *options]
        assert tool.main(argv) == 0
        parts.append((output / "val.json").read_text())
    assert parts[0] == parts[1] != parts[2]
    assert len(json.loads(parts[3])["images"]) == 5


def test_a_mistake_is_one_line(tmp_path, capsys):
    path, images = write_coco(tmp_path / "data", images=2)
    out = str(tmp_path / "out")
    for argv, message in (
        ([str(tmp_path / "gone"), out], "not found: "),
        ([str(images), out], "give --from"),
        ([str(path), out, "--from", "coc"], "unknown format 'coc'"),
        ([str(path), out, "--to", "dsb", "--images", str(images)], "cannot be written"),
        ([str(path), out, "--images", str(tmp_path / "no")], "image folder not found"),
        ([str(path), out, "--images", ""], "--images: expected a folder, got ''"),
        ([str(path), "", "--to", "yolo"], "OUTPUT: expected a file or a folder, got ''"),
        ([str(path), out, "--group-by", "a"], "--group-by needs --split"),
        ([str(path), out, "--images", str(images), "--split", "2"], "between 0 and 1"),
    ):
        assert tool.main(argv) == 2
        assert message in read_error(capsys)
        assert not (tmp_path / "out").exists()
    Image.new("RGB", (9, 9)).save(images / "001.png")
    assert tool.main([str(path), out, "--images", str(images)]) == 2
    assert "is 64 x 48 in the json, the file is 9 x 9" in read_error(capsys)


def test_data_with_splits_is_not_split_again(tmp_path, capsys):
    path, images = write_coco(tmp_path / "data", images=5)
    voc = str(tmp_path / "voc")
    argv = [str(path), "--images", str(images), "--to", "voc", "--split", "0.8", voc]
    assert tool.main(argv) == 0
    capsys.readouterr()
    assert tool.main([voc, str(tmp_path / "out"), "--split", "0.8"]) == 2
    assert "has splits already: train, val" in read_error(capsys)
    assert tool.main([voc, str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["train.json", "val.json"]
