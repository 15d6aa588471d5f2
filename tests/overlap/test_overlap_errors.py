"""The errors where objects meet: on masks made by hand, then against loops over pixels."""

import math

import numpy as np
import pytest
from overlap_cases import (
    LOWER,
    OBJECTS,
    UPPER,
    detect,
    errors_of,
    instances_of,
    metrics_of,
    rectangle,
)
from reference.overlap import coco_of, dataset_of, error_values, spurious_share, tight_box

from mask_rcnn_ext.overlap.image_records import measure


def percentages_of(objects, detections):
    """Return the task "errors" of one image."""
    return metrics_of([objects], {1: detections})["errors"]


def test_perfect_masks_have_no_error():
    summary = metrics_of([OBJECTS], {1: detect(LOWER, UPPER)})
    assert summary["errors"] == dict.fromkeys(summary["errors"], 0.0)
    for task in ("AP", "boundary"):
        assert summary[task] == pytest.approx({"AP": 100, "AP50": 100, "AP75": 100})
    # Boxes of 40 x 40 that share 20 x 40: IoU 800 / 2400.
    assert summary["overlap"]["AP_heavy"] == pytest.approx(100)
    assert math.isnan(summary["overlap"]["AP_none"])
    assert summary["counts"]["pairs"] == 1
    assert summary["counts"]["matched_met"] == 2


def test_leak_of_known_area():
    # 4 columns of 40 of the upper object in the lower's mask of 800: 160 / 960; the upper leaks 0.
    leaky = LOWER | rectangle(40, 20, 44, 60)
    errors = percentages_of(OBJECTS, detect(leaky, UPPER))
    assert errors["leak"] == pytest.approx(100 * (160 / 960 + 0) / 2)
    # A background pixel is no leak.
    spilled = LOWER | rectangle(10, 20, 20, 60)
    assert percentages_of(OBJECTS, detect(spilled, UPPER))["leak"] == 0


def test_miss_of_known_area():
    # The upper object has 20 x 40 pixels in the contested box; 5 of the 20 columns are left out.
    # The lower one has none there, and does not count.
    short = UPPER & ~rectangle(40, 20, 45, 60)
    errors = percentages_of(OBJECTS, detect(LOWER, short))
    assert errors["miss"] == pytest.approx(100 * 5 / 20)
    outside = UPPER & ~rectangle(75, 20, 80, 60)
    assert percentages_of(OBJECTS, detect(LOWER, outside))["miss"] == 0


def test_double_claim_of_known_area():
    # 4 columns that both claim: 160 of 800 + 1600.
    both = LOWER | rectangle(40, 20, 44, 60)
    errors = percentages_of(OBJECTS, detect(both, UPPER))
    assert errors["double_claim"] == pytest.approx(100 * 160 / 2400)


def test_boxes_that_only_touch_are_no_pair():
    objects = [{"mask": rectangle(5, 5, 30, 30)}, {"mask": rectangle(30, 5, 60, 30)}]
    summary = metrics_of([objects], {1: detect(*(o["mask"] for o in objects))})
    assert summary["counts"]["pairs"] == 0
    assert summary["counts"]["objects_none"] == 2


def test_objects_that_hardly_overlap_are_a_pair_but_not_met():
    """Boxes of 20 x 20 that share 1 x 20: IoU 20 / 780, below 0.05."""
    objects = [{"mask": rectangle(10, 10, 30, 30), "bbox": [10, 10, 20, 20]}]
    objects.append({"mask": rectangle(30, 10, 49, 30), "bbox": [29, 10, 20, 20]})
    leaky = [rectangle(10, 10, 34, 30), objects[1]["mask"]]
    summary = metrics_of([objects], {1: detect(*leaky)})
    for name in ("leak", "miss", "spurious_edge"):
        assert math.isnan(summary["errors"][name])
    assert summary["errors"]["double_claim"] == pytest.approx(100 * 80 / (480 + 380 - 80))
    assert summary["counts"]["pairs"] == 1
    assert summary["counts"]["matched_met"] == 0


def test_the_box_of_a_crowd_is_not_contested():
    """What is left out, and the straight edge of it, lie in the box of a crowd only."""
    short = UPPER & ~rectangle(40, 20, 45, 60)
    third = {"mask": rectangle(70, 10, 90, 20), "bbox": [70, 10, 20, 40]}
    for is_crowd in (1, 0):
        crowd = {"mask": rectangle(0, 0, 3, 3), "bbox": [0, 0, 50, 80], "iscrowd": is_crowd}
        errors = percentages_of([{"mask": UPPER}, third, crowd], detect(short, third["mask"]))
        assert (errors["miss"] == 0) == (errors["spurious_edge"] == 0) == is_crowd


