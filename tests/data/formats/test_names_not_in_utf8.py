"""Names that UTF-8 cannot hold: an error with the name, or files that come back."""

import os

import pytest
from format_cases import objects_of, only, read, save_image, whole_objects

from mask_rcnn_ext.data.formats import write_dataset
from mask_rcnn_ext.errors import UserError

NAME = os.fsdecode(b"caf\xe9.png")  # Latin-1


def rename_first(tmp_path):
    """Return a data set whose first image has the name NAME."""
    dataset = whole_objects(tmp_path / "data")
    try:
        save_image(tmp_path / "data" / "bilder" / NAME)
    except OSError:
        pytest.skip("this file system holds only names in UTF-8")
    only(dataset)["images"][0]["file_name"] = NAME
    return dataset


@pytest.mark.parametrize("name", ["labelme", "cvat", "voc", "label-studio"])
def test_a_file_name_that_the_format_cannot_hold_is_named(name, tmp_path):
    dataset = rename_first(tmp_path)
    with pytest.raises(UserError, match=r"the name of the image caf\\udce9\.png is not UTF-8"):
        write_dataset(dataset, name, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("name", ["labelme", "cvat", "voc", "label-studio"])
def test_a_class_that_the_format_cannot_hold_is_named(name, tmp_path):
    dataset = whole_objects(tmp_path / "data")
    only(dataset)["categories"][0]["name"] = "x\ud800"
    with pytest.raises(UserError, match=r"the name of the class x\\ud800 is not UTF-8"):
        write_dataset(dataset, name, tmp_path / "out")


@pytest.mark.parametrize("name", ["coco", "yolo", "id-images"])
def test_other_formats_keep_the_name(name, tmp_path):
    dataset = rename_first(tmp_path)
    output = tmp_path / ("all.json" if name == "coco" else "out")
    write_dataset(dataset, name, output)
    back, _ = read(output, name, None if name == "yolo" else dataset.image_root)
    assert len(objects_of(only(back))[NAME]) == 3
