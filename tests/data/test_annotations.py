"""What is dropped from a COCO json, and what is completed. Images are 40 x 30 pixels."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import H, W, annotation, content
from coco_masks import compressed, uncompressed
from PIL import Image
from pycocotools import mask as mask_util

from mask_rcnn_ext.data.annotations import explain_crowds
from mask_rcnn_ext.data.coco_json import CocoJson, check_coco_json
from mask_rcnn_ext.errors import UserError

SQUARE = [[10, 10, 20, 10, 20, 20, 10, 20]]
SQUARE_MASK = np.zeros((H, W), dtype=np.uint8)
SQUARE_MASK[10:20, 10:20] = 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in (1, 2):
        Image.new("RGB", (W, H)).save(tmp_path / "images" / f"{i}.png")
    return tmp_path


def check(folder: Path, coco: dict[str, Any], **options: bool) -> CocoJson:
    path = folder / "coco.json"
    path.write_text(json.dumps(coco))
    return check_coco_json(str(path), str(folder / "images"), **options)


def test_a_sound_file_is_left_as_it_is(folder, caplog):
    crowd = annotation(7, iscrowd=1, segmentation=uncompressed(SQUARE_MASK))
    coco = content(annotation(6), crowd)
    checked = check(folder, coco, strict=True)
    assert not checked.changed
    assert checked.polygons  # crowds are never learnt, so they do not count
    assert checked.content == coco
    assert not caplog.records


CHANGES = {  # key of an annotation -> values; some are right, some corrected, some dropped
    "ignore": [None, 0, 0.0, False, "", "0", "false", 1, True, "1", "maybe"],
    "iscrowd": [..., None, 0, 0.0, False, "", "0", "false", 1, True, "1"],
    "area": [..., None, "1", 0, -1, 50, 1e400],
    "bbox": [..., None, [], [9, 9, 99, 10], [10, 10, 10, 10.0], [10, 10, 40, 20.001], [0.1] * 4],
    "segmentation": [SQUARE[0], [*SQUARE, [1, 1]], [[1, 1], *SQUARE], uncompressed(SQUARE_MASK)],
    "id": [..., None, 0, "6", 6.0, "a", -3],
    "image_id": ["1", 1.0, 2],
    "category_id": ["1", 1.0, 3],
    "keypoints": [[1, 2], [1, 2, 3], None],
    "unknown": [1],
}
IMAGE_CHANGES = {"id": ["1", 1.0], "width": [40.0, "40", ...], "height": [30.0, None]}


@pytest.mark.parametrize("kind", ["annotations", "images"])
def test_every_change_is_counted(folder, kind):
    """A file that needs a change and is not counted as changed reaches detectron2 as it was."""
    changes = CHANGES if kind == "annotations" else IMAGE_CHANGES
    kept = set()
    for key, value in ((key, value) for key, values in changes.items() for value in values):
        coco = content(annotation(5), annotation(6))
        coco[kind][0].pop(key, None)
        if value is not ...:
            coco[kind][0][key] = value
        given = json.loads(json.dumps(coco))
        checked = check(folder, coco)
        same = json.dumps(checked.content, sort_keys=True) == json.dumps(given, sort_keys=True)
        assert checked.changed is not same, (key, value)
        kept.add(same)
        for entry in checked.content["annotations"]:
            assert entry.get("ignore", 0) == 0, value  # as detectron2 asserts it
    assert kept == ({True, False} if kind == "annotations" else {False})


OTHER = np.ones((H + 1, W), dtype=np.uint8)
DROPPED = {  # name -> changes of an annotation, the reason that is given
    "no width": ({"bbox": [10, 10, 0, 10]}, "box without width or height"),
    "negative height": ({"bbox": [10, 10, 5, -1]}, "box without width or height"),
    "NaN": ({"bbox": [10, float("nan"), 5, 5]}, "not four finite numbers"),
    "four hundred digits": ({"bbox": [10, 10**400, 5, 5]}, "not four finite numbers"),
    "three numbers": ({"bbox": [1, 2, 3]}, "not four finite numbers"),
    "box outside": ({"bbox": [40, 0, 5, 5]}, "box outside the image"),
    "no segmentation": ({"segmentation": ...}, "no segmentation"),
    "empty segmentation": ({"segmentation": []}, "no segmentation"),
    "nothing": ({"segmentation": [], "bbox": []}, "no box and no mask"),
    "number": ({"segmentation": 5}, "segmentation that is a int"),
    "object": ({"segmentation": {"points": [1, 2]}}, "is an object without `size` and `counts`"),
    "two points": ({"segmentation": [[1, 1, 9, 9]]}, "at least 3 points"),
    "odd": ({"segmentation": [[1, 1, 9, 9, 5, 1, 2]]}, "at least 3 points"),
    "strings": ({"segmentation": [["1", "1", "9", "9", "5", "1"]]}, "3 points"),
    "a line": ({"segmentation": [[1, 1, 5, 5, 9, 9]]}, "polygon without area"),
    "inf": ({"segmentation": [[1, 1, 5, 5, 9, float("inf")]]}, "not finite"),
    "far away": ({"segmentation": [[1, 1, 9, 1, 9, -2147483648, 1, 9]]}, "leads more than 10 x"),
    "outside": ({"segmentation": [[41, 1, 50, 1, 45, 9]]}, "polygon outside"),
    "below a pixel": ({"segmentation": [[1.1, 1.1, 1.3, 1.1, 1.3, 1.3]]}, "covers no pixel"),
    "RLE of floats": ({"segmentation": {"size": [H * 1.0, W], "counts": [5]}}, "of another size"),
    "runs that wrap": ({"segmentation": {"size": [H, W], "counts": [1 << 62] * 4}}, "add up"),
    "RLE size": ({"segmentation": compressed(OTHER)}, "RLE of another size"),
    "runs too short": ({"segmentation": {"size": [H, W], "counts": [5, 5]}}, "does not add up"),
    "negative run": ({"segmentation": {"size": [H, W], "counts": [-5, H * W + 5]}}, "add up"),
    "compressed too long": (
        {"segmentation": {"size": [H, W], "counts": compressed(OTHER)["counts"]}},
        "does not add up",
    ),
    "characters": ({"segmentation": {"size": [H, W], "counts": "é~"}}, "characters"),
    "no counts": ({"segmentation": {"size": [H, W]}}, "RLE without counts"),
    "empty RLE": ({"segmentation": {"size": [H, W], "counts": [H * W]}}, "empty mask"),
    "iscrowd as a word": ({"iscrowd": "maybe"}, "`iscrowd` that is neither 0 nor 1"),
    "iscrowd as a list": ({"iscrowd": [0]}, "`iscrowd` that is neither 0 nor 1"),
    "ignore 2": ({"ignore": 2}, "`ignore` that is neither 0 nor 1"),
    "empty bitmap": ({"segmentation": [[0] * W] * H}, "empty mask"),
    "bitmap W x H": ({"segmentation": [[1] * H] * W}, "mask of another size"),
}


@pytest.mark.parametrize(("changes", "reason"), DROPPED.values(), ids=DROPPED)
def test_a_malformed_annotation_is_dropped_and_counted(folder, caplog, changes, reason):
    coco = content(annotation(6), annotation(7, **changes), annotation(8, **changes))
    checked = check(folder, coco)
    assert [a["id"] for a in checked.content["annotations"]] == [6]
    assert checked.changed
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "dropped 2 of 3 annotations: 2 x " in record.message
    assert reason in record.message
    assert "(first: 7)" in record.message
    with pytest.raises(UserError, match=f"2 of 3 annotations: 2 x .*{reason}.*first: 7"):
        check(folder, coco, strict=True)


def test_reasons_are_counted_apart_in_one_warning(folder, caplog):
    bad = [
        annotation(7, bbox=[0, 0, 0, 0]),
        annotation(8, segmentation=[]),
        annotation(9, bbox=[0, 0, 0, 0]),
    ]
    check(folder, content(annotation(6), *bad))
    (record,) = caplog.records
    said = "3 of 4 annotations: 2 x box without width or height (first: 7), 1 x no"
    assert said in record.message


def test_categories_without_a_name_of_their_own(folder):
    with pytest.raises(UserError, match="categories 1, 2 have the same name 'a'"):
        check(folder, {**content(), "categories": [{"id": i, "name": "a"} for i in (1, 2)]})
    with pytest.raises(UserError, match="category 1 has no `name`"):
        check(folder, {**content(), "categories": [{"id": 1}]})


def test_nothing_left_is_an_error_that_says_why(folder):
    with pytest.raises(UserError, match=r"no instance .* malformed: 1 of 1 .* no segmentation"):
        check(folder, content(annotation(6, segmentation=[])), allow_empty=True)
    with pytest.raises(UserError, match="no instance to learn"):
        check(folder, {**content(), "annotations": []})
    crowd = content(annotation(6, iscrowd=1))
    with pytest.raises(UserError, match=r"no instance .* 1 of 1 annotations are crowd regions"):
        check(folder, crowd)
    assert len(check(folder, crowd, allow_empty=True).content["annotations"]) == 1
    assert check(folder, {**content(), "annotations": []}, allow_empty=True).polygons


@pytest.mark.parametrize(
    ("changes", "dropped"),
    [
        pytest.param({}, "", id="none"),
        pytest.param({"segmentation": []}, "", id="empty"),
        pytest.param({"iscrowd": 1}, "", id="crowd"),
        pytest.param({"segmentation": SQUARE, "bbox": ...}, "", id="no box but a mask"),
        pytest.param({"bbox": ...}, "no box and no mask", id="no box either"),
        pytest.param({"bbox": [1, 2, 0, 4]}, "box without width", id="wrong box"),
        pytest.param({"segmentation": [[1, 1, 9, 9]]}, "at least 3 points", id="wrong mask"),
    ],
)
def test_boxes_without_masks_are_kept_for_a_model_without_masks(folder, caplog, changes, dropped):
    boxes = annotation(7, **{"image_id": 2, "segmentation": ..., **changes})
    checked = check(folder, content(annotation(6), boxes), masks=False, strict=not dropped)
    kept = [a["id"] for a in checked.content["annotations"]]
    assert kept == ([6] if dropped else [6, 7])
    assert checked.polygons
    assert dropped in caplog.text
    assert "MASK_ON" not in caplog.text


@pytest.mark.parametrize(
    ("box", "area"),
    [([10, 10, 4.5, 2], 9.0), ([35, 10, 10, 10], 50.0)],
    ids=["the box's", "of the part in the image"],
)
def test_the_area_of_a_box_without_a_mask(folder, box, area):
    boxes = annotation(7, segmentation=..., area=..., bbox=box)
    checked = check(folder, content(annotation(6), boxes), masks=False)
    assert checked.content["annotations"][1]["area"] == area
    assert checked.changed


def test_boxes_without_masks_name_the_way_out(folder, caplog):
    way_out = "A model without masks, MODEL.MASK_ON False, needs only their boxes"
    boxes = annotation(7, segmentation=...)
    with pytest.raises(UserError, match=rf"1 x no segmentation \(first: 7\)\. {way_out}"):
        check(folder, content(boxes))
    check(folder, content(annotation(6), boxes))
    assert way_out in caplog.text


COMPLETED = {  # name -> changes of an annotation, a key, its value afterwards
    "box sticks out": ({"bbox": [-2, 9, 23, 22]}, "bbox", [0, 9, 21, 21]),
    "no box": ({"bbox": ...}, "bbox", [10, 10, 10, 10]),
    "empty box": ({"bbox": []}, "bbox", [10, 10, 10, 10]),
    "no box, RLE": ({"bbox": ..., "segmentation": compressed(SQUARE_MASK)}, "bbox", [10] * 4),
    "no area": ({"area": ...}, "area", 100),
    "area 0, RLE": ({"area": 0, "segmentation": uncompressed(SQUARE_MASK)}, "area", 100),
    "no iscrowd": ({"iscrowd": ...}, "iscrowd", 0),
    "iscrowd as bool": ({"iscrowd": True}, "iscrowd", 1),
    "ignore becomes crowd": ({"ignore": 1}, "iscrowd", 1),
    "iscrowd as a text": ({"iscrowd": "0"}, "iscrowd", 0),
    "crowd as a text": ({"iscrowd": "True"}, "iscrowd", 1),
    "iscrowd as a float": ({"iscrowd": 0.0}, "iscrowd", 0),
    "iscrowd null": ({"iscrowd": None}, "iscrowd", 0),
    "ignore as a text": ({"ignore": "1.0"}, "iscrowd", 1),
    "no id": ({"id": ...}, "id", 7),
    "id 0 reads as unmatched in COCO evaluation": ({"id": 0}, "id", 7),
    "flat polygon": ({"segmentation": SQUARE[0]}, "segmentation", SQUARE),
    "keypoints as a text": ({"keypoints": "x"}, "keypoints", None),
    "nested keypoints": ({"keypoints": [[1, 2, 2], [3, 4, 1]]}, "keypoints", None),
    "two numbers of keypoints": ({"keypoints": [1, 2]}, "keypoints", None),
    "degenerate part": ({"segmentation": [[1, 1, 5, 5], *SQUARE]}, "segmentation", SQUARE),
}


@pytest.mark.parametrize(("changes", "key", "expected"), COMPLETED.values(), ids=COMPLETED)
def test_what_is_missing_is_completed(folder, caplog, changes, key, expected):
    caplog.set_level(logging.INFO)
    checked = check(folder, content(annotation(6, image_id=2), annotation(9, **changes)))
    value = checked.content["annotations"][1].get(key)
    assert (value, type(value) is bool) == (expected, False)
    assert checked.changed
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "ignore" not in checked.content["annotations"][1]


def test_strict_refuses_a_degenerate_part(folder):
    with pytest.raises(UserError, match="at least 3 points"):
        check(folder, content(annotation(6, segmentation=[[1, 1, 5, 5], *SQUARE])), strict=True)


def test_rounding_is_not_clipped_and_a_bow_tie_is_a_polygon(folder):
    bow_tie = [[10, 10, 20, 20, 20, 10, 10, 20]]  # the signed areas of its halves cancel
    corner = [[30.5, 20.5, 40, 20.5, 40, 30, 30.5, 30]]
    box = annotation(6, bbox=[30.5, 20.5, 9.505, 9.5], segmentation=corner)
    assert not check(folder, content(box, annotation(7, segmentation=bow_tie)), strict=True).changed


@pytest.mark.parametrize("kind", ["png in images", "png by the json", "palette", "rgba", "list"])
def test_bitmaps_become_rle(folder, kind):
    mask = SQUARE_MASK
    segmentation: Any = "mask.png"
    if kind == "list":
        segmentation = mask.tolist()
    elif kind == "palette":
        Image.fromarray(mask * 3).convert("P").save(folder / "mask.png")
    elif kind == "rgba":
        opaque = np.full_like(mask, 255)
        Image.fromarray(np.dstack([mask * 0, mask, mask, opaque])).save(folder / "mask.png")
    else:
        name = "images/mask.png" if kind == "png in images" else "mask.png"
        Image.fromarray(mask * 255).save(folder / name)
    checked = check(folder, content(annotation(6, segmentation=segmentation)), strict=True)
    assert checked.changed
    assert not checked.polygons
    rle = checked.content["annotations"][0]["segmentation"]
    assert np.array_equal(mask_util.decode(rle), mask)
    json.dumps(checked.content)


def test_mask_files_that_are_missing_or_no_images(folder):
    missing = [annotation(i, segmentation=f"m{i}.png") for i in range(6, 13)]
    with pytest.raises(UserError, match=r"7 mask files not found: m6.png, .*m10.png and 2 more"):
        check(folder, content(*missing))
    (folder / "m6.png").write_text("no image")
    with pytest.raises(UserError, match=r"m6.png: cannot be read"):
        check(folder, content(missing[0]))


def test_an_image_size_that_was_filled_in_is_a_change(folder, caplog):
    caplog.set_level(logging.INFO)
    coco = content()
    del coco["images"][1]["height"]
    checked = check(folder, coco)
    assert checked.changed
    assert checked.content["images"][1]["height"] == H
    assert "1 x image size read from the file (first: 2)" in caplog.text


def test_a_json_without_info_is_completed(folder):
    checked = check(folder, {k: v for k, v in content().items() if k != "info"})
    assert checked.changed
    assert checked.content["info"] == {}


def test_most_annotations_are_crowds(folder, caplog):
    """Some tools mark every brush mask as a crowd."""
    crowds = [annotation(i, image_id=2, iscrowd=1) for i in (7, 8)]
    check(folder, content(annotation(6), crowds[0]), strict=True)
    assert not caplog.records
    check(folder, content(annotation(6), *crowds), strict=True)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "2 of 3 annotations are crowd regions" in record.message
    assert "neither learned nor counted in evaluation: 7, 8." in record.message


@pytest.mark.parametrize(
    ("crowds", "total", "told"),
    [
        *((0, 1, False), (1, 1, True), (1, 2, False), (1, 5, False), (2, 4, True)),
        *((2, 19, True), (2, 20, False), (3, 29, True), (3, 30, False)),
    ],
)
def test_the_share_of_crowds_that_is_told(crowds, total, told):
    """More than a tenth, but not one of several."""
    annotations = [{"id": i, "iscrowd": int(i < crowds)} for i in range(total)]
    assert bool(explain_crowds(annotations)) == told


CONTRADICTIONS = {  # name -> changes of the second annotation, a part of the message
    "corners": ({"bbox": [10, 10, 20, 20]}, "1 of 2 boxes contradict .* look like corners"),
    "copy": ({"image_id": 1}, "1 of 2 annotations repeat .*annotation 7 repeats 6"),
}


@pytest.mark.parametrize(("changes", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradictions_are_a_warning_or_an_error(folder, caplog, changes, message):
    coco = content(annotation(6), annotation(7, **{"image_id": 2, **changes}))
    checked = check(folder, coco)
    assert not checked.changed
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(message, record.message)
    coco["annotations"].append(annotation(8, segmentation=[]))
    both = f"(?s)malformed 1 of 3 .*{message}.* leave out --strict-data"
    with pytest.raises(UserError, match=both):
        check(folder, coco, strict=True)


@pytest.mark.parametrize("box", [[10, 10, 20, 20], [10, 10, 0, 0], "text"], ids=str)
def test_boxes_from_masks(folder, box):
    rle = annotation(7, bbox=box, image_id=2, segmentation=compressed(SQUARE_MASK))
    coco = content(annotation(6, bbox=box), rle)
    checked = check(folder, coco, strict=True, boxes_from_masks=True)
    assert [a["bbox"] for a in checked.content["annotations"]] == [[10, 10, 10, 10]] * 2
    assert checked.changed


def test_boxes_from_masks_keep_the_boxes_of_objects_without_masks(folder):
    boxes = annotation(7, image_id=2, bbox=[1, 2, 3, 4], segmentation=...)
    coco = content(annotation(6, bbox=[0, 0, 40, 30]), boxes)
    checked = check(folder, coco, masks=False, boxes_from_masks=True)
    assert [a["bbox"] for a in checked.content["annotations"]] == [[10, 10, 10, 10], [1, 2, 3, 4]]


def test_fractions_of_the_image_become_pixels(folder, caplog):
    caplog.set_level(logging.INFO)
    square = [[0.25, 1 / 3, 0.5, 1 / 3, 0.5, 2 / 3, 0.25, 2 / 3]]
    fractions = annotation(6, bbox=[0.25, 1 / 3, 0.25, 1 / 3], area=0.08, segmentation=square)
    checked = check(folder, content(fractions), strict=True)
    (kept,) = checked.content["annotations"]
    assert kept["bbox"] == pytest.approx([10, 10, 10, 10])
    assert kept["segmentation"][0] == pytest.approx(SQUARE[0])
    assert kept["area"] == 100
    assert "1 x fractions of the image turned into pixels (first: 6)" in caplog.text
