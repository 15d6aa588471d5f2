"""Result files whose boxes count."""

import json

import numpy as np
import pytest
from reference.overlap import coco_of, dataset_of, text_rle

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.overlap.detections import load_boxed_results

MASK = np.ones((20, 20), dtype=bool)
TRUTH = coco_of(dataset_of([[{"mask": MASK}]] * 2, size=(20, 20)))
DETECTION = {
    "image_id": 1,
    "category_id": 1,
    "segmentation": text_rle(MASK),
    "bbox": [0.5, 1, 10, 12.25],
}


def test_boxes_keep_the_order_of_the_detections(tmp_path):
    path = tmp_path / "boxes.json"
    entries = [
        {**DETECTION, "image_id": image, "score": score, "bbox": [0.25, 0, 1 + index, 2.5]}
        for index, (image, score) in enumerate([(2, 0.1), (1, 0.2), (2, 0.3)])
    ]
    path.write_text(json.dumps(entries))
    found = load_boxed_results(path, TRUTH)
    assert [d.score for d in found.detections[2]] == [0.1, 0.3]
    assert found.boxes[2].tolist() == [[0.25, 0, 1, 2.5], [0.25, 0, 3, 2.5]]
    assert found.boxes[1].tolist() == [[0.25, 0, 2, 2.5]]


def test_an_empty_file(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text("[]")
    found = load_boxed_results(path, TRUTH)
    assert found.detections == found.boxes == {}


def without_box(change):
    first, second = ({**DETECTION, "score": score} for score in (0.9, 0.5))
    if change is None:
        del second["bbox"]
    else:
        second["bbox"] = change
    return [first, second]


@pytest.mark.parametrize(
    ("bbox", "message"),
    [
        (None, "detection 1 has no 'bbox'"),
        ([1, 2, 3], r"got \[1, 2, 3\]"),
        ([1, 2, 0, 4], "positive"),
        ([1, 2, 3, -4], "positive"),
        ([1, 2, float("nan"), 4], "finite"),
        ([1, float("inf"), 3, 4], "finite"),
        ([1, 2, "3", 4], "four finite numbers"),
        ([1, 2, True, 4], "four finite numbers"),
        ("1 2 3 4", "four finite numbers"),
    ],
    ids=str,
)
def test_a_detection_without_a_good_box(tmp_path, bbox, message):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(without_box(bbox)))
    with pytest.raises(UserError, match=message) as raised:
        load_boxed_results(path, TRUTH)
    assert f"{path}: detection 1" in str(raised.value)
