"""The embedded data set: the same everywhere, and as hard as it says."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data import occluded_shapes, shape_drawing
from mask_rcnn_ext.data.occluded_shapes import SEED, SPLITS, checksum, draw_split
from mask_rcnn_ext.data.shape_drawing import CLASSES, SIZE, draw_image

CHECKSUMS = {
    "train": "e8312727b736ecfc4a72a88fd55f2aa17b69ec20307a8fc886d85688c34ecce0",
    "val": "9dbece72dadeada3684bf2e26c3b91abc2f82ba6c83d8cc927dc12581a530919",
    "test": "c2c335b2edf34e0516d5ee33e2675aa9a7d8d96b11597e86e2fb587f6301bc7b",
}


@pytest.mark.parametrize("split", SPLITS)
def test_checksum(split):
    """A change of this value is a change of the data set, and needs another VERSION."""
    DatasetCatalog.get(f"occluded_shapes_{split}")
    folder = MetadataCatalog.get(f"occluded_shapes_{split}").image_root
    assert checksum(folder) == CHECKSUMS[split]


@pytest.fixture(scope="module")
def val():
    dicts = DatasetCatalog.get("occluded_shapes_val")
    with open(MetadataCatalog.get("occluded_shapes_val").json_file) as f:
        return dicts, json.load(f)


def test_detectron2_reads_it(val):
    dicts, coco = val
    assert len(dicts) == SPLITS["val"] == 200
    assert MetadataCatalog.get("occluded_shapes_val").thing_classes == list(CLASSES)
    assert sum(len(d["annotations"]) for d in dicts) == len(coco["annotations"])
    with Image.open(dicts[0]["file_name"]) as image:
        assert (image.size, image.mode) == ((SIZE, SIZE), "RGB")


def test_masks_are_visible_parts_and_boxes_fit(val):
    _, coco = val
    for image in coco["images"]:
        annotations = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        assert 2 <= len(annotations) <= 6
        masks = np.stack([mask_util.decode(a["segmentation"]) for a in annotations])
        assert masks.sum(axis=0).max() == 1, "a pixel belongs to one instance"
        for annotation, mask in zip(annotations, masks, strict=True):
            ys, xs = np.nonzero(mask)
            box = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            assert annotation["bbox"] == box
            assert annotation["area"] == mask.sum()
            assert annotation["visible"] >= 0.3


def test_difficulty(val):
    """The shares that the data set promises, counted on val's boxes."""
    _, coco = val
    overlapping = same_class = 0
    sizes = []
    for image in coco["images"]:
        annotations = [a for a in coco["annotations"] if a["image_id"] == image["id"]]
        boxes = [a["bbox"] for a in annotations]
        iou = mask_util.iou(boxes, boxes, [0] * len(boxes))
        np.fill_diagonal(iou, 0)
        labels = np.array([a["category_id"] for a in annotations])
        overlapping += int((iou.max(axis=1) > 0.1).sum())
        same_class += int(((iou * (labels[:, None] == labels)).max(axis=1) > 0.1).sum())
        sizes += [max(box[2:]) for box in boxes]
    count = len(coco["annotations"])
    assert overlapping / count >= 0.5
    assert same_class / count >= 0.25
    assert 0.25 <= np.mean(np.array(sizes) < 32) <= 0.45  # visible extents; see the next test
    assert max(sizes) <= 91
    assert {a["category_id"] for a in coco["annotations"]} == {1, 2, 3, 4, 5}


def test_sizes_are_16_to_90_and_a_third_under_32():
    shapes = []
    for index in range(150):
        rng = shape_drawing._Stream(SEED, 0, index)
        shapes += shape_drawing._compose(rng, np.array([120.0, 120.0, 120.0]))[0]
    sizes = np.array([shape.size for shape in shapes])
    assert sizes.min() >= 16
    assert sizes.max() <= 90
    assert 0.25 <= (sizes < 32).mean() <= 0.42


def test_ring_has_a_hole_and_the_raster_is_exact():
    """A square of 8 x 8 pixels at (10, 20) covers 8 * 8 * 16 samples; a ring's centre is empty."""
    square = np.array([[10, 20], [18, 20], [18, 28], [10, 28]], dtype=np.int64) * 256
    rows, columns, inside = shape_drawing._rasterise([square])
    assert inside.sum() == 8 * 8 * 16
    assert (rows.start, columns.start) == (80, 40)
    shape = shape_drawing._Shape(4, 40.0, 80.0, 80.0, 0.0, (0, 0, 0), (0, 0))
    rows, columns, inside = shape_drawing._rasterise(shape_drawing._make_outline(shape))
    assert not inside[320 - rows.start, 320 - columns.start]
    assert inside[320 - rows.start, 320 + 15 * 4 - columns.start]


def test_drawing_one_image_twice_gives_the_same():
    first, second = draw_image(1, 2, 3), draw_image(1, 2, 3)
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]
    assert not np.array_equal(first[0], draw_image(1, 2, 4)[0])


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setitem(occluded_shapes.SPLITS, "val", 3)


def test_several_processes_may_draw_at_once(tmp_path, few):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: draw_split("val", tmp_path / "val"), range(4)))
    assert sorted(os.listdir(tmp_path)) == ["val"]
    assert len(list((tmp_path / "val").glob("*.png"))) == 3


def test_a_drawing_cut_short_leaves_nothing_that_is_trusted(tmp_path, few, monkeypatch):
    def fail(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(occluded_shapes, "draw_image", fail)
        with pytest.raises(KeyboardInterrupt):
            draw_split("val", tmp_path / "val")
    assert os.listdir(tmp_path) == []
    draw_split("val", tmp_path / "val")
    (tmp_path / "val" / "annotations.json").write_text("{}")  # another version, or damaged
    (tmp_path / "val" / "notes.txt").write_text("of a user")
    draw_split("val", tmp_path / "val")
    assert len(json.loads((tmp_path / "val" / "annotations.json").read_text())["images"]) == 3
    (replaced,) = tmp_path.glob("val.replaced-*")
    assert (replaced / "notes.txt").read_text() == "of a user"


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
        draw_split("val", Path(blocked) / "occluded_shapes" / "val")
