"""The embedded data sets: the same everywhere, and as hard as they say."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data import nested_shapes, occluded_shapes, shape_drawing
from mask_rcnn_ext.data.embedded import EMBEDDED
from mask_rcnn_ext.data.occluded_shapes import SIZE
from mask_rcnn_ext.data.shape_drawing import CLASSES, Canvas, RandomStream, Shape
from mask_rcnn_ext.overlap.same_part import measure_part_share

OCCLUDED, NESTED = EMBEDDED["occluded_shapes"], EMBEDDED["nested_shapes"]
CHECKSUMS = {
    "occluded_shapes_train": "e8312727b736ecfc4a72a88fd55f2aa17b69ec20307a8fc886d85688c34ecce0",
    "occluded_shapes_val": "9dbece72dadeada3684bf2e26c3b91abc2f82ba6c83d8cc927dc12581a530919",
    "occluded_shapes_test": "c2c335b2edf34e0516d5ee33e2675aa9a7d8d96b11597e86e2fb587f6301bc7b",
}


# Of the first images of each split, since drawing all of them takes a minute.
FIRST_IMAGES = {
    "train": "a16c6864aa94bf729b1c181c67f65baaf256ffc8dd4f63cd5fb99a6806150c4c",
    "val": "8f0976824f3f1096ffcad30691b4e482ab805cb88cebee3fcd6635d939078f21",
    "test": "a58e101e316f57c6cfb140c9aaf6c59b9ae930f282ebe304f0a2bdf60fc8d7ed",
}


def checksum(folder: Path) -> str:
    """Return the SHA-256 of the pixels and annotations of a split; PNG encoders differ."""
    digest = hashlib.sha256()
    coco = json.loads((folder / "annotations.json").read_text())
    for image in coco["images"]:
        with Image.open(folder / image["file_name"]) as picture:
            digest.update(np.asarray(picture.convert("RGB")).tobytes())
    digest.update(json.dumps(coco, sort_keys=True).encode())
    return digest.hexdigest()


@pytest.fixture
def _quick_files(monkeypatch):
    """Write PNGs of the same pixels without compressing them, which takes half of the time."""
    monkeypatch.setattr(Image.Image, "save", partialmethod(Image.Image.save, compress_level=0))


@pytest.mark.usefixtures("_quick_files")
@pytest.mark.parametrize("name", CHECKSUMS)
def test_checksum(name):
    """A change of this value is a change of the data set, and needs another version."""
    DatasetCatalog.get(name)
    assert checksum(Path(MetadataCatalog.get(name).image_root)) == CHECKSUMS[name]


@pytest.mark.usefixtures("_quick_files")
@pytest.mark.parametrize("split", FIRST_IMAGES)
def test_checksum_of_the_first_images_of_nested_shapes(split, tmp_path, monkeypatch):
    monkeypatch.setitem(NESTED.splits, split, 16)
    NESTED.draw_split(split, tmp_path / split)
    assert checksum(tmp_path / split) == FIRST_IMAGES[split]


@pytest.fixture(scope="module")
def val():
    dicts = DatasetCatalog.get("occluded_shapes_val")
    with open(MetadataCatalog.get("occluded_shapes_val").json_file) as f:
        return dicts, json.load(f)


def test_detectron2_reads_it(val):
    dicts, coco = val
    assert len(dicts) == OCCLUDED.splits["val"] == 200
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
        rng = RandomStream(OCCLUDED.seed, 0, index)
        shapes += occluded_shapes.compose(rng, np.full(3, 120.0), index).shapes
    sizes = np.array([shape.size for shape in shapes])
    assert sizes.min() >= 16
    assert sizes.max() <= 90
    assert 0.25 <= (sizes < 32).mean() <= 0.42


def test_ring_has_a_hole_and_the_raster_is_exact():
    """A square of 8 x 8 pixels at (10, 20) covers 8 * 8 * 16 samples; a ring's centre is empty."""
    square = np.array([[10, 20], [18, 20], [18, 28], [10, 28]], dtype=np.int64) * 256
    rows, columns, inside = shape_drawing._rasterise([square], SIZE)
    assert inside.sum() == 8 * 8 * 16
    assert (rows.start, columns.start) == (80, 40)
    shape = Shape(4, 40.0, 80.0, 80.0, 0.0, (0, 0, 0), (0, 0))
    rows, columns, inside = shape_drawing._rasterise(shape_drawing._make_outline(shape), SIZE)
    assert not inside[320 - rows.start, 320 - columns.start]
    assert inside[320 - rows.start, 320 + 15 * 4 - columns.start]


