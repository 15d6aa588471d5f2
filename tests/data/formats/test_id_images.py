"""Images of object numbers: Cellpose's and BBBC's, Cityscapes', the Data Science Bowl's."""

import tracemalloc

import numpy as np
import pytest
from format_cases import H, W, classes_of, masks_of, only, read, save_image
from PIL import Image

from mask_rcnn_ext.data.findings import IssueCounter
from mask_rcnn_ext.data.formats.id_images import draw_objects
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.layers.rle import encode_mask


def ids(*values):
    """Return an image of numbers: a square of 5 pixels for each value, from left to right."""
    numbers = np.zeros((H, W), dtype=np.int32)
    for i, value in enumerate(values):
        numbers[2:7, 6 * i : 6 * i + 5] = value
    return numbers


def save(path, values, dtype=np.uint16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(dtype)).save(path)


@pytest.mark.parametrize(
    ("suffix", "dtype", "values"),
    [
        ("_cp_masks.png", np.uint16, (1, 3, 40000)),
        (".tif", np.uint8, (1, 3, 255)),
        ("_label.tif", np.int32, (1, 3, 70000)),
        ("-mask.tiff", np.float32, (1, 3, 7)),
    ],
)
def test_depths_and_names(suffix, dtype, values, tmp_path):
    numbers = ids(*values)
    numbers[20:22, 30:33] = values[1]  # one number is one object, also in two parts
    for stem in ("zelle 1", "zelle 1_2"):
        save_image(tmp_path / "images" / f"{stem}.png")
        save(tmp_path / "masks" / f"{stem}{suffix}", numbers, dtype)
    dataset, counted = read(tmp_path, "id-images")
    assert classes_of(dataset) == ["object"]
    names = [image["file_name"] for image in only(dataset)["images"]]
    assert sorted(names) == ["zelle 1.png", "zelle 1_2.png"]
    for mask, value in zip(masks_of(dataset)[:3], values, strict=True):
        np.testing.assert_array_equal(mask, numbers == value)
    assert counted == {}


def test_images_and_numbers_in_one_folder_are_refused(tmp_path):
    """Cellpose writes its masks next to the images. Each would be an image of numbers."""
    for suffix in (".png", "_cp_masks.png"):
        save(tmp_path / f"a{suffix}", ids(1, 2), np.uint8)
    (tmp_path / "link").symlink_to(tmp_path)
    for images in (tmp_path, tmp_path / "link"):
        with pytest.raises(UserError, match="Move the files of numbers into a folder of their own"):
            read(tmp_path, "id-images", images)


def test_one_value_in_every_file_is_no_number(tmp_path):
    for stem in "ab":
        save_image(tmp_path / "photos" / f"{stem}.jpg")
        save(tmp_path / "m" / f"{stem}.png", ids(255, 255), np.uint8)
    save_image(tmp_path / "photos" / "c.jpg")
    _, counted = read(tmp_path / "m", "id-images", tmp_path / "photos")
    assert counted == {
        "file with one value: are they object numbers? Touching objects are one": 1,
        "image without a file of numbers: left out": 1,
    }


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (np.zeros((H, W, 3)), np.uint8, "is a colour image"),
        (ids(1) / 2, np.float32, "expected whole numbers"),
        (ids(-1), np.int32, "expected whole numbers of at least 0"),
        (ids(1)[:-1], np.uint8, "says 40 x 29 pixels"),
    ],
)
def test_a_wrong_file_is_named(values, dtype, message, tmp_path):
    save_image(tmp_path / "images" / "a.png")
    save(tmp_path / "masks" / "a.tif", values, dtype)
    with pytest.raises(UserError, match=r"masks/a\.tif: ") as error:
        read(tmp_path, "id-images")
    assert message in str(error.value)


