"""The files of one image: label images, soft masks, GeoJSON, annotations with polygons."""

import json

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_util

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.layers.packed_masks import PackedMasks
from mask_rcnn_ext.prediction.coco_results import (
    CocoResultsWriter,
    describe_instances,
    trace_instances,
)
from mask_rcnn_ext.prediction.georeference import GeoReference
from mask_rcnn_ext.prediction.image_files import ImageFile
from mask_rcnn_ext.prediction.image_outputs import (
    draw_label_image,
    make_geojson,
    write_image_outputs,
)

SIZE = (20, 30)


def masks_of():
    """A ring of 24 pixels, a square over its corner, and an empty mask."""
    masks = np.zeros((3, *SIZE), dtype=bool)
    masks[0, 2:9, 4:11], masks[0, 3:8, 5:10] = True, False
    masks[1, 7:12, 9:14] = True
    return masks


def instances_of(scores=(0.9, 0.8, 0.7), masks=True):
    found = Instances(SIZE)
    found.pred_boxes = Boxes(torch.tensor([[4.0, 2, 11, 9], [9, 7, 14, 12], [0, 0, 1, 1]]))
    found.scores = torch.tensor(scores)
    found.pred_classes = torch.tensor([1, 0, 1])
    if masks:
        found.pred_masks = PackedMasks.pack(masks_of())
    return found


def test_the_better_of_two_masks_is_on_top_and_numbers_follow_the_results():
    ring, square, _ = masks_of()
    expected = np.where(ring, 1, np.where(square, 2, 0))
    labels = draw_label_image(instances_of())
    assert labels.dtype == np.uint16
    assert (labels == expected).all()
    swapped = draw_label_image(instances_of((0.5, 0.6, 0.1)))
    assert (swapped == np.where(square, 2, np.where(ring, 1, 0))).all()
    equal = draw_label_image(instances_of((0.5, 0.5, 0.5)))
    assert (equal == expected).all()


def test_a_label_image_on_disk_has_16_bits(tmp_path):
    number, found = 301, Instances(SIZE)
    found.scores = torch.linspace(0.9, 0.1, number)
    masks = np.zeros((number, *SIZE), dtype=bool)
    for index in range(number):
        masks[index, index // 30, index % 30] = True
    found.pred_masks = PackedMasks.pack(masks)
    write_image_outputs(tmp_path, ["labels"], ImageFile(tmp_path / "x", "a/x.jpg"), None, found, [])
    with Image.open(tmp_path / "labels/a/x.jpg.png") as image:
        assert image.mode == "I;16"
        labels = np.asarray(image)
    assert labels[10, 0] == 301
    assert (labels.ravel()[:number] == np.arange(1, number + 1)).all()


def test_soft_masks_stand_at_their_windows(tmp_path):
    found = instances_of()
    probs = torch.rand(3, 14, 14, generator=torch.Generator().manual_seed(0))
    found.pred_masks = PackedMasks.paste(probs, found.pred_boxes.tensor, SIZE, 0.5)
    write_image_outputs(tmp_path, ["soft"], ImageFile(tmp_path / "x", "x.jpg"), None, found, [])
    with np.load(tmp_path / "soft/x.jpg.npz") as soft:
        for number, mask in enumerate(found.pred_masks.unpack().numpy()):
            x0, y0, x1, y1 = soft["windows"][number]
            levels = np.zeros(SIZE, dtype=np.uint8)
            levels[y0:y1, x0:x1] = soft[f"mask_{number}"]
            assert ((levels >= 128) == mask).all()


def test_geojson_in_pixels_and_on_a_map():
    content = make_geojson(instances_of(), ["cat", "dog"], None)
    ring, square, empty = content["features"]
    assert ring["properties"] == {"id": 1, "class": "dog", "score": 0.9}
    assert ring["geometry"]["type"] == "Polygon"
    outer, hole = ring["geometry"]["coordinates"]
    assert {tuple(p) for p in outer} == {(4, 2), (11, 2), (11, 9), (4, 9)}
    assert {tuple(p) for p in hole} == {(5, 3), (10, 3), (10, 8), (5, 8)}
    assert outer[0] == outer[-1]
    assert len(outer) == 5
    assert empty["geometry"] is None
    assert "crs" not in content

    located = make_geojson(
        instances_of(), ["cat", "dog"], GeoReference(np.array([[2.0, 0, 10], [0, -2.0, 50]]), 32633)
    )
    assert located["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    (square,) = located["features"][1]["geometry"]["coordinates"]
    assert {tuple(p) for p in square} == {(28, 36), (38, 36), (38, 26), (28, 26)}
    for each in (content, located):  # y points up in maps; GeoJSON wants outer rings that way
        x, y = np.array(each["features"][1]["geometry"]["coordinates"][0]).T
        assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0
    json.dumps(located)


def test_a_model_without_masks_gives_boxes_in_geojson_and_nothing_else(tmp_path):
    found = instances_of(masks=False)
    geometry = make_geojson(found, ["cat", "dog"], None)["features"][2]["geometry"]
    assert {tuple(p) for p in geometry["coordinates"][0]} == {(0, 0), (1, 0), (1, 1), (0, 1)}
    for name in ("labels", "soft"):
        with pytest.raises(UserError, match=f"--write {name}: the model predicts no masks"):
            write_image_outputs(tmp_path, [name], ImageFile(tmp_path, "x"), None, found, [])
    with pytest.raises(UserError, match="gives masks without probabilities"):
        write_image_outputs(tmp_path, ["soft"], ImageFile(tmp_path, "x"), None, instances_of(), [])


def test_annotations_are_a_data_set_that_training_reads(tmp_path, forget_data_sets):
    for name in ("a.png", "b.png"):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / name)
    with CocoResultsWriter(tmp_path, ["cat", "dog"], [3, 7], outputs=["polygons"]) as writer:
        for name in ("a.png", "b.png"):
            found = [make(instances_of(), [3, 7]) for make in (describe_instances, trace_instances)]
            writer.write(name, SIZE, *found)
    content = json.loads((tmp_path / "coco_annotations.json").read_text())
    images = json.loads((tmp_path / "images.json").read_text())
    assert {name: content[name] for name in images} == images
    annotations = content["annotations"]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in annotations] == [
        (1, 1, 7),
        (2, 1, 3),
        (3, 2, 7),
        (4, 2, 3),
    ]
    assert annotations[0]["bbox"] == [4, 2, 7, 7]
    assert annotations[0]["area"] == 24
    for annotation, mask in zip(annotations, masks_of()[:2], strict=False):
        rle = mask_util.merge(mask_util.frPyObjects(annotation["segmentation"], *SIZE))
        assert (mask_util.decode(rle) == mask).all()
    path = str(tmp_path / "coco_annotations.json")
    register_own_data("", "", path, str(tmp_path), clean_dir=str(tmp_path / "clean"))
    records = DatasetCatalog.get("own_val")
    assert [len(record["annotations"]) for record in records] == [2, 2]