def test_an_edge_near_an_objects_contour_is_not_spurious():
    # t is 2 px for small boxes: 2 px off is near, 3 px off is spurious.
    neighbour = {"mask": rectangle(50, 10, 70, 40), "bbox": [10, 10, 60, 30]}
    objects = [{"mask": rectangle(10, 10, 50, 40)}, neighbour]
    for offset, spurious in ((2, False), (3, True)):
        cut = rectangle(10, 10, 50 - offset, 40)
        errors = percentages_of(objects, detect(cut, objects[1]["mask"]))
        assert (errors["spurious_edge"] > 0) == spurious


def test_the_frame_of_the_image_is_no_contour():
    """A mask that reaches the frame, where its object does not, draws no edge there."""
    masks = [rectangle(10, 10, 90, 90), rectangle(0, 0, 5, 5)]
    objects = [{"mask": mask, "bbox": [0, 0, 100, 100]} for mask in masks]
    everything = np.ones((100, 100), dtype=bool)
    errors = percentages_of(objects, detect(everything, objects[1]["mask"]))
    assert errors["spurious_edge"] == 0


def test_an_unmatched_neighbour_makes_a_contested_region_but_no_pair():
    leaky = LOWER | rectangle(40, 20, 44, 60)
    errors = percentages_of(OBJECTS, detect(leaky))
    assert errors["leak"] == pytest.approx(100 * 160 / 960)
    assert math.isnan(errors["double_claim"])


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
    summary = metrics_of([objects], {1: detect(cut, objects[1]["mask"])})
    assert summary["counts"]["matched_met"] == 2
    assert summary["errors"]["spurious_edge"] == pytest.approx(100 * 46 / 160 / 2)


def test_what_is_matched_and_where_boxes_meet():
    left, right = rectangle(10, 10, 30, 40), rectangle(30, 10, 50, 40)
    leaky = left | rectangle(30, 10, 34, 40)
    objects = [{"mask": left, "bbox": [10, 10, 30, 30]}, {"mask": right, "category_id": 2}]
    detections = [
        *detect(right, scores=[0.9], category=2),
        *detect(right, leaky, scores=[0.1, 0.5]),
    ]
    errors = errors_of(objects, detections)
    assert [(m.annotation_id, m.detection) for m in errors.matches] == [(1, 2), (2, 0)]
    (record,) = measure(coco_of(dataset_of([objects])), {1: detections})
    assert record.matches == {2: 1, 0: 2}  # position of a detection -> id of its annotation
    assert [pair.objects for pair in errors.pairs] == [(0, 1)]
    assert errors.sums["errors/leak"] == (pytest.approx(120 / 720), 2)
    assert percentages_of(objects, detections)["leak"] == pytest.approx(100 * 120 / 720 / 2)
    contested = instances_of(objects, detections).contested
    np.testing.assert_array_equal(contested, rectangle(30, 10, 40, 40))
    assert not instances_of([], detections).contested.any()
    empty = errors_of([], detections)
    assert empty.matches == empty.pairs == ()


def blob(rng):
    """Return a ragged ellipse."""
    rows, columns = np.mgrid[:48, :48]
    cy, cx = rng.uniform(14, 34, 2)
    ry, rx = rng.uniform(7, 13, 2)
    angle = np.arctan2(rows - cy, columns - cx)
    ragged = 1 + 0.15 * np.sin(rng.integers(2, 9) * angle + rng.uniform(0, 6))
    return ((rows - cy) / ry) ** 2 + ((columns - cx) / rx) ** 2 < ragged**2


@pytest.mark.parametrize("seed", range(6))
def test_errors_are_those_of_loops_over_pixels(seed):
    rng = np.random.default_rng(seed)
    shapes = [blob(rng) for _ in range(4)]
    masks = [s & ~sum(shapes[i + 1 :], np.zeros_like(s)) for i, s in enumerate(shapes)]
    masks = [m for m in masks if m.sum() > 30]
    found = [np.roll(m, rng.integers(-2, 3, 2), axis=(0, 1)) for m in masks]
    for prediction in found[:2]:
        x, y, w, _ = tight_box(prediction)
        prediction[: y + 4, : x + w // 2] = False  # a cut corner
    objects = [{"mask": mask} for mask in masks]
    errors = errors_of(objects, detect(*found, scores=[0.5] * len(found)), size=(48, 48))
    # Which prediction is whose is decided by the matching, which other tests check.
    partners = {m.annotation_id - 1: found[m.detection] for m in errors.matches}
    assert len(partners) >= 2
    boxes = [tight_box(mask) for mask in masks]
    expected = error_values(masks, boxes, partners)
    for name in ("leak", "miss"):
        values = [getattr(m, name) for m in errors.matches if not math.isnan(getattr(m, name))]
        assert values == pytest.approx(expected[name], abs=1e-12)
    claims = [pair.double_claim for pair in errors.pairs]
    assert claims == pytest.approx(expected["double_claim"])
    for match in errors.matches:
        if not math.isnan(match.spurious_edge):
            i = match.annotation_id - 1
            share = spurious_share(masks, boxes, i, partners[i])
            assert match.spurious_edge == pytest.approx(share, abs=1e-12)
