"""Result files: what is read, and errors for every mistake, which name the file and the entry."""

import dataclasses
import json
import math

import numpy as np
import pytest
from overlap_cases import rectangle
from pycocotools import mask as mask_util
from reference.overlap import coco_of, dataset_of, text_rle

from mask_rcnn_ext import UserError
from mask_rcnn_ext.overlap.comparison import load_results, load_truth, measure
from mask_rcnn_ext.overlap.detections import convert_to_rle, have_rois, keep_rois_of_all

HEIGHT, WIDTH = 48, 64


LEFT, RIGHT = (rectangle(x, 10, x + 20, 40, (HEIGHT, WIDTH)) for x in (10, 30))


def dataset():
    objects = [{"mask": LEFT, "bbox": [10, 10, 30, 30]}, {"mask": RIGHT, "category_id": 2}]
    return dataset_of([objects, []], size=(HEIGHT, WIDTH))


def result(**changes):
    entry = {"image_id": 1, "category_id": 1, "score": 0.5, "segmentation": text_rle(LEFT)}
    return {name: value for name, value in {**entry, **changes}.items() if value is not ...}


@pytest.fixture
def load(tmp_path):
    """Return a function that writes a result file and reads it against the data set."""

    def load_content(content, **options):
        path = tmp_path / "results.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return load_results(path, coco_of(dataset()), **options)

    return load_content


def test_good_results_are_read(load):
    other = result(category_id=2, bbox="not looked at", segmentation=text_rle(RIGHT))
    found = load([result(), result(image_id=2, score=1), other, result(score=0)])
    assert [len(found[image]) for image in (1, 2)] == [3, 1]
    assert [d.score for d in found[1]] == [0.5, 0.5, 0]
    np.testing.assert_array_equal(mask_util.decode(found[1][1].mask), RIGHT)


def test_an_empty_list_is_a_model_that_found_nothing(load):
    assert load([]) == {}


def test_masks_come_as_rle_or_polygons(load):
    runs = {"size": [HEIGHT, WIDTH], "counts": [10 * HEIGHT, 5, (WIDTH - 10) * HEIGHT - 5]}
    polygon = [[10.0, 10.0, 30.0, 10.0, 30.0, 40.0, 10.0, 40.0]]
    found = load([result(segmentation=runs), result(segmentation=polygon), result(score=0.4)])[1]
    assert mask_util.decode(found[0].mask).sum() == 5
    np.testing.assert_array_equal(*(mask_util.decode(d.mask) for d in found[1:]))


BROKEN = text_rle(LEFT)
BAD = {
    "unknown image": (result(image_id=7), "image_id 7 is not in the data set.*2 images"),
    "image id as text": (result(image_id="1"), "image_id '1' is not"),
    "unknown category": (result(category_id=0), r"category_id 0 .* \(1, 2\).*class numbers"),
    "score above 1": (result(score=1.01), "score from 0 to 1, got 1.01"),
    "score below 0": (result(score=-0.1), "score from 0 to 1, got -0.1"),
    "score NaN": (result(score=math.nan), "score from 0 to 1, got nan"),
    "score text": (result(score="0.5"), "score from 0 to 1, got '0.5'"),
    "no score": (result(score=..., scores=0.5), "no 'score'; did you mean 'scores'"),
    "boxes only": (result(segmentation=..., bbox=[0, 0, 1, 1]), "no 'segmentation'.*boxes only"),
    "no mask": (result(segmentation=None), r"image 1.*mask that is neither polygons nor an RLE"),
    "wrong size": (
        result(segmentation=text_rle(LEFT.T.copy())),
        r"RLE of size \[64, 48\], the image is \[48, 64\]",
    ),
    "runs too short": (
        result(segmentation={**BROKEN, "counts": BROKEN["counts"][:-2]}),
        "RLE with wrong characters",
    ),
    "runs not of the code": (result(segmentation={**BROKEN, "counts": "~~~"}), "wrong characters"),
    "runs of a list": (
        result(segmentation={**BROKEN, "counts": [5, -5, HEIGHT * WIDTH]}),
        "does not add up",
    ),
    "image id true": (result(image_id=True), "image_id True is not"),
    "size of one number": (result(segmentation={**BROKEN, "size": 5}), "size is not two whole"),
    "no runs": (result(segmentation={**BROKEN, "counts": None}), "RLE without counts"),
    "runs as texts": (result(segmentation={**BROKEN, "counts": ["1", "2"]}), "does not add up"),
    # pycocotools may loop for ever on them.
    "half pixels": (
        result(segmentation={**BROKEN, "counts": [0.5, HEIGHT * WIDTH - 0.5]}),
        "does not add up",
    ),
    "polygon far away": (result(segmentation=[[1, 2, 10**400, 4, 5, 6]]), "not made of numbers"),
    "polygon of NaN": (result(segmentation=[[1, 2, math.nan, 4, 5, 6]]), "leads more than"),
    "flat polygon": (result(segmentation=[[1, 2, 3, 4]]), "three points"),
    "no object": (3, "expected an object, got 3"),
}


@pytest.mark.parametrize(("entry", "message"), BAD.values(), ids=BAD)
def test_the_file_and_the_first_offender_are_named(load, entry, message):
    with pytest.raises(UserError, match=rf"results\.json: detection 1\b.*{message}"):
        load([result(), entry, {}])


