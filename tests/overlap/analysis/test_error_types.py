"""TIDE's error types: each one alone, by hand, and random scenes against the slow version."""

from types import SimpleNamespace

import numpy as np
import pytest
from analysis_cases import pairs_of
from reference import error_types as reference
from reference.overlap import scenes

from mask_rcnn_ext.overlap.analysis.error_types import ERROR_TYPES, measure_error_types
from mask_rcnn_ext.overlap.analysis.image_pairs import group_by_image, read_image_pairs
from mask_rcnn_ext.overlap.analysis.tables import match_all

A, B = (0, 0, 40, 40), (100, 0, 40, 40)
THIRD_A, AWAY = (20, 0, 40, 40), (300, 300, 20, 20)  # IoU 20 / 60, 0
# Two objects of class 0: A is found, with a score of 0.5. AP50 is 100 * 51 / 101, at recall 0.5.
HALF = 100 * 51 / 101


def by_type(measured):
    """Return the AP50, and the counts and the costs of the types."""
    counts = {name: each.count for name, each in measured.types.items()}
    costs = {name: each.cost for name, each in measured.types.items()}
    return SimpleNamespace(ap50=measured.AP50, counts=counts, costs=costs)


def measure(*images):
    return by_type(measure_error_types(*pairs_of(*images), 3))


def only(found):
    """Return the types of which there are errors."""
    return {name: number for name, number in found.counts.items() if number}


def test_a_model_without_errors():
    found = measure(([(0, A), (1, B)], [(0, 0.9, A), (1, 0.8, B)]))
    assert found.ap50 == pytest.approx(100)
    assert only(found) == {}
    assert found.costs == dict.fromkeys(ERROR_TYPES, 0)


def test_a_missed_object_is_taken_out_of_the_number_of_objects():
    found = measure(([(0, A), (0, B)], [(0, 0.5, A)]))
    assert found.ap50 == pytest.approx(HALF)
    assert only(found) == {"missed": 1}
    assert found.costs["missed"] == pytest.approx(100 - HALF)


def test_a_badly_placed_detection_is_put_onto_its_object():
    found = measure(([(0, A)], [(0, 0.5, THIRD_A)]))
    assert found.ap50 == 0
    assert only(found) == {"localization": 1}  # and the object is not missed
    assert found.costs == {**dict.fromkeys(ERROR_TYPES, 0), "localization": pytest.approx(100)}


def test_a_wrong_class_is_set_right():
    found = measure(([(0, A), (1, B)], [(1, 0.9, A), (1, 0.5, B)]))
    assert found.ap50 == pytest.approx(25)  # class 0: 0; class 1: precision 1/2
    assert only(found) == {"classification": 1}
    assert found.costs["classification"] == pytest.approx(75)
    assert found.costs["missed"] == 0


def test_of_two_detections_of_one_object_only_the_better_one_is_repaired():
    found = measure(
        ([(0, A), (0, B)], [(1, 0.9, A), (0, 0.7, AWAY), (0, 0.5, B), (2, 0.4, A)]),
    )
    assert only(found) == {"classification": 2, "background": 1}
    before = 100 * 51 / 101 / 2  # recall 1/2 with a precision of 1/2
    repaired = 100 * (51 + 50 * 2 / 3) / 101  # right, wrong, right
    assert found.costs["classification"] == pytest.approx(repaired - before)


def test_a_wrong_class_on_an_object_that_is_found_is_taken_away():
    found = measure(([(0, A), (1, B)], [(0, 0.9, A), (1, 0.8, A), (1, 0.5, B)]))
    assert found.ap50 == pytest.approx(75)
    assert only(found) == {"classification": 1}
    assert found.costs["classification"] == pytest.approx(25)


def test_a_duplicate_is_taken_away():
    found = measure(([(0, A), (0, B)], [(0, 0.9, A), (0, 0.8, A), (0, 0.5, B)]))
    assert only(found) == {"duplicate": 1}
    assert found.ap50 == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)
    assert found.costs["duplicate"] == pytest.approx(100 - found.ap50)


def test_a_detection_of_nothing_is_taken_away():
    found = measure(([(0, A)], [(0, 0.9, AWAY), (0, 0.5, A)]))
    assert found.ap50 == pytest.approx(50)
    assert only(found) == {"background": 1}
    assert found.costs["background"] == pytest.approx(50)


def test_a_wrong_class_and_place_is_taken_away():
    found = measure(([(0, A), (1, B)], [(1, 0.9, THIRD_A), (0, 0.6, A), (1, 0.5, B)]))
    assert only(found) == {"both": 1}
    assert found.costs["both"] == pytest.approx(25)


def test_what_lies_in_a_crowd_is_no_error():
    found = measure(([(0, A, "crowd"), (0, B)], [(0, 0.9, (0, 0, 20, 20)), (0, 0.8, B)]))
    assert found.ap50 == pytest.approx(100)
    assert only(found) == {}


def test_no_detections():
    found = measure(([(0, A), (1, B)], []))
    assert found.ap50 == 0
    assert only(found) == {"missed": 2}
    assert found.costs["missed"] == 100


def test_no_objects():
    found = measure(([], [(0, 0.9, A)]))
    assert np.isnan(found.ap50)
    assert only(found) == {"background": 1}
    assert np.isnan(list(found.costs.values())).all()


def test_no_images():
    found = by_type(measure_error_types([], [], 3))
    assert np.isnan(found.ap50)
    assert only(found) == {}


@pytest.mark.parametrize("seed", range(6))
def test_random_scenes_agree_with_the_slow_version(seed):
    content, results = scenes(seed)
    images = read_image_pairs(content, group_by_image(results), "segm")
    found = by_type(measure_error_types(images, match_all(images), 2))
    slow = [
        (
            list(zip(image.classes.tolist(), image.crowd.tolist(), strict=True)),
            list(zip(image.detection_classes.tolist(), image.scores.tolist(), strict=True)),
            image.make_ious(),
        )
        for image in images
    ]
    ap50 = reference.measure(slow, (0, 1))
    assert found.ap50 == pytest.approx(ap50)
    assert found.counts == reference.count(slow)
    for name in ERROR_TYPES:
        expected = reference.measure(slow, (0, 1), name) - ap50
        assert found.costs[name] == pytest.approx(expected, abs=1e-9), name
    assert sum(cost > 0.01 for cost in found.costs.values()) >= 2  # a case that could differ
