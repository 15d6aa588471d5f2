"""The whole analysis: what goes into analysis.json, and data with nothing to measure."""

import json

import numpy as np
import pytest
from analysis_cases import box_data
from reference.overlap import scenes

from mask_rcnn_ext.layers.rle import encode_mask
from mask_rcnn_ext.overlap.analysis.image_pairs import group_by_image
from mask_rcnn_ext.overlap.analysis.run_analysis import analyze
from mask_rcnn_ext.report.json_records import to_json

A, B = (0, 0, 40, 40), (100, 0, 40, 40)
SCENE = ([(0, A), (1, B)], [(0, 0.9, A), (0, 0.4, B)])


def analyze_boxes(*images, **options):
    content, results = box_data(*images)
    found = to_json(analyze(content, group_by_image(results), "bbox", draws=20, **options))
    json.dumps(found, allow_nan=False)
    return found


def test_what_an_analysis_has():
    found = analyze_boxes(SCENE)
    assert (found["iou"], found["images"], found["objects"], found["detections"]) == (
        "box",
        1,
        2,
        2,
    )
    assert found["ap"]["AP"] == {"value": 50, "low": 50, "high": 50}  # one image: one draw
    assert found["thresholds"] == {"class 3": 0.65, "class 7": None, "class 12": None}
    assert found["best"] == {
        "threshold": 0.65, "precision": 1, "recall": 0.5, "f1": pytest.approx(2 / 3)
    }  # fmt: skip
    assert found["chosen"] == found["best"]
    assert found["confusion"]["counts"] == [[1, 0, 0, 0], [0, 0, 0, 1], [0] * 4, [0] * 4]
    types = found["error_types"]["types"]
    assert types["classification"] == {"count": 1, "cost": 50}
    assert found["sizes"]["medium"]["objects"] == 2
    assert found["overlap"]["none"]["objects"] == 2
    assert found["overlap"]["heavy"]["AP"] == {"value": None, "low": None, "high": None}
    assert found["classes"]["class 12"]["AP"]["value"] is None
    assert found["precision_recall"]["mean"]["0.5"] == [0.5] * 101
    assert found["precision_recall"]["classes"]["class 12"] == [None] * 101
    assert found["calibration"]["bins"][9]["right"] == 1
    assert found["calibration"]["error"] == pytest.approx((0.1 + 0.4) / 2)
    assert found["per_image"] == [
        {
            "image_id": 1, "file_name": "1.png", "objects": 2, "right": 1, "wrong": 0, "missed": 1,
            "quality": pytest.approx(2 / 3),
        }
    ]  # fmt: skip


def test_an_image_with_hundreds_of_masks():
    """More than 255, which `pycocotools.mask.area` 2.0.11 cannot count in one call."""
    square = {"size": [20, 20], "counts": encode_mask(np.ones((20, 20), dtype=bool))["counts"]}
    image = {"id": 1, "file_name": "1.png", "height": 20, "width": 20}
    found = [{"category_id": 1, "segmentation": square, "score": 0.5} for _ in range(300)]
    objects = [{"id": i + 1, "image_id": 1, "iscrowd": 0, **o} for i, o in enumerate(found)]
    content = {
        "images": [image], "annotations": objects, "categories": [{"id": 1, "name": "a"}]
    }  # fmt: skip
    results = to_json(analyze(content, {1: found}, "segm", draws=2, max_detections=1000))
    assert (results["objects"], results["detections"]) == (300, 300)
    assert results["ap"]["AP"]["value"] == 100


def test_a_threshold_that_is_given_counts():
    found = analyze_boxes(SCENE, threshold=0.3)
    assert found["chosen"]["threshold"] == 0.3
    assert found["best"]["threshold"] == 0.65
    assert found["confusion"]["counts"] == [[1, 0, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]
    assert found["per_image"][0]["wrong"] == 1


@pytest.mark.parametrize(
    ("images", "ap"),
    [
        pytest.param([([(0, A)], [])], 0, id="no detections"),
        pytest.param([([], [(0, 0.9, A)])], None, id="no objects"),
        pytest.param([([], [])], None, id="neither"),
        pytest.param([([(0, A, "crowd")], [(0, 0.9, A)])], None, id="crowd only"),
        pytest.param([], None, id="no images"),
    ],
)
def test_data_with_nothing_to_measure(images, ap):
    found = analyze_boxes(*images)
    assert found["ap"]["AP50"]["value"] == ap
    assert set(found["thresholds"].values()) == {None}
    assert found["best"]["threshold"] is None
    assert found["chosen"]["threshold"] == 0.5
    assert len(found["confusion"]["counts"]) == 4
    assert len(found["per_image"]) == len(images)


def test_one_class():
    content, results = box_data(([(0, A)], [(0, 0.9, A)]))
    content["categories"] = content["categories"][:1]
    found = to_json(analyze(content, group_by_image(results), "bbox", draws=5))
    assert found["thresholds"] == {"class 3": 0.45}
    assert found["confusion"] == {"classes": ["class 3"], "counts": [[1, 0], [0, 0]]}


def test_two_classes_of_one_name_stay_apart():
    content, results = box_data(SCENE)
    for category in content["categories"][:2]:
        category["name"] = "cell"
    found = analyze(content, group_by_image(results), "bbox", draws=5)
    assert list(found.classes) == ["cell (category 3)", "cell (category 7)", "class 12"]


def test_the_intervals_hold_the_value_and_repeat_themselves():
    content, results = scenes(3)
    first, again, other = (
        analyze(content, group_by_image(results), "segm", draws=40, seed=seed) for seed in (0, 0, 1)
    )
    ap = first.ap["AP"]
    assert ap.low < ap.value < ap.high
    for entry in first.classes.values():
        assert entry.AP.low < entry.AP.value < entry.AP.high
    assert to_json(first) == to_json(again)
    assert first.ap["AP"] != other.ap["AP"]