def test_a_detection_that_occurs_twice_is_refused(load):
    with pytest.raises(UserError, match=r"detection 2 is the same as detection 0 \(image 1"):
        load([result(), result(score=0.4), result()])


def test_two_empty_masks_are_two_detections_if_their_boxes_differ(load):
    empty = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    boxes = ([1, 1, 5, 5], [7, 1, 5, 5])
    entries = [result(segmentation=empty, bbox=box) for box in boxes]
    assert [each.box for each in load(entries)[1]] == [tuple(box) for box in boxes]
    with pytest.raises(UserError, match="same mask and box"):
        load([*entries, entries[0]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": []}', "expected a list"),
        ("[", "not json"),
        ("[" * 100_000, "not json"),
        ("null", "got null"),
    ],
    ids=["object", "cut off", "nested", "null"],
)
def test_what_is_no_result_file_is_refused(load, content, message):
    with pytest.raises(UserError, match=message):
        load(content)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.json"):
        load_results(tmp_path / "nowhere.json", coco_of(dataset()))


def load_refused(path, content, message):
    """Write a data set that is refused with a message."""
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_truth(path)


def test_a_data_set_without_masks_is_refused(tmp_path):
    path = tmp_path / "boxes.json"
    content = dataset()
    del content["annotations"][1]["segmentation"]
    load_refused(path, content, r"boxes\.json: annotation 2 has no mask")
    with pytest.raises(UserError, match="annotation 2 has no mask"):
        load_results(path, coco_of(content))
    del content["images"][1]["height"]
    load_refused(path, content, "image 2: image whose height and width are not whole")
    load_refused(path, {**dataset(), "annotations": []}, "no annotations")
    load_refused(path, [], "expected COCO's annotation format")


@pytest.mark.parametrize(
    "box", ["x", [1, 2], [1e300, 2, 3, 4], [1, 2, 3, math.nan], [1, 2, 3, "4"]]
)
def test_a_broken_box_is_named(tmp_path, box):
    content = dataset()
    content["annotations"][1]["bbox"] = box
    load_refused(tmp_path / "truth.json", content, r"truth\.json: annotation 2: expected a bbox")


def test_a_broken_code_never_reaches_the_decoder():
    good = text_rle(LEFT)
    for counts in ("", "P", "o" * 40, good["counts"] + "1"):
        with pytest.raises(UserError, match=r"broken mask: RLE (without|with wrong|that does not)"):
            convert_to_rle({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)


def test_a_broken_annotation_is_named(tmp_path):
    content = dataset()
    content["annotations"][1]["segmentation"]["size"] = [50, 50]
    with pytest.raises(UserError, match=r"annotation 2.*\[50, 50\]"):
        measure(coco_of(content), {})
    # Before anything is measured.
    message = r"truth\.json: annotation 2 has a broken.*\[50, 50\]"
    load_refused(tmp_path / "truth.json", content, message)


def test_boxes_are_read_on_request(load):
    entries = [
        result(image_id=image, score=score, bbox=[0.25, 0, 1 + index, 2.5])
        for index, (image, score) in enumerate([(2, 0.1), (1, 0.2), (2, 0.3)])
    ]
    found = load(entries, with_boxes=True)
    assert [(d.score, d.box) for d in found[2]] == [
        (0.1, (0.25, 0, 1, 2.5)),
        (0.3, (0.25, 0, 3, 2.5)),
    ]
    assert [d.box for d in found[1]] == [(0.25, 0, 2, 2.5)]
    assert load(entries)[1][0].box == (0.25, 0, 2, 2.5)
    assert load([result(bbox=[1, 2, 0, 4])])[1][0].box is None
    assert load([], with_boxes=True) == {}


def test_rois_are_kept_if_all_models_have_them(load):
    loose = load([result(bbox=[0, 0, 9, 9]), result(image_id=2, bbox=[0, 0, 9, 9])])
    missing = load([result(bbox=[0, 0, 9, 9]), result(image_id=2)])
    tight = load([result()])
    box = tuple(mask_util.toBbox(tight[1][0].mask))
    tight = {1: [dataclasses.replace(tight[1][0], box=box)]}
    assert [have_rois(found) for found in (loose, missing, tight, {})] == [True, False, False, True]
    assert keep_rois_of_all(loose, {}) == (loose, {})
    for other in (missing, tight):
        kept = keep_rois_of_all(loose, other)
        assert [[d.box for d in one] for found in kept for one in found.values()] == (
            [[None]] * (2 + len(other))
        )


@pytest.mark.parametrize(
    ("bbox", "message"),
    [
        (..., "has no 'bbox'"),
        ([1, 2, 3], r"got \[1, 2, 3\]"),
        ([1, 2, 0, 4], "positive"),
        ([1, 2, 3, -4], "positive"),
        ([1, 2, math.nan, 4], "finite"),
        ([1, math.inf, 3, 4], "finite"),
        ([1, 10**400, 3, 4], "finite"),
        ([1, 2, "3", 4], "four finite numbers"),
        ([1, 2, True, 4], "four finite numbers"),
        ("1 2 3 4", "four finite numbers"),
    ],
    ids=str,
)
def test_a_detection_without_a_good_box(load, bbox, message):
    entries = [result(bbox=[0.5, 1, 10, 12.25]), result(score=0.4, bbox=bbox)]
    with pytest.raises(UserError, match=rf"results\.json: detection 1\b.*{message}"):
        load(entries, with_boxes=True)
