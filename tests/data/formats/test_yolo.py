"""YOLO segmentation as Ultralytics, Roboflow and Label Studio write it."""

from collections import Counter

import numpy as np
import pytest
from format_cases import H, W, classes_of, masks_of, only, read, ring, save_image

from mask_rcnn_ext.data.formats.yolo import _one_polygon
from mask_rcnn_ext.errors import UserError

# 10 x 10 pixels at x 4, y 3, and 20 x 15 at x 20, y 15: fractions of 40 x 30
SQUARE = "0 0.1 0.1 0.35 0.1 0.35 0.433333 0.1 0.433333"
RIGHT = "1 0.5 0.5 1 0.5 1 1 0.5 1"


def square():
    mask = np.zeros((H, W), dtype=bool)
    mask[3:13, 4:14] = True
    return mask


def make(root, labels, yaml="names: [cat, dog]\ntrain: images\n", images=("a b.png",)):
    for name in images:
        save_image(root / "images" / name)
    (root / "labels").mkdir()
    for name, text in labels.items():
        (root / "labels" / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if yaml:
        (root / "data.yaml").write_text(yaml, encoding="utf-8")
    return root


def test_windows_line_ends_marks_and_blank_lines(tmp_path):
    text = f"\ufeff{SQUARE}\r\n\r\n  {RIGHT}  \r\n".encode()
    root = make(
        tmp_path, {"a b.txt": text}, "\ufeffnames:\r\n  0: 猫\r\n  1: dog\r\ntrain: images\r\n"
    )
    dataset, counted = read(root, "yolo")
    assert classes_of(dataset) == ["猫", "dog"]
    first, second = masks_of(dataset)
    np.testing.assert_array_equal(first, square())
    assert second.sum() == 20 * 15
    assert second[15:, 20:].all()
    assert counted == {}
    assert only(dataset)["images"][0]["file_name"] == "images/a b.png"


def test_roboflow_names_folders_one_level_up(tmp_path):
    for split in ("train", "valid"):
        save_image(tmp_path / split / "images" / "x_jpg.rf.0a1b.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "x_jpg.rf.0a1b.txt").write_text(SQUARE)
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
        "names: ['cat', 'dog']\n\nroboflow:\n  workspace: w\n  version: 1\n"
    )
    dataset, notes = read(tmp_path / "data.yaml", "yolo")
    assert notes == {"split that is not there": 1}
    assert list(dataset.splits) == ["train", "val"]
    images = [c["images"][0]["file_name"] for c in dataset.splits.values()]
    assert images == ["train/images/x_jpg.rf.0a1b.jpg", "valid/images/x_jpg.rf.0a1b.jpg"]
    (tmp_path / "valid").rename(tmp_path / "other")
    with pytest.raises(UserError, match=r"`val`: neither .* remove the line if there is no such"):
        read(tmp_path, "yolo")


def test_a_path_of_another_machine_and_a_list_of_files(tmp_path):
    root = make(
        tmp_path,
        {"a b.txt": SQUARE, "2.txt": RIGHT},
        "path: /content/datasets/mine\ntrain: train.txt\nval: val.txt\nnames: {0: cat, 1: dog}\n",
        ("a b.png", "2.png"),
    )
    (root / "train.txt").write_text("./images/a b.png\n")
    (root / "val.txt").write_text("images/2.png\r\n")
    dataset, _ = read(root, "yolo")
    assert {k: len(c["annotations"]) for k, c in dataset.splits.items()} == {"train": 1, "val": 1}
    (root / "val.txt").write_text("images/2.png\nimages/3.png\n")
    with pytest.raises(UserError, match=r"val.txt, line 2: image not found: images/3.png"):
        read(root, "yolo")
    (root / "val.txt").write_text(f"{'x' * 300}.png\n")
    with pytest.raises(UserError, match=r"val.txt, line 1: image not found: xxx"):
        read(root, "yolo")


def test_names_of_cvat_and_of_windows_in_a_list(tmp_path):
    """The lines of CVAT's "Ultralytics YOLO Segmentation" begin with a folder that is not there."""
    root = make(tmp_path, {"a b.txt": SQUARE}, "names: {0: cat}\npath: .\ntrain: train.txt\n")
    (root / "train.txt").write_text("data/images/a b.png\n")
    np.testing.assert_array_equal(masks_of(read(root, "yolo")[0])[0], square())
    (root / "train.txt").write_text("images\\a b.png\r\n")  # of Windows
    np.testing.assert_array_equal(masks_of(read(root, "yolo")[0])[0], square())
    (root / "train.txt").write_text("data/data/images/a b.png\n")
    with pytest.raises(UserError, match=r"train.txt, line 1: image not found: data/data/images/"):
        read(root, "yolo")


def test_the_yaml_may_list_images(tmp_path):
    root = make(tmp_path, {"a b.txt": SQUARE}, "names: [cat]\ntrain:\n  - images/a b.png\n")
    np.testing.assert_array_equal(masks_of(read(root, "yolo")[0])[0], square())


def test_poses_are_no_polygons(tmp_path):
    """A box and two points of two numbers are as many numbers as a polygon of four points."""
    yaml = "names: [cat]\ntrain: images\nkpt_shape: [2, 2]\n"
    root = make(tmp_path, {"a b.txt": "0 0.5 0.5 0.5 0.5 0.4 0.4 0.6 0.6"}, yaml)
    with pytest.raises(UserError, match=r"data.yaml: `kpt_shape`: labels of poses"):
        read(root, "yolo")


def test_label_studio_writes_classes_txt_and_no_yaml(tmp_path):
    root = make(tmp_path, {"a b.txt": SQUARE}, yaml="")
    (root / "classes.txt").write_text("zebra\nape\n")
    dataset, _ = read(root, "yolo")
    assert classes_of(dataset) == ["zebra", "ape"]


def test_label_studio_quotes_the_names_of_labels(tmp_path):
    """Without their labels, the images would be images without objects."""
    labels = {"%C3%A9%20(1).txt": SQUARE, "100%.txt": RIGHT, "no.txt": SQUARE}
    images = ("\xe9 (1).png", "100%.png", "no.png")
    dataset, counted = read(make(tmp_path, labels, images=images), "yolo")
    assert len(only(dataset)["annotations"]) == 3
    assert counted == {}


def test_without_names_the_numbers_are_names(tmp_path):
    labels = {"a b.txt": f"{SQUARE}\n{RIGHT.replace('1', '10', 1)}\n2{SQUARE[1:]}"}
    dataset, counted = read(make(tmp_path, labels, yaml=""), "yolo")
    assert classes_of(dataset) == ["0", "2", "10"]
    assert counted["no names of classes: their numbers are the names"] == 1


def test_labels_in_a_folder_of_their_own(tmp_path):
    save_image(tmp_path / "photos" / "sub" / "1.jpg")
    (tmp_path / "txt" / "sub").mkdir(parents=True)
    (tmp_path / "txt" / "sub" / "1.txt").write_text(SQUARE)
    dataset, _ = read(tmp_path / "txt", "yolo", tmp_path / "photos")
    np.testing.assert_array_equal(masks_of(dataset)[0], square())


def test_labels_of_cvat_without_the_images(tmp_path):
    """They are in a folder for each subset, the user's images are in another folder."""
    for name in ("1", "2", "3"):
        save_image(tmp_path / "photos" / f"{name}.jpg")
    for file in ("Train/1.txt", "Train/3.txt", "Validation/2.txt", "Validation/3.txt"):
        path = tmp_path / "export" / "labels" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SQUARE)
    (tmp_path / "export" / "data.yaml").write_text("names: {0: cat}\npath: .\nTrain: Train.txt\n")
    (tmp_path / "export" / "Train.txt").write_text("data/images/Train/1.jpg\n")
    with pytest.raises(UserError, match=r"1\.jpg\. If the images are elsewhere, .* --images"):
        read(tmp_path / "export", "yolo")
    dataset, counted = read(tmp_path / "export", "yolo", tmp_path / "photos")
    assert [a["image_id"] for a in only(dataset)["annotations"]] == [1, 2]
    # Which of the two files called 3.txt is right, is not known.
    assert counted["image without a label file: an image without objects"] == 1
    save_image(tmp_path / "others" / "x.png")
    with pytest.raises(UserError, match=r"no image has a label file; expected .*x\.txt for x\.png"):
        read(tmp_path / "export", "yolo", tmp_path / "others")