def test_drawing_one_image_twice_gives_the_same():
    first, second = OCCLUDED.draw_image(1, 2, 3), OCCLUDED.draw_image(1, 2, 3)
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]
    assert not np.array_equal(first[0], OCCLUDED.draw_image(1, 2, 4)[0])


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setitem(OCCLUDED.splits, "val", 3)


def test_several_processes_may_draw_at_once(tmp_path, few):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: OCCLUDED.draw_split("val", tmp_path / "val"), range(4)))
    assert sorted(os.listdir(tmp_path)) == ["val"]
    assert len(list((tmp_path / "val").glob("*.png"))) == 3


def test_a_drawing_cut_short_leaves_nothing_that_is_trusted(tmp_path, few, monkeypatch):
    def fail(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image, "fromarray", fail)
        with pytest.raises(KeyboardInterrupt):
            OCCLUDED.draw_split("val", tmp_path / "val")
    assert os.listdir(tmp_path) == []
    OCCLUDED.draw_split("val", tmp_path / "val")
    (tmp_path / "val" / "annotations.json").write_text("{}")  # another version, or damaged
    (tmp_path / "val" / "notes.txt").write_text("of a user")
    OCCLUDED.draw_split("val", tmp_path / "val")
    assert len(json.loads((tmp_path / "val" / "annotations.json").read_text())["images"]) == 3
    (replaced,) = tmp_path.glob("val.replaced-*")
    assert (replaced / "notes.txt").read_text() == "of a user"


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="DETECTRON2_DATASETS"):
        OCCLUDED.draw_split("val", Path(blocked) / "occluded_shapes" / "val")


@pytest.fixture(scope="module")
def nested_val():
    """The shapes of 96 images of `nested_shapes_val`, and their boxes, XYXY."""
    found = []
    for index in range(96):
        rng = RandomStream(NESTED.seed, 1, index)
        background = shape_drawing.draw_background(rng)
        canvas = nested_shapes.compose(rng, background, index)
        _, annotations = shape_drawing.render(rng, background, canvas)
        boxes = np.array([a["bbox"] for a in annotations])
        boxes[:, 2:] += boxes[:, :2]
        found.append((canvas.shapes, boxes))
    return found


def test_every_image_of_nested_shapes_has_the_pairs_that_it_promises(nested_val):
    combinations = {"nested": [], "shifted": []}
    for shapes, _ in nested_val:
        assert all(40 <= shape.size <= 150 for shape in shapes)
        for kind, (first, second) in (("nested", shapes[:2]), ("shifted", shapes[2:4])):
            distance = np.hypot(first.x - second.x, first.y - second.y)
            if kind == "nested":
                assert 0.4 <= second.size / first.size <= 0.65
                assert distance <= 0.08 * first.size
            else:
                assert 0.35 <= distance / ((first.size + second.size) / 2) <= 0.75
            colours = abs(np.array(first.colour) - second.colour)
            assert colours.sum() >= 120 or 12 <= colours.min() <= colours.max() <= 24.001
            combinations[kind].append((first.label == second.label, colours.sum() >= 120))
    for found in combinations.values():
        assert len(found) == 96, "each image has both pairs"
        assert all(found.count((a, b)) == 24 for a in (True, False) for b in (True, False))


@pytest.mark.parametrize(
    ("pair", "k", "low", "high"),
    [
        *((slice(0, 2), 7, 9, 13), (slice(0, 2), 3, 43, 57)),
        *((slice(2, 4), 7, 0, 1), (slice(2, 4), 3, 0, 3)),
    ],
)
@pytest.mark.parametrize("one_class", [True, False])
def test_share_of_the_common_area_that_two_boxes_read_from_one_part(
    nested_val, pair, k, low, high, one_class
):
    """The question can be asked of nested pairs only."""
    areas = [
        measure_part_share(*boxes[pair], k)
        for shapes, boxes in nested_val
        if (shapes[pair][0].label == shapes[pair][1].label) is one_class
    ]
    same, common = np.sum(areas, axis=0)
    assert low <= 100 * same / common <= high


def test_a_canvas_takes_all_of_the_shapes_or_none():
    canvas, grey = Canvas(100), (128.0, 128.0, 128.0)
    disk = Shape(0, 40.0, 50.0, 50.0, 0.0, grey, (0.0, 0.0))
    cover = Shape(0, 38.0, 50.0, 50.0, 0.0, grey, (0.0, 0.0))
    assert not canvas.add(disk, cover), "too little of the first one would be left"
    assert canvas.shapes == []
    assert canvas.add(disk)
    assert not canvas.add(cover)
    assert not canvas.add(Shape(0, 40.0, 10.0, 50.0, 0.0, grey, (0.0, 0.0))), "outside"
    assert canvas.visible == [1.0]
