"""LabelMe's json in the forms of its versions 3 to 6."""

import json

import numpy as np
import pytest
from format_cases import (
    H,
    W,
    classes_of,
    masks_of,
    only,
    read,
    save_image,
    write_dataset_to,
    write_json,
)

from mask_rcnn_ext.errors import UserError

# A PNG of 4 x 3 pixels as labelme.utils.img_arr_to_b64 writes it: ones around two zeros.
MASK = (
    "iVBORw0KGgoAAAANSUhEUgAAAAQAAAADCAAAAACRn/EaAAAAFUlEQVR4nAXBAQEAAACAEP0/HQVRYQBEAAdpLTQyAAAA"
    "AElFTkSuQmCC"
)
SQUARE = [[4.0, 3.0], [14.0, 3.0], [14.0, 13.0], [4.0, 13.0]]


def shape(label="cat", points=SQUARE, kind="polygon", **keys):
    odd = {"description": "", "flags": {}, "mask": None}
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, **odd, **keys}


def make(root, *shapes, name="a b", **keys):
    save_image(root / f"{name}.png")
    content = {
        "version": "5.5.0",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{name}.png",
        "imageData": "aGVsbG8=",
        "imageHeight": H,
        "imageWidth": W,
        **keys,
    }
    write_json(root / f"{name}.json", content)
    return root


def test_the_mask_shape(tmp_path):
    corners = [[30.0, 20.0], [33.0, 22.0]]  # of the first and of the last pixel
    root = make(tmp_path, shape(points=corners, kind="mask", mask=MASK))
    expected = np.zeros((H, W), dtype=bool)
    expected[20:23, 30:34] = True
    expected[21, 31:33] = False
    np.testing.assert_array_equal(masks_of(read(root, "labelme")[0])[0], expected)


def test_one_group_is_one_object(tmp_path):
    far = [[20, 20], [25, 20], [25, 25], [20, 25]]
    root = make(
        tmp_path,
        shape(group_id=0),  # 0 is a group
        shape(label="dog"),
        shape(points=far, group_id=0),
        shape(label="dog", points=far, group_id=0),
        shape(points=[[30.0, 20.0], [33.0, 22.0]], kind="mask", mask=MASK, group_id=0),
    )
    content = only(read(root, "labelme")[0])
    assert [a["area"] for a in content["annotations"]] == [100 + 25 + 10, 100, 25]


def test_old_files_have_fewer_keys(tmp_path):
    """Version 3: no shape_type, no group_id, no size; colours instead."""
    old = {"label": "cat", "points": SQUARE, "line_color": None, "fill_color": [1, 2, 3, 4]}
    root = make(tmp_path, old)
    content = json.loads((root / "a b.json").read_text())
    for key in ("imageHeight", "imageWidth"):
        del content[key]
    write_json(root / "a b.json", {**content, "lineColor": [0, 255, 0, 128]}, encoding="utf-8-sig")
    assert only(read(root, "labelme")[0])["annotations"][0]["area"] == 100


def test_shapes_with_and_without_an_area(tmp_path):
    root = make(
        tmp_path,
        shape(points=[[20, 15], [20, 10]], kind="circle"),
        shape(points=[[14, 13], [4, 3]], kind="rectangle"),  # drawn from the lower right corner
        shape(points=[[1, 1], [5, 5]], kind="line"),
        shape(points=[[1, 1]], kind="point"),
        shape(points=SQUARE[:2]),
        shape(points=SQUARE, kind="oriented_rectangle"),
    )
    dataset, counted = read(root, "labelme")
    circle, box, oriented = only(dataset)["annotations"]
    assert circle["area"] == pytest.approx(np.pi * 25, rel=0.05)
    assert box["bbox"] == [4, 3, 10, 10]
    assert "segmentation" not in box
    assert oriented["area"] == 100
    assert counted == {
        "box without a mask: kept as a box": 1,
        "shape of the type line: left out": 1,
        "shape of the type point: left out": 1,
        "polygon with fewer than 3 points: left out": 1,
    }


def test_classes_come_from_labels_txt_or_the_alphabet(tmp_path):
    root = make(tmp_path, shape("dog"), shape("cat"))
    assert classes_of(read(root, "labelme")[0]) == ["cat", "dog"]
    text = "__ignore__\r\n_background_\r\ndog\r\ncat\r\nfox\r\n"
    (root / "labels.txt").write_text(text, encoding="utf-8-sig")
    assert classes_of(read(root, "labelme")[0]) == ["dog", "cat", "fox"]
    (root / "labels.txt").write_text("dog\nbat\n")
    expected = r"a b\.json, shape 2: the class 'cat' .* did you mean 'bat'"
    with pytest.raises(UserError, match=expected):
        read(root, "labelme")


