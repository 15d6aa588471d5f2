"""Images that are listed twice, or in both splits. The files are bytes, nothing decodes them."""

import json
import logging
import os
from pathlib import Path

import pytest
from coco_files import H, W, annotation, content, entry
from PIL import Image

from mask_rcnn_ext.data import repeated_images
from mask_rcnn_ext.data.coco_json import CocoJson
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.data.repeated_images import find_repeated_images
from mask_rcnn_ext.errors import UserError


def write(folder: Path, split: str, **files: bytes) -> CocoJson:
    """Return a json with one image for each of `files`, ids 1, 2, ..."""
    images = [entry(i + 1, file_name=name) for i, name in enumerate(files)]
    paths = [str(folder / split / name) for name in files]
    (folder / split).mkdir()
    for path, data in zip(paths, files.values(), strict=True):
        Path(path).write_bytes(data)
    return CocoJson(str(folder / f"{split}.json"), content(images=images), image_paths=paths)


BIG = b"a" * 10_000


@pytest.mark.parametrize(
    ("other", "same"),
    [
        pytest.param(BIG, True, id="same bytes"),
        pytest.param(BIG[1:], False, id="another size"),
        pytest.param(BIG[:5000] + b"b" + BIG[5001:], False, id="another middle"),
        pytest.param(b"b" + BIG[1:], False, id="another beginning"),
    ],
)
def test_the_same_bytes_in_train_and_val(tmp_path, other, same):
    train = write(tmp_path, "train", a=b"1", b=BIG)
    val = write(tmp_path, "val", c=other, d=b"22", e=b"333")
    said = [r.text for r in find_repeated_images({"train": train, "val": val})]
    assert len(said) == same
    if same:
        assert f"1 of the 3 images of {val.path} are also in {train.path}: c. The" in said[0]


def test_one_file_under_two_ids_or_names(tmp_path):
    train = write(tmp_path, "train", a=b"1", b=b"2", c=b"2", d=b"4")
    train.content["images"].append(entry(9, file_name="a"))
    train.image_paths.append(train.image_paths[0])
    (found,) = find_repeated_images({"train": train})
    said = f"{train.path}: 2 images are listed more than once: a (ids 1, 9), b = c (ids 2"
    assert said in found.text
    assert found.groups == [[("train", 0), ("train", 4)], [("train", 1), ("train", 2)]]


def test_images_that_are_not_there_are_not_the_same(tmp_path):
    train = write(tmp_path, "train", a=b"1", b=b"1", c=b"3")
    train.image_paths[:2] = ["", ""]
    os.unlink(train.image_paths[2])
    assert find_repeated_images({"train": train}) == []


def test_only_files_that_may_be_equal_are_read(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(repeated_images, "_read_sample", lambda path: read.append(path) or path)
    monkeypatch.setattr(repeated_images, "file_sha256", lambda path: pytest.fail(path))
    train = write(tmp_path, "train", a=b"1", b=b"2", c=b"33", d=b"44", e=b"555")
    train.content["images"][3]["width"] += 1
    assert find_repeated_images({"train": train}) == []
    assert read == train.image_paths[:2]


def test_a_leak_is_a_warning_or_with_strict_an_error(tmp_path, caplog, forget_data_sets):
    for i in (1, 2):
        Image.new("RGB", (W, H), (i, 0, 0)).save(tmp_path / f"{i}.png")
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content(annotation(1, iscrowd=0), annotation(2, category_id=3))))
    pair = (str(path), str(tmp_path))
    said = f"{path} is the train and the val json: the same images. "
    register_own_data(*pair, *pair, clean_dir=str(tmp_path / "clean"))
    assert said in caplog.text
    caplog.clear()
    register_own_data(*pair, "", "", clean_dir=str(tmp_path / "clean"), strict=True)
    assert not [r for r in caplog.records if r.levelno > logging.INFO]
    with pytest.raises(UserError, match="is the train and the val json"):
        register_own_data(*pair, *pair, clean_dir=str(tmp_path / "clean"), strict=True)