def test_what_is_counted(tmp_path):
    labels = {"a b.txt": "0 0.5 0.5 0.5 0.5\n0 0 0 0.5 0.5 1 1\n", "gone.txt": SQUARE}
    dataset, counted = read(make(tmp_path, labels, images=("a b.png", "2.png")), "yolo")
    assert counted == {
        "box without a mask: kept as a box": 1,
        "image without a label file: an image without objects": 1,
        "label file without an image": 1,
        "polygon without area: left out": 1,
    }
    (box,) = only(dataset)["annotations"]
    assert box["bbox"] == [10, 7.5, 20, 15]
    assert "segmentation" not in box


@pytest.mark.parametrize(
    ("images", "labels", "objects"),
    [
        pytest.param(["1.png", "2.png"], ["train/1", "val/2"], [1, 1], id="of CVAT"),
        pytest.param(["train/1.png", "val/1.png"], ["train/1"], [1, 0], id="of the other"),
        pytest.param(["a/1.png", "b/1.png", "c.png"], ["train/1", "c"], [0, 0, 1], id="of either"),
        pytest.param(["a/é.png", "b/%C3%A9.png"], ["a/%C3%A9"], [1, 0], id="quoted"),
    ],
)
def test_labels_below_belong_to_one_image_only(images, labels, objects, tmp_path):
    """Where the names of two images are equal, the labels of one are not those of the other."""
    for name in images:
        save_image(tmp_path / "images" / name)
    for name in labels:
        path = tmp_path / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SQUARE)
    (tmp_path / "classes.txt").write_text("cat\n")
    dataset, counted = read(tmp_path, "yolo", tmp_path / "images")
    content = only(dataset)
    ids = {image["file_name"]: image["id"] for image in content["images"]}
    numbers = Counter(annotation["image_id"] for annotation in content["annotations"])
    assert [numbers[ids[name]] for name in images] == objects
    missing = counted.get("image without a label file: an image without objects", 0)
    assert missing == objects.count(0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.1 0.1 0.4 0.1 0.4", "expected a class and x y of at least 3 points"),
        ("0 0.1 0.1 0.4 0.1 0.4 0.4 0.9", "got 7 numbers"),
        ("cat 0.1 0.1 0.4 0.1 0.4 0.4", "expected numbers, got 'cat"),
        ("2 0.1 0.1 0.4 0.1 0.4 0.4", "class 2: expected 0 to 1"),
        ("0.5 0.1 0.1 0.4 0.1 0.4 0.4", "class 0.5"),
        ("0 4 3 14 3 14 13", "expected fractions of the image, 0 to 1, got 14"),
        ("0 nan 0.1 0.4 0.1 0.4 0.4", "expected fractions"),
    ],
)
def test_a_wrong_line_is_named(line, message, tmp_path):
    root = make(tmp_path, {"a b.txt": f"{SQUARE}\n{line}\n"})
    with pytest.raises(UserError, match=r"a b\.txt, line 2: .*") as error:
        read(root, "yolo")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("train: images\n", "expected `names`"),
        ("names: {0: a, 2: b}\ntrain: images\n", "expected the numbers 0 to 1"),
        ("names: [a, a]\ntrain: images\n", "two classes have the same name"),
        ("names: [a\n", "not yaml"),
        ("- a\n", "expected keys"),
        ("names: [a]\nday: 2020-99-99\n", "not yaml: month must be in 1..12"),
        (f"names: {'[' * 3000}\n", "not yaml: nested too deeply"),
        (f"names: [a]\ntrain: {'x' * 300}\n", "`train`: neither "),
    ],
)
def test_a_wrong_yaml_is_named(yaml, message, tmp_path):
    with pytest.raises(UserError, match=r"data\.yaml: ") as error:
        read(make(tmp_path, {"a b.txt": SQUARE}, yaml), "yolo")
    assert message in str(error.value)


def test_a_hole_is_in_one_line_of_text(tmp_path):
    """Ultralytics joins parts by a line there and back; so is the hole of a ring."""
    points = _one_polygon({}, ring())
    values = " ".join(f"{v:.6f}" for v in (points / (W, H)).ravel())
    dataset, _ = read(make(tmp_path, {"a b.txt": f"0 {values}\n"}), "yolo")
    np.testing.assert_array_equal(masks_of(dataset)[0], ring())


def test_a_polygon_outside_of_the_image_is_cut(tmp_path):
    mask = np.zeros((H, W), dtype=bool)
    mask[:10, :10] = True
    polygon = [[-8, -5, 10, -5, 10, 10, -8, 10]]
    points = _one_polygon(polygon, mask)
    assert points.min() == 0
    assert points.max() == 10
