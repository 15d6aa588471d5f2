"""The comparison's numbers on masks made by hand, worked out on paper."""

import math

import numpy as np
import pytest
from reference.overlap import coco_of, dataset_of, rle

from mask_rcnn_ext.overlap.comparison import Detection, compute_metrics, measure
from mask_rcnn_ext.overlap.image_instances import read_image_instances
from mask_rcnn_ext.overlap.overlap_errors import measure_errors

SIZE = 100  # pixels: the boundary of a mask is 3 px wide


def rectangle(x1, y1, x2, y2):
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[y1:y2, x1:x2] = True
    return mask


def found(*masks, category=1):
    """Return detections with falling scores."""
    return [Detection(category, 0.9 - 0.1 * i, rle(mask)) for i, mask in enumerate(masks)]


def summary_of(images, detections):
    """Return the summary: objects per image as in `dataset_of`, image id -> detections."""
    return compute_metrics(measure(coco_of(dataset_of(images)), detections))


# The box of the lower one reaches to 60, as an amodal annotator would draw it: IoU 800 / 2400.
LOWER, UPPER = rectangle(20, 20, 40, 60), rectangle(40, 20, 80, 60)
HEAVY = [{"mask": LOWER, "bbox": [20, 20, 40, 40]}, {"mask": UPPER}]
ALONE = [{"mask": rectangle(10, 10, 50, 50)}]


def test_boundary_ap_of_a_square_that_is_a_pixel_too_small_on_each_side():
    """Mask IoU 38² / 40² = 0.9025. Rings, 3 px wide: 444 and 420 pixels, 288 of them in common."""
    summary = summary_of([ALONE], {1: found(rectangle(11, 11, 49, 49))})
    assert summary["AP"] == pytest.approx({"AP": 90, "AP50": 100, "AP75": 100})
    # 288 / (444 + 420 - 288) is 0.5: the lowest of the ten thresholds, and no other.
    assert summary["boundary"] == pytest.approx({"AP": 10, "AP50": 100, "AP75": 0})


def test_ap_by_level_sees_where_a_model_fails():
    """It finds what is alone, and one of the two that overlap: half of the recalls, 51 of 101."""
    summary = summary_of([ALONE, HEAVY], {1: found(ALONE[0]["mask"]), 2: found(UPPER)})
    for task in ("overlap", "overlap_same"):
        assert summary[task]["AP_none"] == pytest.approx(100)
        assert summary[task]["AP_heavy"] == pytest.approx(100 * 51 / 101)
        assert summary[task]["AP_drop"] == pytest.approx(100 * 50 / 101)
        assert math.isnan(summary[task]["AP_partial"])


def test_a_false_detection_counts_at_the_level_of_the_object_that_it_overlaps():
    # Box IoU with the object that is alone: 400 / 1600; with nothing in the other image.
    false = Detection(1, 0.95, rle(rectangle(10, 10, 30, 30)))
    objects = {1: found(ALONE[0]["mask"]), 2: found(UPPER, LOWER)}
    summary = summary_of([ALONE, HEAVY], {**objects, 1: [false, *objects[1]]})
    assert summary["overlap"]["AP_none"] == pytest.approx(50)
    assert summary["overlap"]["AP_heavy"] == pytest.approx(100)
    # One that overlaps no object counts at both: a true detection after it has precision 1 / 2,
    # and two have 2 / 3, which stands for the recalls before them, too.
    nowhere = Detection(1, 0.95, rle(rectangle(80, 80, 95, 95)))
    summary = summary_of([ALONE, HEAVY], {**objects, 1: [nowhere, *objects[1]]})
    assert summary["overlap"]["AP_none"] == pytest.approx(50)
    assert summary["overlap"]["AP_heavy"] == pytest.approx(100 * 2 / 3)


def test_objects_of_other_classes_overlap_but_not_in_the_same_class():
    objects = [HEAVY[0], {**HEAVY[1], "category_id": 2}]
    counts = summary_of([objects], {})["counts"]
    assert (counts["objects_heavy"], counts["objects_same_none"]) == (2, 2)


