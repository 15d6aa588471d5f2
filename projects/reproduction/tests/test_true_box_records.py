"""What is measured of masks in the true boxes: shares of right masks, and which objects count."""

import json

import numpy as np
import pytest
from reproduction.fcis.given_boxes import GivenBoxMasks
from reproduction.fcis.true_box_records import (
    TrueBoxRecord,
    draw_right,
    find_overlapping,
    measure_true_boxes,
)
from test_photograph_pairs import make_set

from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.layers.mask_crops import MaskCrop
from mask_rcnn_ext.overlap.detections import load_truth
from mask_rcnn_ext.overlap.image_instances import read_image_instances
from mask_rcnn_ext.report.json_records import from_json, to_json


@pytest.fixture
def masks(tmp_path):
    """Return the masks of three objects, two of which overlap: whole, two thirds, and empty."""
    objects = [(1, (0, 0, 30, 30)), (1, (20, 20, 30, 30)), (2, (25, 25, 30, 30))]
    write_json(tmp_path / "set.json", make_set(objects))
    instances = read_image_instances(load_truth(tmp_path / "set.json"), 1, {})
    drawn = [
        MaskCrop(0, 0, np.ones((30, 30), dtype=bool)),
        MaskCrop(20, 20, np.ones((20, 30), dtype=bool)),
        MaskCrop(25, 25, np.zeros((30, 30), dtype=bool)),
    ]
    return GivenBoxMasks(instances, np.arange(3), np.ones((3, 21, 21)), drawn, 0.5)


def test_only_objects_that_overlap_one_of_their_class_count(masks):
    assert find_overlapping(masks.instances).tolist() == [True, True, False]
    assert measure_true_boxes(masks, (3,), only_overlapping=True).masks == 2
    assert measure_true_boxes(masks, (3,)).masks == 3


def test_share_of_right_masks(masks):
    """A whole mask passes all ten thresholds, an IoU of 2/3 passes 0.5 to 0.65, an empty none."""
    record = measure_true_boxes(masks, (7, 3))
    assert record.right == pytest.approx(1 + 0.4 + 0)
    assert draw_right([[record]])[0] == pytest.approx(100 * 1.4 / 3)
    assert set(record.same_part) == {"k = 7", "k = 3"}


def test_a_record_is_the_same_after_json(masks):
    record = measure_true_boxes(masks, (7,))
    assert from_json(TrueBoxRecord, json.loads(json.dumps(to_json(record)))) == record
