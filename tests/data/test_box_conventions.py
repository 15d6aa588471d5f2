"""Boxes of other conventions are recognised by their masks; ordinary boxes pass."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from support import change_json, write_coco

from mask_rcnn_ext.config import get_cfg
from mask_rcnn_ext.data.contradictions import explain_contradictions
from mask_rcnn_ext.engine.data_of_run import prepare_data

H, W = 300, 200
SIDES = np.array([W, H, W, H])


def objects(count=60):
    """Return XYWH boxes of masks, (count, 4), of all sizes and places."""
    rng = np.random.default_rng(3)
    size = rng.uniform(8, 120, (count, 2))
    return np.hstack([rng.uniform(0, 1, (count, 2)) * (SIDES[:2] - size), size])


def explain(boxes, masks):
    compared = zip(range(1, len(masks) + 1), boxes, masks, [(H, W)] * len(masks), strict=True)
    doubt = explain_contradictions(list(compared))
    if doubt is None:
        return ""
    assert doubt.text.startswith(f"{len(doubt.groups)} of ")
    return doubt.text


def as_corners(b):
    return np.hstack([b[:, :2], b[:, :2] + b[:, 2:]])


def as_centres(b):
    return np.hstack([b[:, :2] + b[:, 2:] / 2, b[:, 2:]])


EXCHANGE = [1, 0, 3, 2]
WRONG = {
    "corners (x1, y1, x2, y2)": as_corners,
    "corners with y first (y1, x1, y2, x2)": lambda b: as_corners(b)[:, EXCHANGE],
    "centre and size (cx, cy, width, height)": as_centres,
    "fractions of the image in place": lambda b: b / SIDES,
    "fractions of the image, as corners": lambda b: as_corners(b) / SIDES,
    "fractions of the image, as centre and size": lambda b: as_centres(b) / SIDES,
}


@pytest.mark.parametrize("convention", WRONG)
@pytest.mark.parametrize("rounded", [False, True], ids=["exact", "rounded"])
def test_the_convention_is_named(convention, rounded):
    masks = objects()
    boxes = WRONG[convention](masks)
    if rounded:
        boxes = boxes.round(3 if "fractions" in convention else 0)
    text = explain(boxes, masks)
    assert int(text.split()[0]) >= 0.9 * len(masks)
    assert f" of {len(masks)} boxes contradict their masks: annotation 1 (bbox [" in text
    assert f"They look like {convention}" in text
    assert "BOXES_FROM_MASKS True" in text


def test_the_convention_of_a_few_boxes_is_named():
    masks = objects()
    boxes = masks.copy()
    boxes[10:14] = as_corners(masks)[10:14]
    text = explain(boxes, masks)
    assert text.startswith("4 of 60 boxes")
    assert "annotation 11 (" in text
    assert "They look like corners (x1" in text


def test_exchanged_coordinates_are_not_to_be_taken_from_the_masks():
    boxes = objects()
    text = explain(boxes, boxes[:, EXCHANGE])
    assert "It looks as if x and y are exchanged, in the boxes or in the masks" in text
    assert "BOXES_FROM_MASKS" not in text  # the masks may be the ones that are wrong


def amodal(masks):
    """Return boxes of which half go beyond the visible part, a few of them far."""
    rng = np.random.default_rng(5)
    boxes = masks.copy()
    boxes[::2, 2:] *= 1 + rng.exponential(0.5, (len(boxes[::2]), 2))
    boxes[1::8, :2] -= boxes[1::8, 2:]
    boxes[1::8, 2:] *= 2
    return boxes


ORDINARY = {
    "equal": lambda b: b,
    "rounded": np.round,
    "one pixel more": lambda b: b + np.array([0, 0, 1, 1]),
    "one pixel less": lambda b: b - np.array([0, 0, 1, 1]),
    "generous": lambda b: b + b[:, 2:].max(1, keepdims=True) * [-0.1, -0.1, 0.2, 0.2],
    "drawn by hand": lambda b: (
        b + np.random.default_rng(1).normal(0, 0.05, b.shape) * b[:, [2, 3] * 2]
    ),
    "around the hidden part too": amodal,
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_boxes_pass(name):
    masks = objects()
    assert explain(ORDINARY[name](masks), masks) == ""


def test_the_hidden_parts_are_far_in_the_test_above():
    masks = objects()
    areas = amodal(masks)[:, 2:].prod(axis=1) / masks[:, 2:].prod(axis=1)
    assert (areas > 2).sum() > 10


@pytest.mark.parametrize(("shift", "reported"), [(2, False), (3, True)])
def test_two_pixels_are_agreement_however_small_the_object(shift, reported):
    masks = np.array([[10.0, 10, 3, 3]])
    assert bool(explain(masks + np.array([shift, shift, 0, 0]), masks)) is reported


def test_boxes_without_a_known_convention():
    masks = objects()
    whole = explain(np.tile([0, 0, W, H], (len(masks), 1)), masks)
    assert "boxes contradict their masks" in whole
    assert "look like" not in whole
    one = masks.copy()
    one[6, :2] += [40, 60]
    assert explain(one, masks).startswith("1 of 60 boxes contradict their masks: annotation 7 (")
    assert explain([], []) == ""


def test_the_largest_of_floats():
    assert "1 of 1 boxes contradict" in explain([[1e308] * 4], objects(1))


def test_the_key_takes_the_boxes_from_the_masks(tmp_path, forget_data_sets):
    path, images = write_coco(tmp_path, images=3)
    with change_json(path) as coco:
        truth = {a["id"]: list(a["bbox"]) for a in coco["annotations"]}
        for a in coco["annotations"]:
            x, y, width, height = a["bbox"]
            a["bbox"] = [x, y, x + width, y + height]
    cfg = get_cfg()
    cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path), "MASK_RCNN_EXT.DATA.STRICT", True])
    cfg.merge_from_list(["MASK_RCNN_EXT.DATA.BOXES_FROM_MASKS", True])
    cfg.MASK_RCNN_EXT.DATA.TRAIN_JSON, cfg.MASK_RCNN_EXT.DATA.TRAIN_IMAGES = str(path), str(images)
    prepare_data(cfg)
    records = DatasetCatalog.get("own_train")
    cleaned = json.loads(Path(MetadataCatalog.get("own_train").json_file).read_text())
    assert {a["id"]: a["bbox"] for a in cleaned["annotations"]} == truth
    assert [a["bbox"] for r in records for a in r["annotations"]] == list(truth.values())
