"""Axis runs and same-part errors of result files: known masks, and models that draw lines."""

import numpy as np
import pytest
from overlap_cases import OBJECTS, instances_of, rectangle
from reference.overlap import rle

from mask_rcnn_ext import UserError
from mask_rcnn_ext.layers.mask_crops import MaskCrop
from mask_rcnn_ext.overlap.detections import Detection
from mask_rcnn_ext.overlap.lines import (
    LINE_METRICS,
    LineRecord,
    compare_lines,
    measure_lines,
    render_binary_mask,
    render_in_roi,
    require_rois,
    summarize_lines,
)

SIZE = (200, 200)


def disk(cut=None, radius=40, x=100, y=100):
    """Return a disk, cut off by a vertical line at a share of its radius from its centre."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    mask = np.hypot(columns + 0.5 - x, rows + 0.5 - y) <= radius
    return mask if cut is None else mask & (columns < x + cut * radius)


def record_of(mask, truth=None, roi=None):
    found = [Detection(1, 0.9, rle(mask), roi)]
    return measure_lines(instances_of([{"mask": disk() if truth is None else truth}], found, SIZE))


def test_the_model_that_cuts_has_the_larger_excess():
    """The masks of ten images: disks, and the same disks without a piece of the right side."""
    whole = [record_of(disk(radius=40 + i), disk(radius=40 + i)) for i in range(4)]
    cut = [record_of(disk(0.4, 40 + i), disk(radius=40 + i)) for i in range(4)]
    assert [record.masks for record in whole] == [1] * 4
    entry = compare_lines(cut, whole, draws=50)["axis/excess"]
    assert entry["b"]["value"] == pytest.approx(1, abs=0.15)
    assert entry["a"]["value"] > 1.4
    assert entry["ratio"]["value"] == pytest.approx(entry["a"]["value"] / entry["b"]["value"])
    assert 1 < entry["ratio"]["low"] <= entry["ratio"]["value"] <= entry["ratio"]["high"]
    assert summarize_lines(cut, draws=50)["axis/excess"] == entry["a"]


def test_the_cut_of_a_roi_is_no_line():
    """Disks, cut off at half their radius: by a RoI that ends there, and by the model."""
    half = disk(0.5)
    ends_there, is_larger = (50.0, 50.0, 70.0, 100.0), (50.0, 50.0, 100.0, 100.0)
    by_roi, by_model = record_of(half, half, ends_there), record_of(half, half, is_larger)
    outside = "what lies outside of the RoI does not count"
    assert by_roi == record_of(disk(), half, ends_there), outside
    assert by_model.length - by_roi.length > 2 * 25, "the line is 69 px long"
    unknown = record_of(half, half)
    assert unknown.length == by_model.length


def test_a_roi_ends_where_the_image_ends():
    """A file can have boxes of any size; memory must not follow them."""
    boxes = ((-1e8, -1e8, 1e9, 1e9), (0.0, 0.0, 200.0, 200.0))
    cut = [record_of(disk(), roi=box) for box in boxes]
    assert cut[0] == cut[1]
    assert cut[0].masks == 1
    assert cut[0].rotated > 0


def test_the_frame_of_the_image_is_no_line():
    """Disks, cut off by each side of the image: without RoIs, as after mask voting.

    Three of the four places remain where a disk is parallel to an axis, but only 58 % of its
    contour, so their excess is 3 / (4 x 0.58) = 1.3.
    """
    for x, y in ((10, 100), (190, 100), (100, 10), (100, 190)):
        cut = disk(x=x, y=y)
        at_frame = record_of(cut, cut)
        assert at_frame.masks == 1
        assert at_frame.length / at_frame.rotated == pytest.approx(1.3, abs=0.15)
        inside = np.roll(cut, (100 - y, 100 - x), axis=(0, 1))  # the same mask, cut by the model
        assert record_of(inside, inside).length - at_frame.length > 40, "the line is 77 px long"


def test_a_roi_without_an_inner_part_has_no_lines():
    record = record_of(disk(), roi=(60.0, 99.0, 80.0, 1.5))
    assert (record.masks, record.length, record.rotated) == (1, 0, 0)


def test_a_large_roi_is_measured_at_168_pixels():
    crop = MaskCrop(100, 100, np.ones((400, 200), dtype=bool))
    rendered = render_in_roi(crop, np.array([90.0, 90.0, 310.0, 510.0]))
    assert rendered.shape == (168, 88), "395 x 207 px without the border of 3 %"
    assert rendered.mean() == pytest.approx(400 * 200 / (395 * 207), abs=0.02)


def test_small_masks_and_unmatched_ones_do_not_count():
    assert record_of(disk(radius=31), disk(radius=31)).masks == 0
    assert record_of(disk(radius=33), disk(radius=33)).masks == 1
    assert record_of(disk(radius=33, x=40)).masks == 0, "it matches no object"


def test_a_large_mask_is_measured_at_168_pixels():
    rendered = render_binary_mask(MaskCrop(1, 1, np.ones((500, 250), dtype=bool)), 502, 252)
    assert rendered.shape == (168 + 8, 84 + 8)
    assert rendered.sum() == pytest.approx(168 * 84)
    small = MaskCrop(1, 1, np.ones((70, 168), dtype=bool))
    assert render_binary_mask(small, 72, 170).shape == (78, 176)
    assert render_binary_mask(small, 71, 170).shape == (74, 176), "it ends with the image"


def test_same_part_errors_are_in_the_boxes_of_the_detections():
    """k = 1: both RoIs have one part. The upper mask misses 5 columns of the common 20."""
    short = rectangle(45, 20, 80, 60)
    found = [
        Detection(1, 0.9, rle(OBJECTS[0]["mask"]), (20, 20, 40, 40)),
        Detection(1, 0.8, rle(short), (40, 20, 40, 40)),
    ]
    record = measure_lines(instances_of(OBJECTS, found), parts=1)
    assert record.same_part.sums["one_class/same/pixels"] == 2 * 20 * 40
    assert record.same_part.sums["one_class/same/wrong"] == 5 * 40
    entry = compare_lines([record], [record], draws=5)["same_part/one_class/same"]
    assert entry["a"]["value"] == pytest.approx(100 * 5 / 40)  # of two masks
    assert entry["difference"]["value"] == 0


def test_without_k_there_is_the_excess_only():
    nothing = [LineRecord(0, 0.0, 0.0, None)] * 2
    compared = compare_lines(nothing, nothing, draws=5)
    assert list(compared) == ["axis/excess"]
    assert compared["axis/excess"]["ratio"] == {"value": None, "low": None, "high": None}


def test_an_image_without_detections_has_every_number():
    record = measure_lines(instances_of(OBJECTS, []), parts=7)
    summary = summarize_lines([record], draws=5)
    assert list(summary) == list(LINE_METRICS)
    assert {entry["value"] for entry in summary.values()} == {None}


def test_tight_boxes_are_no_rois():
    masks = [disk(), disk(0.4)]
    loose = {1: [Detection(1, 0.9, rle(mask), (50, 50, 100, 100.5)) for mask in masks]}
    tight = {1: [Detection(1, 0.9, rle(masks[0]), (60, 60, 80, 80))]}
    require_rois(loose, "a.json")
    require_rois({1: [*loose[1], *tight[1]]}, "a.json")
    require_rois({}, "a.json")
    with pytest.raises(UserError, match=r"b\.json: .*MASK_VOTING False"):
        require_rois(tight, "b.json")
