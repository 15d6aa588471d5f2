"""The names of splits in the formats: what is the validation set, and what is not read."""

import numpy as np
import pytest
from format_cases import H, W, read, save_image
from PIL import Image

from mask_rcnn_ext.data.formats import write_dataset

LINE = "0 0.1 0.1 0.35 0.1 0.35 0.4\n"


def counts(dataset):
    return {split: len(content["images"]) for split, content in dataset.splits.items()}


def make_cvat(root, subsets):
    """Write an export with an image for each subset; None: without the attribute."""
    text = "<annotations><meta><project><labels><label><name>cat</name></label></labels>"
    text += "</project></meta>"
    for number, subset in enumerate(subsets):
        save_image(root / "images" / f"{number}.png")
        key = "" if subset is None else f'subset="{subset}"'
        text += f'<image name="{number}.png" {key} width="{W}" height="{H}"/>'
    (root / "annotations.xml").write_text(f"{text}</annotations>")
    return root


def make_yolo(folder, name="1.png"):
    """Write an image into a folder whose path has the part `images`, and its labels."""
    save_image(folder / name)
    parts = ["labels" if part == "images" else part for part in folder.parts]
    labels = type(folder)(*parts)
    labels.mkdir(parents=True, exist_ok=True)
    (labels / name).with_suffix(".txt").write_text(LINE)


def make_voc(root, lists):
    """Write a data set with an image for each name in the lists: split -> names."""
    for split, names in lists.items():
        for name in names:
            save_image(root / "JPEGImages" / f"{name}.png")
            for kind in ("SegmentationObject", "SegmentationClass"):
                (root / kind).mkdir(exist_ok=True)
                numbers = np.ones((H, W), dtype=np.uint8)
                Image.fromarray(numbers).save(root / kind / f"{name}.png")
        listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("".join(f"{name}\n" for name in names))
    (root / "labelmap.txt").write_text("background:0,0,0::\ncat:128,0,0::\n")
    return root


@pytest.mark.parametrize("name", ["Validation", "valid", "VAL"])
def test_cvats_validation_is_val_in_every_format(name, tmp_path):
    dataset, counted = read(make_cvat(tmp_path / "in", ["Train", name, None]), "cvat")
    assert counts(dataset) == {"train": 1, "val": 1, "default": 1}
    assert counted == {}
    dataset.splits.pop("default")
    paths = write_dataset(dataset, "coco", tmp_path / "jsons")
    assert [path.name for path in paths] == ["train.json", "val.json"]
    for written in ("yolo", "voc"):
        write_dataset(dataset, written, tmp_path / written)
        assert counts(read(tmp_path / written, written)[0]) == {"train": 1, "val": 1}


@pytest.mark.parametrize("name", ["validation", "valid", "Val"])
def test_yolos_validation_has_several_names(name, tmp_path):
    for key in ("train", name, "holdout"):
        make_yolo(tmp_path / "keys" / "images" / key)
        make_yolo(tmp_path / "folders" / "images" / key)
        make_yolo(tmp_path / "roboflow" / key / "images")
    for root in ("keys", "folders", "roboflow"):
        yaml = "names: [cat]\ndownload: |\n" + f"  {'x' * 300}\n"
        if root == "keys":
            yaml += f"path: .\nholdout: images/holdout\n{name}: images/{name}\ntrain: images/train"
        (tmp_path / root / "data.yaml").write_text(yaml)
        dataset, counted = read(tmp_path / root, "yolo")
        assert list(counts(dataset).items()) == [("train", 1), ("val", 1)], root
        assert counted == {"split that is not read": 1}


def test_other_keys_of_a_yaml_are_no_splits(tmp_path):
    make_yolo(tmp_path / "images" / "train")
    (tmp_path / "classes.txt").write_text("cat")
    yaml = "names: [cat]\npath: .\ntrain: images/train\nproject: .\nlabels_file: classes.txt"
    (tmp_path / "data.yaml").write_text(yaml)
    dataset, counted = read(tmp_path, "yolo")
    assert counts(dataset) == {"": 1}  # an only split has no name
    assert counted == {}


def test_the_first_of_two_validation_sets_is_read(tmp_path):
    for key in ("train", "val", "valid"):
        make_yolo(tmp_path / "images" / key, f"{key}.png")
    (tmp_path / "data.yaml").write_text("names: [cat]")
    dataset, counted = read(tmp_path, "yolo")
    assert [i["file_name"] for i in dataset.splits["val"]["images"]] == ["images/val/val.png"]
    assert counted == {"split that is not read": 1}


@pytest.mark.parametrize("name", ["validation", "valid", "Val"])
def test_vocs_validation_has_several_names(name, tmp_path):
    lists = {"train": ["1"], name: ["2"], "trainval": ["1", "2"]}
    dataset, counted = read(make_voc(tmp_path, lists), "voc")
    assert counts(dataset) == {"train": 1, "val": 1}
    assert counted == {}
    dataset, counted = read(make_voc(tmp_path, {"holdout": ["2", "3"]}), "voc")
    assert counts(dataset) == {"train": 1, "val": 1}
    assert counted == {"split that is not read": 1}