def test_shapes_without_a_label_are_counted(tmp_path):
    root = make(tmp_path, shape("dog"), shape(""), shape(" "))
    for text in (None, "dog\n"):
        if text:
            (root / "labels.txt").write_text(text, encoding="utf-8")
        dataset, counted = read(root, "labelme")
        assert classes_of(dataset) == ["dog"]
        assert counted == {"object without a label: left out": 2}


def test_shapes_to_ignore_are_no_objects(tmp_path):
    """As in the tool's labelme2coco.py, with and without a list of the labels."""
    root = make(tmp_path, shape("dog"), shape("__ignore__"), shape("_background_"))
    for text in (None, "__ignore__\n_background_\ndog\n"):
        if text:
            (root / "labels.txt").write_text(text, encoding="utf-8")
        dataset, counted = read(root, "labelme")
        assert classes_of(dataset) == ["dog"]
        assert len(only(dataset)["annotations"]) == 1
        assert counted == {
            "shape of the label __ignore__: left out": 1,
            "shape of the label _background_: left out": 1,
        }


def test_images_next_to_above_and_elsewhere(tmp_path):
    make(tmp_path / "in" / "x", shape(), name="1")
    make(tmp_path / "in" / "y", shape(), name="2", imagePath="..\\..\\bilder\\é 2.png")
    save_image(tmp_path / "bilder" / "é 2.png")
    dataset, _ = read(tmp_path / "in", "labelme")
    assert dataset.image_root == str(tmp_path)
    files = [i["file_name"] for i in only(dataset)["images"]]
    assert files == ["in/x/1.png", "bilder/é 2.png"]
    one, _ = read(tmp_path / "in" / "x" / "1.json", "labelme", tmp_path / "in" / "x")
    assert only(one)["images"][0]["file_name"] == "1.png"
    # The images may be named by their own folder, although `imagePath` leads there from the json.
    two, _ = read(tmp_path / "in" / "y", "labelme", tmp_path / "bilder")
    assert only(two)["images"][0]["file_name"] == "é 2.png"
    make(tmp_path / "in" / "y", shape(), name="3", imagePath="../é 2.png")
    with pytest.raises(UserError, match="lead to the same file é 2"):
        read(tmp_path / "in" / "y", "labelme", tmp_path / "bilder")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": None}, "shape 2: expected an object with a `label`"),
        ({"kind": "cube"}, "shape 2: unknown shape_type 'cube'"),
        ({"kind": ["polygon"]}, "shape 2: unknown shape_type ['polygon']"),
        ({"group_id": [1]}, "shape 2: `group_id`: expected a number, got [1]"),
        ({"group_id": {}}, "shape 2: `group_id`: expected a number, got {}"),
        ({"points": [[1, 2, 3]]}, "shape 2: `points`: expected a list of [x, y]"),
        ({"kind": "mask", "mask": "%"}, "shape 2: `mask`: expected a PNG in base64"),
        (
            {"kind": "mask", "mask": MASK, "points": [[38, 0], [41, 2]]},
            "shape 2: a mask of 4 x 3 pixels at x 38, y 0 does not fit",
        ),
    ],
)
def test_a_wrong_shape_is_named(changes, message, tmp_path):
    root = make(tmp_path, shape(), shape(**changes))
    with pytest.raises(UserError, match=r"a b\.json, ") as error:
        read(root, "labelme")
    assert message in str(error.value)


def test_a_wrong_file_is_named(tmp_path):
    make(tmp_path, shape(), imageHeight=31)
    with pytest.raises(UserError, match=r"a b\.json: says 40 x 31 pixels .* the file is 40 x 30"):
        read(tmp_path, "labelme")
    make(tmp_path, shape(), imagePath="gone.png")
    with pytest.raises(UserError, match=r"a b\.json: 1 of 1 image files are missing: gone\.png"):
        read(tmp_path, "labelme")
    write_json(tmp_path / "a b.json", {"images": []})
    with pytest.raises(UserError, match=r"a b\.json: no LabelMe json"):
        read(tmp_path, "labelme")


def test_what_is_written_is_what_the_tool_writes(tmp_path):
    content = write_dataset_to(tmp_path, "labelme")
    shapes = content["shapes"]
    assert content["imagePath"] == "../bilder/ein Bild.png"
    assert [s["shape_type"] for s in shapes] == ["mask", "polygon", "polygon", "polygon"]
    assert [s["group_id"] for s in shapes] == [None, None, 3, 3]
    assert shapes[0]["points"] == [[3, 2], [13, 12]]
    assert shapes[0].keys() == shape().keys()
