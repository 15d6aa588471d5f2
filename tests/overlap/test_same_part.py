"""Same-part error: known mistakes at known pixels, and a simulated FCIS that knows everything."""

import numpy as np
import pytest
from overlap_cases import instances_of, rectangle
from reference.overlap import coco_of, dataset_of, rle

from mask_rcnn_ext.layers.mask_crops import MaskCrop
from mask_rcnn_ext.overlap.detections import Detection
from mask_rcnn_ext.overlap.image_instances import read_image_instances
from mask_rcnn_ext.overlap.intervals import describe_draws
from mask_rcnn_ext.overlap.same_part import (
    draw_same_part,
    find_parts,
    measure_matched_parts,
    measure_part_share,
    measure_same_part,
)

# A square of 42 with a square of 14 in its middle. With k = 3, the middle part of the large box is
# the small box. The middle part of the small box has the pixels 19 to 22 in each direction, whose
# centres lie from 18.67 to 23.33: 16 pixels that both boxes read from one part.
SMALL = rectangle(14, 14, 28, 28, size=(60, 60))
LARGE_BOX = rectangle(0, 0, 42, 42, size=(60, 60))
LARGE = LARGE_BOX & ~SMALL
BOXES = [[0, 0, 42, 42], [14, 14, 28, 28]]
MIDDLE = rectangle(19, 19, 23, 23, size=(60, 60))


def measure(predictions, *, k=3, categories=(1, 1), rois=BOXES, small=SMALL):
    """Return the sums of one image with two squares."""
    objects = [
        {"mask": LARGE_BOX & ~small, "bbox": [0, 0, 42, 42], "category_id": categories[0]},
        {"mask": small, "category_id": categories[1]},
    ]
    instances = read_image_instances(coco_of(dataset_of([objects], (60, 60))), 1, {})
    found = {
        index: (MaskCrop(0, 0, mask), np.array(roi, dtype=np.float64))
        for index, (mask, roi) in enumerate(zip(predictions, rois, strict=True))
    }
    return measure_same_part(instances, found, k=k)


def summarize(trainings):
    return describe_draws(draw_same_part(trainings))


def test_parts_of_pixels():
    assert find_parts(0, 6, 3, slice(-1, 7)).tolist() == [-1, 0, 0, 1, 1, 2, 2, -1]
    assert find_parts(0.6, 3.6, 3, slice(0, 5)).tolist() == [-1, 0, 1, 2, -1]


@pytest.mark.parametrize(
    ("second", "k", "same", "common"),
    [
        ([0, 0, 9, 9], 3, 81, 81),  # the same box
        ([3, 0, 12, 9], 3, 0, 54),  # moved by a part: no pixel is in the same one
        ([1, 0, 10, 9], 3, 6 * 9, 72),  # moved by a third of a part
        ([3, 3, 6, 6], 3, 1, 9),
        ([3, 3, 6, 6], 1, 9, 9),
        ([20, 0, 29, 9], 3, 0, 0),
    ],
)
def test_area_that_two_boxes_read_from_one_part(second, k, same, common):
    first = np.array([0.0, 0.0, 9.0, 9.0])
    assert measure_part_share(first, np.array(second, dtype=np.float64), k) == pytest.approx(
        (same, common)
    )


@pytest.mark.parametrize("categories", [(1, 1), (1, 2)])
@pytest.mark.parametrize(
    ("large", "small", "same_wrong", "other_wrong"),
    [
        (LARGE, SMALL, 0, 0),
        (LARGE | MIDDLE, SMALL, 16, 0),
        (LARGE | MIDDLE, SMALL & ~MIDDLE, 32, 0),
        (LARGE | SMALL, SMALL, 16, 196 - 16),
        (LARGE & ~rectangle(0, 0, 14, 42, size=(60, 60)), SMALL, 0, 0),  # outside of both boxes
    ],
)
def test_a_mistake_counts_where_it_is(large, small, same_wrong, other_wrong, categories):
    sums = measure([large, small], categories=categories).sums
    pair = "one_class" if categories == (1, 1) else "two_classes"
    assert {name: value for name, value in sums.items() if name.startswith(pair)} == {
        f"{pair}/same/wrong": same_wrong,
        f"{pair}/same/pixels": 2 * 16,
        f"{pair}/other/wrong": other_wrong,
        f"{pair}/other/pixels": 2 * (196 - 16),
    }
    assert sum(sums.values()) == same_wrong + other_wrong + 2 * 196, "nothing in the other pair"


