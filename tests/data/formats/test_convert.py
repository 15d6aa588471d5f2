"""Round trips through every format that is written, guessing formats, and what is refused."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from format_cases import CROWD, H, W, classes_of, objects_of, only, read, save_image, whole_objects

from mask_rcnn_ext.data.findings import IssueCounter
from mask_rcnn_ext.data.formats import FORMATS, guess_format, write_dataset
from mask_rcnn_ext.data.formats.dataset import decode_mask, iterate
from mask_rcnn_ext.data.split import split_coco
from mask_rcnn_ext.errors import UserError

# Whether the crowd region comes back as one; and what is read again: inside the output, images.
CASES = {
    "coco": (True, "", True),
    "yolo": (False, "", False),
    "labelme": (False, "", False),
    "voc": (False, "", False),
    "cvat": (False, "", True),
    "label-studio": (False, "tasks.json", True),
}


def convert(dataset, name, tmp_path):
    """Write a data set and read it again; return it and what both counted."""
    notes = IssueCounter()
    output = tmp_path / ("out.json" if name == "coco" else "out")
    write_dataset(dataset, name, output, notes)
    _, inside, with_images = CASES.get(name, (False, "", True))
    back, read_notes = read(output / inside, name, dataset.image_root if with_images else None)
    return back, {kind: len(found) for kind, found in notes.issues.items()}, read_notes


def test_every_written_format_has_a_case():
    assert {name for name, (_, write) in FORMATS.items() if write} == {*CASES, "id-images"}


@pytest.mark.parametrize("name", CASES)
def test_whole_objects_come_back_to_the_pixel(name, tmp_path):
    """Holes, parts, parts that cross, odd names, an empty image, and the order of the classes."""
    dataset = whole_objects(tmp_path)
    back, counted, _ = convert(dataset, name, tmp_path)
    keeps_crowds = CASES[name][0]
    expected = objects_of(only(dataset))
    found = objects_of(only(back))
    assert found.keys() == expected.keys()
    assert classes_of(back) == ["zebra", "ape", "猫"]
    for image, objects in expected.items():
        wanted = [o for o in objects if keeps_crowds or not o[1]]
        assert [o[:2] for o in found[image]] == [o[:2] for o in wanted]
        for (_, _, mask), (_, _, again) in zip(wanted, found[image], strict=True):
            np.testing.assert_array_equal(again, mask)
    assert keeps_crowds or sum(n for kind, n in counted.items() if kind.startswith("crowd")) == 1


@pytest.mark.parametrize("name", ["labelme", "cvat", "coco"])
def test_polygons_keep_their_points(name, tmp_path):
    dataset = whole_objects(tmp_path, crowd=False)
    back, _, _ = convert(dataset, name, tmp_path)
    parts = [a["segmentation"] for a in only(back)["annotations"]]
    assert parts[1:] == [a["segmentation"] for a in only(dataset)["annotations"][1:]]


def test_id_images_hold_no_classes_and_no_overlaps(tmp_path):
    back, counted, _ = convert(whole_objects(tmp_path), "id-images", tmp_path)
    assert classes_of(back) == ["object"]
    assert counted == {
        "crowd region: left out": 1,
        "class of an object: lost": 5,
    }
    expected = objects_of(only(whole_objects(tmp_path)))["ein Bild.png"]
    found = objects_of(only(back))["ein Bild.png"]
    assert len(found) == 3
    for (_, _, mask), (_, _, again) in zip(expected, found, strict=True):
        np.testing.assert_array_equal(again, mask)


@pytest.mark.parametrize("name", ["voc", "id-images"])
def test_the_smaller_object_is_on_top_and_losses_are_counted(name, tmp_path):
    dataset = whole_objects(tmp_path, crowd=False)
    annotations = only(dataset)["annotations"]
    for segmentation in ([[0, 0, W, 0, W, H, 0, H]], [[3, 3, 5, 3, 5, 5, 3, 5]]):
        annotations.append({**annotations[0], "id": 9, "segmentation": segmentation})
    back, counted, _ = convert(dataset, name, tmp_path)
    assert counted["object that others overlap: loses pixels"] == 2  # the whole image, the ring
    masks = [mask for _, _, mask in objects_of(only(back))["ein Bild.png"]]
    assert sorted(int(mask.sum()) for mask in masks)[0] == 4
    assert sum(mask.astype(int) for mask in masks).max() == 1
    assert sum(masks).all()


def test_a_crowd_is_void_in_voc(tmp_path):
    from PIL import Image

    convert(whole_objects(tmp_path), "voc", tmp_path)
    crowd = decode_mask({"segmentation": CROWD}, H, W)
    for folder in ("SegmentationObject", "SegmentationClass"):
        numbers = np.asarray(Image.open(tmp_path / "out" / folder / "é 2.png"))
        np.testing.assert_array_equal(numbers == 255, crowd)


@pytest.mark.parametrize("name", [*CASES, "id-images"])
def test_splits_are_written_and_read(name, tmp_path):
    dataset = whole_objects(tmp_path)
    train, val = split_coco(only(dataset), 0.6)
    dataset = replace(dataset, splits={"train": train, "val": val})
    output = tmp_path / "parts"
    paths = write_dataset(dataset, name, output)
    if name in ("yolo", "voc", "cvat"):  # the format has splits
        images = dataset.image_root if name == "cvat" else None
        back, _ = read(output, name, images)
        names = {k: [i["file_name"] for i in c["images"]] for k, c in back.splits.items()}
        assert {key: len(value) for key, value in names.items()} == {"train": 2, "val": 1}
    elif name == "label-studio":
        assert guess_format(output) == name
        back, _ = read(output, name, dataset.image_root)
        assert {key: len(c["images"]) for key, c in back.splits.items()} == {"train": 2, "val": 1}
    else:
        held = sorted(p.name for p in output.iterdir())
        assert held == (["train.json", "val.json"] if name == "coco" else ["train", "val"])
        assert len(paths) == (2 if name == "coco" else 1)


@pytest.mark.parametrize("name", ["yolo", "voc", "labelme", "label-studio", "id-images"])
def test_images_of_one_name_do_not_mix(name, tmp_path):
    dataset = whole_objects(tmp_path)
    content = only(dataset)
    for image, file in zip(content["images"], ("a/1.png", "b/1.png", "b/1.jpg"), strict=True):
        image["file_name"] = file
        save_image(tmp_path / "bilder" / file)
    if name == "id-images":
        with pytest.raises(UserError, match=r"two images have the name b/1\.jpg"):
            write_dataset(dataset, name, tmp_path / "out")
        return
    back, _, _ = convert(dataset, name, tmp_path)
    counts = [len(annotations) for _, annotations in iterate(only(back))]
    assert sorted(counts) == [0, 2, 3]


def test_boxes_stay_boxes(tmp_path):
    for name in ("labelme", "cvat", "label-studio", "yolo"):
        dataset = whole_objects(tmp_path, crowd=False)
        for annotation in only(dataset)["annotations"]:
            del annotation["segmentation"]
            annotation["bbox"] = [3, 4, 10, 12]
        folder = tmp_path / name
        folder.mkdir()
        back, _, _ = convert(dataset, name, folder)
        assert [a["bbox"] for a in only(back)["annotations"]] == [[3, 4, 10, 12]] * 5, name
        assert not any("segmentation" in a for a in only(back)["annotations"])


@pytest.mark.parametrize("name", ["voc", "id-images", "cityscapes", "dsb"])
def test_a_file_in_place_of_a_folder(name, tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(UserError, match=rf"{name} is a folder of files: .*, got the file .*x"):
        read(tmp_path / "x", name)


def test_no_permission_is_said_before_a_format_is_guessed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root
    with pytest.raises(UserError, match=r"cannot read .*: Permission denied"):
        guess_format(tmp_path)


def test_each_format_is_guessed(tmp_path):
    dataset = whole_objects(tmp_path)
    for name, (_, inside, _) in CASES.items():
        output = tmp_path / ("out.json" if name == "coco" else f"out_{name}")
        write_dataset(dataset, name, output)
        assert guess_format(output / inside) == name
    assert guess_format(tmp_path / "out_label-studio") == "label-studio"
    for folder in ("labels", "images"):
        (tmp_path / "numbers" / folder).mkdir(parents=True)
    save_image(tmp_path / "numbers/labels/1.png")
    assert guess_format(tmp_path / "numbers") == "id-images"
    (tmp_path / "cityscapes" / "gtFine").mkdir(parents=True)
    assert guess_format(tmp_path / "cityscapes") == "cityscapes"
    for inner in ("masks", "images"):
        (tmp_path / "dsb" / "00ae" / inner).mkdir(parents=True)
    assert guess_format(tmp_path / "dsb") == "dsb"
    with pytest.raises(UserError, match=r"give --from, one of coco, yolo"):
        guess_format(tmp_path / "bilder")
    (tmp_path / "out_yolo" / "annotations.xml").write_text("<annotations/>")
    with pytest.raises(UserError, match="may be yolo or cvat"):
        guess_format(tmp_path / "out_yolo")
    (tmp_path / "export.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="Unpack the archive first"):
        guess_format(tmp_path / "export.zip")


def test_an_error_leaves_nothing_and_removes_nothing(tmp_path):
    dataset = whole_objects(tmp_path)
    os.remove(tmp_path / "bilder" / "leer.png")
    with pytest.raises(UserError, match="cannot copy"):
        write_dataset(dataset, "yolo", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bilder"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note.txt").write_text("keep")
    with pytest.raises(UserError, match="is not empty"):
        write_dataset(dataset, "cvat", tmp_path / "mine")
    (tmp_path / "all.json").write_text("{}")
    with pytest.raises(UserError, match="exists"):
        write_dataset(dataset, "coco", tmp_path / "all.json")
    with pytest.raises(UserError, match="expected a file"):
        write_dataset(dataset, "coco", tmp_path / "all")
    with pytest.raises(UserError, match="cannot be written: expected coco"):
        write_dataset(dataset, "dsb", tmp_path / "all")
    assert json.loads((tmp_path / "all.json").read_text()) == {}
