"""The check of a data set from the command line: the text, the page, the corrected json."""

import re
from pathlib import Path

import check_dataset as tool
import pytest
from PIL import Image
from support import change_json, name_files, write_coco

from mask_rcnn_ext.data.own_data import split_own_data

# pycocotools 2.0.11 hands NumPy 2 an array type of the old protocol.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
PAIR = ["--train-json", "x", "--train-images", "y"]


@pytest.fixture
def data(tmp_path):
    """Return the options of a train and a val set with one wrong box and one copied image."""
    train, train_images = write_coco(tmp_path / "train", images=3)
    val, val_images = write_coco(tmp_path / "val", images=2, seed=1)
    with change_json(train) as coco:
        coco["annotations"][0]["bbox"] = [0, 0, 3, 3]
        coco["annotations"][3]["segmentation"] = "no mask"
        coco["annotations"][4]["id"] = "5"
    Image.open(train_images / "000.png").save(val_images / "001.png")
    return [*name_files("train", train, train_images), *name_files("val", val, val_images)]


def test_the_report(data, tmp_path, capsys):
    # As a mask, the image has no zeros: its object is the whole image, and the box is too small.
    (tmp_path / "train" / "no mask").write_bytes((tmp_path / "val/images/000.png").read_bytes())
    assert tool.main([*data, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    text, page = ((tmp_path / "out" / f"data_check.{e}").read_text() for e in ("txt", "html"))
    assert printed.startswith(text)
    for words in ("2 of 6 boxes contradict", "1 of the 2 images", "Training takes this data"):
        assert words in text
        assert words in page
    assert re.search(r"images: +3, 0 of them without annotations", text)
    assert re.search(r"^cat +\d +\d$", text, flags=re.M)
    assert "data:image/jpeg;base64," in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert page.count("<img") == page.count('src="data:image/jpeg')
    assert "annotation 1" in page


def test_errors_give_exit_code_1_and_no_corrected_json(data, tmp_path, capsys):
    """The mask file is missing: its annotation cannot be drawn, and nothing can be guessed."""
    fixed = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert tool.main([*data, "--output", str(tmp_path / "out")]) == 1
    assert "error: " in capsys.readouterr().out
    assert "Training refuses this data" in (tmp_path / "out/data_check.html").read_text()
    assert tool.main([*data, "--fix", *fixed]) == 2
    assert "nothing is written, because the errors" in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()


def test_fix(data, tmp_path, capsys):
    (tmp_path / "train" / "no mask").write_bytes((tmp_path / "val/images/000.png").read_bytes())
    fixed = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert tool.main([*data, "--fix", *fixed]) == 0
    printed = capsys.readouterr().out
    assert f"{fixed[0]}: 4 changes" in printed
    assert "2 x box that contradicted its mask, taken from the mask (first: 1)" in printed
    assert "1 x mask file turned into RLE (first: 4)" in printed
    assert f"{fixed[1]}: 0 changes" in printed
    assert f"left as it is: 1 of the 2 images of {fixed[1]} are also in" in printed
    data[1], data[5] = fixed
    assert tool.main([*data, "--fix", *[f"{path}.json" for path in fixed]]) == 0
    assert "contradict" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no data given"),
        (["--train-json", "x.json"], "also give --train-images"),
        (["--dataset", "occluded_shapes_trian"], "did you mean 'occluded_shapes_train'"),
        (["--dataset", "a", "b", "c"], "--dataset with one or two names"),
        (["--dataset", "coco_2017_val", "--train-json", "x"], "--dataset with one or two names"),
        ([*PAIR, "--fix", "a", "b"], "expected 1 file names"),
        ([*PAIR, "--val-json", "v", "--split", "0.8"], "leave out --val-json"),
        ([*PAIR, "--fix", "a.json", "--split", "0.8"], "--dataset and --fix"),
        ([*PAIR, "--group-by", "x"], "--group-by needs --split"),
    ],
)
def test_wrong_commands(options, words, capsys):
    assert tool.main(options) == 2
    assert words in capsys.readouterr().err


def test_the_parts_of_a_split(tmp_path, capsys):
    """Without --output nothing is left; with it, the parts are those of a training."""
    path, images = write_coco(tmp_path / "data", images=5)
    Image.open(images / "000.png").save(images / "001.png")
    split = [*name_files("train", path, images), "--split", "0.6"]
    before = sorted(tmp_path.rglob("*"))
    assert tool.main(split) == 0
    printed = capsys.readouterr().out
    assert "train: split_train.json\n  images: 3, " in printed
    assert "val: split_val.json\n  images: 2, " in printed
    assert sorted(tmp_path.rglob("*")) == before
    assert tool.main([*split, "--group-by", "file_name", "--output", str(tmp_path / "out")]) == 0
    part = tmp_path / "out/split_val.json"
    assert f"val: {part}" in capsys.readouterr().out
    expected = split_own_data(str(path), str(images), 0.6, str(tmp_path / "training"))
    assert part.read_text() == Path(expected[1]).read_text()


def test_a_split_does_not_replace_the_json_that_it_divides(tmp_path, capsys):
    path, images = write_coco(tmp_path / "data", images=5)
    given = path.rename(path.with_name("split_train.json"))
    before = given.read_text()
    options = [*name_files("train", given, images), "--split", "0.6"]
    assert tool.main([*options, "--output", str(given.parent)]) == 2
    assert "--split would replace the json that it divides" in capsys.readouterr().err
    assert given.read_text() == before
    assert not (given.parent / "split_val.json").exists()


def test_a_split_replaces_only_the_parts_of_a_split(tmp_path, capsys):
    path, images = write_coco(tmp_path / "data", images=5)
    options = [*name_files("train", path, images), "--output", str(path.parent), "--split"]
    own = path.with_name("split_val.json")
    own.write_text(path.read_text())
    assert tool.main([*options, "0.6"]) == 2
    assert f"--split: {own} exists, and no --split has written it" in capsys.readouterr().err
    assert own.read_text() == path.read_text()
    assert not path.with_name("split_train.json").exists()
    own.unlink()
    assert tool.main([*options, "0.6"]) == 0
    first = own.read_text()
    assert tool.main([*options, "0.8"]) == 0
    assert own.read_text() != first


def test_a_split_of_data_with_errors_names_the_errors(data, capsys):
    assert tool.main([*data[:4], "--split", "0.8"]) == 1
    assert f"train: {data[1]}" in capsys.readouterr().out


def test_a_registered_data_set(monkeypatch, tmp_path, capsys):
    path, images = write_coco(tmp_path, images=2)
    monkeypatch.setattr(tool, "require_datasets", lambda names: None)
    monkeypatch.setattr(tool, "find_truth", lambda name: (str(path), str(images)))
    assert tool.main(["--dataset", "mine"]) == 0
    assert f"train: {path}" in capsys.readouterr().out