def test_missing_images_and_broken_files(tmp_path):
    save(tmp_path / "masks" / "a.png", ids(1, 2))
    with pytest.raises(UserError, match=r"image folder not found: .* Give it with --images"):
        read(tmp_path, "id-images")
    save_image(tmp_path / "images" / "b.png")
    with pytest.raises(UserError, match=r"a\.png: no image of this name"):
        read(tmp_path, "id-images")
    save_image(tmp_path / "images" / "a.png")
    (tmp_path / "masks" / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(UserError, match=r"a\.png: cannot be read"):
        read(tmp_path, "id-images")


def test_cityscapes(tmp_path):
    city = "aachen_000000_000019"
    numbers = ids(7, 24000, 24001, 26003, 26, 29000)  # road, two persons, a car, cars, caravan
    for split in ("train", "val"):
        save_image(tmp_path / "leftImg8bit" / split / "aachen" / f"{city}_leftImg8bit.png")
        save(tmp_path / "gtFine" / split / "aachen" / f"{city}_gtFine_instanceIds.png", numbers)
    dataset, _ = read(tmp_path, "cityscapes")
    assert list(dataset.splits) == ["train", "val"]
    content = dataset.splits["train"]
    assert content["images"][0]["file_name"] == f"train/aachen/{city}_leftImg8bit.png"
    names = {c["id"]: c["name"] for c in content["categories"]}
    found = [(names[a["category_id"]], a["iscrowd"], a["area"]) for a in content["annotations"]]
    assert sorted(found) == [("car", 0, 25), ("car", 1, 25), ("person", 0, 25), ("person", 0, 25)]
    with pytest.raises(UserError, match="no SPLIT/CITY"):
        read(tmp_path / "gtFine", "cityscapes")
    (tmp_path / "leftImg8bit").rename(tmp_path / "photos")
    with pytest.raises(UserError, match=r"image folder not found: .* Give it with --images"):
        read(tmp_path, "cityscapes")


def test_the_data_science_bowl(tmp_path):
    folder = tmp_path / "00ae65c1"
    save_image(folder / "images" / "00ae65c1.png")
    for i, value in enumerate((255, 1)):
        save(folder / "masks" / f"{i}.png", ids(*[0] * i, value), np.uint8)
    save_image(tmp_path / "0a" / "images" / "0a.png")
    dataset, counted = read(tmp_path, "dsb")
    assert [a["bbox"] for a in only(dataset)["annotations"]] == [[0, 2, 5, 5], [6, 2, 5, 5]]
    assert only(dataset)["images"][0]["file_name"] == "00ae65c1/images/00ae65c1.png"
    assert counted == {"folder without masks: an image without objects": 1}
    save(folder / "masks" / "2.png", ids(1)[:, :-1], np.uint8)
    with pytest.raises(UserError, match=r"2\.png: is 39 x 30 pixels .* is 40 x 30"):
        read(tmp_path, "dsb")


def test_objects_are_drawn_the_smaller_one_on_top():
    """Also an empty mask, one that fills the image, and one that others hide."""
    windows = [np.s_[2:4, 3:7], np.s_[:, :], np.s_[0:0, 0:0], np.s_[2:4, 3:5], np.s_[2:4, 5:7]]
    annotations, expected = [], np.full((6, 9), 2)
    for i, window in enumerate(windows):
        mask = np.zeros((6, 9), dtype=bool)
        mask[window] = True
        annotations.append({"id": i + 1, "iscrowd": 0, "segmentation": encode_mask(mask)})
    expected[2:4, 3:5], expected[2:4, 5:7] = 4, 5
    notes = IssueCounter()
    drawn, kept = draw_objects({"height": 6, "width": 9}, annotations, 99, notes)
    np.testing.assert_array_equal(drawn, expected)
    assert kept == annotations
    assert {kind: found for kind, found in notes.issues.items() if "object" in kind}.keys() == {
        "object under others: lost",
        "object that others overlap: loses pixels",
    }


def test_many_objects_of_a_large_image_need_the_memory_of_a_few():
    height, width = 500, 700
    annotations = [
        {"id": i, "iscrowd": 0, "segmentation": [[i, i, i + 9, i, i + 9, i + 9, i, i + 9]]}
        for i in range(400)
    ]
    tracemalloc.start()
    try:
        drawn, _ = draw_objects(
            {"height": height, "width": width}, annotations, 9999, IssueCounter()
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert drawn.max() == 400
    assert peak < 20 * height * width  # a mask for each object: 400 times
