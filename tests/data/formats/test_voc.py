"""Pascal VOC's masks: palette files as in VOC2012, and colour files as CVAT and datumaro write."""

import numpy as np
import pytest
from format_cases import H, W, classes_of, masks_of, only, read, save_image
from PIL import Image

from mask_rcnn_ext.data.formats.voc import PALETTE
from mask_rcnn_ext.errors import UserError


def numbers():
    """Return objects and classes: object 1 of class 15, object 2 of class 8, void between."""
    objects, classes = np.zeros((2, H, W), dtype=np.uint8)
    objects[3:13, 4:14], classes[3:13, 4:14] = 1, 15
    objects[3:13, 16:20], classes[3:13, 16:20] = 2, 8
    objects[3:13, 14:16] = classes[3:13, 14:16] = 255
    return objects, classes


def save(path, values, colors=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values if colors is None else colors[values])
    if colors is None:
        image.putpalette(PALETTE.ravel().tolist())
    image.save(path)


def make(root, objects, classes, stem="2007_000032", colors=(None, None)):
    save_image(root / "JPEGImages" / f"{stem}.jpg")
    save(root / "SegmentationObject" / f"{stem}.png", objects, colors[0])
    save(root / "SegmentationClass" / f"{stem}.png", classes, colors[1])
    return root


def test_the_palette_is_pascal_vocs():
    expected = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert PALETTE[:5].tolist() == expected
    assert PALETTE[20].tolist() == [0, 64, 128]  # tvmonitor
    assert PALETTE[255].tolist() == [224, 224, 192]  # void


def test_indices_and_void(tmp_path):
    root = make(tmp_path, *numbers())
    for split in ("train", "val", "trainval"):
        listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("2007_000032\r\n" if split != "val" else "")
    dataset, counted = read(root, "voc")
    assert [a["category_id"] for a in only(dataset)["annotations"]] == [15, 8]
    assert (classes_of(dataset)[14], classes_of(dataset)[7]) == ("person", "cat")
    objects, _ = numbers()
    for value, mask in enumerate(masks_of(dataset), 1):
        np.testing.assert_array_equal(mask, objects == value)
    assert counted == {"no labelmap.txt: the classes are Pascal VOC's 20": 1}


def test_labelme_names_the_classes_in_another_file(tmp_path):
    objects, classes = numbers()
    classes[classes == 15], classes[classes == 8] = 1, 2
    make(tmp_path, objects, classes)
    names = tmp_path / "class_names.txt"
    names.write_text("_background_\nscratch\ndent", encoding="utf-8")
    dataset, counted = read(tmp_path, "voc")
    assert classes_of(dataset) == ["scratch", "dent"]
    assert [a["category_id"] for a in only(dataset)["annotations"]] == [1, 2]
    assert counted == {}
    names.write_text("scratch\ndent\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"class_names\.txt: expected `_background_` and then"):
        read(tmp_path, "voc")


def test_colours_of_a_labelmap(tmp_path):
    """CVAT: colours of its own for the classes, the palette's for the objects."""
    objects, classes = numbers()
    classes[classes == 15], classes[classes == 8] = 1, 2
    colors = PALETTE.copy()
    colors[1], colors[2] = (250, 50, 83), (51, 221, 255)
    make(tmp_path, objects, classes, colors=(PALETTE, colors))
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\r\nzebra:x:51,221,255::\r\nbackground:0,0,0::\r\n"
    )
    with pytest.raises(UserError, match=r"labelmap\.txt: expected `background`"):
        read(tmp_path, "voc")
    text = "# label:color_rgb:parts:actions\r\nbackground:0,0,0::\r\ncat:250,50,83::\r\n"
    text += "ignored:224,224,192::\r\n"  # a name for void, not a class
    (tmp_path / "labelmap.txt").write_text(f"{text}zebra:x:51,221,255::\r\n", encoding="utf-8-sig")
    dataset, _ = read(tmp_path, "voc")
    assert classes_of(dataset) == ["cat", "zebra:x"]
    assert [a["category_id"] for a in only(dataset)["annotations"]] == [1, 2]
    (tmp_path / "labelmap.txt").write_text("background:::\ncat:::\nzebra:::\n")  # datumaro
    with pytest.raises(UserError, match=r"the colour \(51, 221, 255\) is not among"):
        read(tmp_path, "voc")
    make(tmp_path, objects, classes, colors=(PALETTE, PALETTE))
    assert classes_of(read(tmp_path, "voc")[0]) == ["cat", "zebra"]
    (tmp_path / "labelmap.txt").write_text("background:::\ncat:1,2\n")
    with pytest.raises(UserError, match=r"labelmap\.txt, line 2: expected NAME:R,G,B::"):
        read(tmp_path, "voc")


def test_objects_without_one_class(tmp_path):
    objects, classes = numbers()
    classes[3:5, 4:14] = 7  # 20 of the 100 pixels of object 1
    classes[objects == 2] = 255
    dataset, counted = read(make(tmp_path, objects, classes), "voc")
    assert [a["category_id"] for a in only(dataset)["annotations"]] == [15]
    assert counted == {
        "object of several classes: the most frequent is read": 1,
        "object without a class: left out": 1,
        "no labelmap.txt: the classes are Pascal VOC's 20": 1,
    }


def test_what_is_wrong_is_named(tmp_path):
    objects, classes = numbers()
    with pytest.raises(UserError, match=r"folder not found: .*SegmentationObject"):
        read(tmp_path, "voc")
    root = make(tmp_path, objects, classes)
    listed = root / "ImageSets" / "Segmentation" / "train.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("2007_000032\n2007_000033\n")
    with pytest.raises(UserError, match=r"train\.txt, line 2: not found: .*000033\.png"):
        read(root, "voc")
    save(root / "SegmentationObject" / "2007_000033.png", objects)
    with pytest.raises(UserError, match=r"train\.txt, line 2: no image 2007_000033"):
        read(root, "voc")
    listed.write_text("2007_000032\n")
    save(root / "SegmentationClass" / "2007_000032.png", classes[:-1])
    with pytest.raises(UserError, match=r"2007_000032\.png: has another size"):
        read(root, "voc")
    classes[classes == 15] = 21
    save(root / "SegmentationClass" / "2007_000032.png", classes)
    with pytest.raises(UserError, match=r"2007_000032\.png, object 1: class number 21, of 20"):
        read(root, "voc")
    (root / "JPEGImages").rename(root / "photos")
    with pytest.raises(UserError, match=r"image folder not found: .*JPEGImages. Give it with --im"):
        read(root, "voc")
    save_image(root / "JPEGImages" / "2007_000032.jpg", (W, H + 1))
    with pytest.raises(UserError, match=r"says 40 x 30 pixels .* the file is 40 x 31"):
        read(root, "voc")