def test_the_spurious_share_of_a_cut_of_known_length():
    """Left of x = 30 the lower object is whole; a cut at y = 40 goes across its contested part.

    The prediction is 40 x 40 less the corner right of 30 and below 40. Its contour is 160 px. Of
    the cut, the sides at x = 30 and y = 40, only what is in the contested box (x from 30) and more
    than 2 px from the object's contour is spurious: on x = 30, midpoints 40.5 to 57.5; on y = 40,
    midpoints 30.5 to 57.5. Together 18 + 28.
    """
    square = rectangle(20, 20, 60, 60)
    objects = [{"mask": square}, {"mask": rectangle(61, 20, 70, 60), "bbox": [30, 20, 40, 40]}]
    cut = square & ~rectangle(30, 40, 60, 60)
    summary = summary_of([objects], {1: found(cut, objects[1]["mask"])})
    assert summary["counts"]["matched_met"] == 2
    assert summary["errors"]["spurious_edge"] == pytest.approx(100 * 46 / 160 / 2)


def test_a_crowd_is_left_out_of_everything():
    """It covers both objects and more; what lies in it is no object, no neighbour, no mistake."""
    crowd = {"mask": rectangle(0, 0, 100, 100), "iscrowd": 1}
    masks = [rectangle(5, 5, 30, 30), rectangle(50, 50, 80, 80)]
    apart = [{"mask": mask} for mask in masks]
    inside = rectangle(85, 5, 95, 15)  # first by score, in the crowd alone: ignored
    summary = summary_of([[*apart, crowd]], {1: found(inside, *masks)})
    assert summary["AP"]["AP"] == summary["boundary"]["AP"] == pytest.approx(100)
    assert summary["overlap"]["AP_none"] == pytest.approx(100)
    counts = summary["counts"]
    assert (counts["objects"], counts["crowds"], counts["objects_none"]) == (2, 1, 2)
    assert (counts["matched"], counts["pairs"]) == (2, 0)
    assert all(math.isnan(value) for value in summary["errors"].values())
    # Beside objects that meet, it changes no error, though the leaking mask lies on it.
    leaky = [LOWER | rectangle(40, 20, 44, 60), UPPER]
    with_crowd, without = (
        summary_of([objects], {1: found(*leaky)})["errors"] for objects in ([*HEAVY, crowd], HEAVY)
    )
    assert with_crowd == without
    assert with_crowd["leak"] > 0


def test_objects_that_do_not_overlap():
    objects = [{"mask": rectangle(5, 5, 30, 30)}, {"mask": rectangle(50, 50, 80, 80)}]
    summary = summary_of([objects], {1: found(*(o["mask"] for o in objects))})
    assert summary["overlap"]["AP_none"] == pytest.approx(100)
    for name in ("AP_partial", "AP_heavy", "AP_drop"):
        assert math.isnan(summary["overlap"][name])
    assert all(math.isnan(value) for value in summary["errors"].values())
    picture = measure_errors(read_image_instances(coco_of(dataset_of([objects])), 1, {}))
    assert not picture.contested.any()


def test_a_model_that_predicts_nothing():
    summary = summary_of([ALONE, HEAVY], {})
    for task in ("AP", "boundary"):
        assert set(summary[task].values()) == {0}
    assert summary["overlap"]["AP_none"] == summary["overlap"]["AP_heavy"] == 0
    assert summary["overlap"]["AP_drop"] == 0
    assert all(math.isnan(value) for value in summary["errors"].values())
    assert summary["counts"]["detections"] == summary["counts"]["matched"] == 0


def test_an_image_without_objects_only_adds_what_is_found_there():
    perfect = {2: found(LOWER, UPPER)}
    without, quiet, loud = (
        summary_of(images, detections)
        for images, detections in (
            ([HEAVY], {1: perfect[2]}),
            ([[], HEAVY], perfect),
            ([[], HEAVY], {**perfect, 1: [Detection(1, 0.95, rle(UPPER))]}),
        )
    )
    for task in ("AP", "boundary", "errors"):
        assert quiet[task] == without[task]
    assert quiet["AP"]["AP"] == pytest.approx(100)
    # One false detection before two true ones.
    assert loud["AP"]["AP"] == loud["overlap"]["AP_heavy"] == pytest.approx(100 * 2 / 3)
    assert loud["errors"] == without["errors"]