def test_parts_are_those_of_the_roi_that_the_mask_was_made_in():
    """Moved by a part of 14 px, the RoI's first column of parts meets the small square's."""
    sums = measure([LARGE, SMALL], rois=[[14, 0, 56, 42], BOXES[1]]).sums
    assert sums["one_class/same/pixels"] == 2 * 5 * 4  # columns 14 to 18, rows 19 to 22
    assert sums["one_class/other/pixels"] == 2 * (196 - 5 * 4)


def test_a_pixel_outside_of_a_roi_does_not_count():
    sums = measure([LARGE, SMALL], rois=[[0, 0, 20, 42], BOXES[1]]).sums
    assert sums["one_class/same/pixels"] + sums["one_class/other/pixels"] == 2 * 6 * 14


def simulate_fcis(rois, truths, classes, k):
    """Return the masks of an FCIS that knows the truth; where two RoIs read one score, it is one.

    A score belongs to a pixel, a class and a part. All RoIs that read it get the same answer, and
    the most that the answer can do is to be right for the first of them.
    """
    answers, masks = {}, []
    for (x1, y1, x2, y2), truth, label in zip(rois, truths, classes, strict=True):
        mask = np.zeros_like(truth)
        for y in range(y1, y2):
            for x in range(x1, x2):
                part = ((y - y1) * k // (y2 - y1), (x - x1) * k // (x2 - x1))
                mask[y, x] = answers.setdefault((y, x, label, part), truth[y, x])
        masks.append(mask)
    return masks


@pytest.mark.parametrize("k", [3, 7])
@pytest.mark.parametrize("categories", [(1, 1), (1, 2)])
def test_a_perfect_fcis_is_wrong_in_the_same_part_of_one_class_only(k, categories):
    rois = [[0, 0, 42, 42], [10, 12, 31, 33]]
    small = rectangle(10, 12, 31, 33, size=(60, 60))
    masks = simulate_fcis(rois, [LARGE_BOX & ~small, small], categories, k)
    record = measure(masks, k=k, categories=categories, rois=rois, small=small)
    summary = summarize([[record]])
    one, two = (summary[f"{pair}/difference"]["value"] for pair in ("one_class", "two_classes"))
    if categories == (1, 1):
        assert (one, two) == (50.0, None), "one of two masks is wrong at each contradiction"
    else:
        assert (one, two) == (None, 0.0)


def test_interval_is_over_images():
    records = [measure([LARGE, SMALL]), measure([LARGE | MIDDLE, SMALL])]
    entry = summarize([records])["one_class/same"]
    assert entry == {"value": 25.0, "low": 0.0, "high": 50.0}


def test_interval_is_over_trainings():
    good, bad = ([measure([large, SMALL])] * 3 for large in (LARGE, LARGE | MIDDLE))
    entry = summarize([good, bad])["one_class/same"]
    assert entry == {"value": 25.0, "low": 0.0, "high": 50.0}


def test_matched_detections_are_measured_in_their_own_boxes():
    """The boxes of the detections lie 14 px to the right of the objects' boxes, see above."""
    masks = [LARGE | MIDDLE, SMALL]
    found = [
        Detection(1, score, rle(mask), (x, y, side, side))
        for mask, score, (x, y, side) in zip(
            masks, (0.5, 0.9), [(14, 0, 42), (14, 14, 14)], strict=True
        )
    ]
    objects = [{"mask": LARGE, "bbox": [0, 0, 42, 42]}, {"mask": SMALL}]
    instances = instances_of(objects, found, (60, 60))
    record = measure_matched_parts(instances, k=3)
    rois = [[14, 0, 56, 42], BOXES[1]]
    assert record == measure(masks, rois=rois)
    assert record.sums["one_class/same/wrong"] == 0, "no wrong pixel is in the first columns"
    assert record.sums["one_class/other/wrong"] == 16


def test_an_unmatched_object_makes_no_pair():
    found = [Detection(1, 0.9, rle(LARGE), (0, 0, 42, 42))]
    objects = [{"mask": LARGE, "bbox": [0, 0, 42, 42]}, {"mask": SMALL}]
    record = measure_matched_parts(instances_of(objects, found, (60, 60)), k=3)
    assert sum(record.sums.values()) == 0
