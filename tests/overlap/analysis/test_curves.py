"""Precision and recall over scores, checked by hand."""

import numpy as np
import pytest

from mask_rcnn_ext.overlap.analysis.curves import (
    choose_threshold,
    compute_average_precision,
    compute_calibration,
    compute_pr_curve,
    compute_threshold_curve,
    measure_operation,
)

SCORES = np.array([0.9, 0.8, 0.7, 0.6])
RIGHT = np.array([True, False, True, False])
NOTHING = np.zeros(0), np.zeros(0, dtype=bool)


def test_the_curve_has_the_best_precision_at_each_recall_or_above():
    curve = compute_pr_curve(RIGHT, 4)  # recalls 1/4, 1/4, 2/4, 2/4; precisions 1, 1/2, 2/3, 1/2
    np.testing.assert_allclose(curve[:26], 1)
    np.testing.assert_allclose(curve[26:51], 2 / 3)
    np.testing.assert_allclose(curve[51:], 0)
    assert compute_average_precision(RIGHT, 4) == pytest.approx(100 * (26 + 25 * 2 / 3) / 101)


def test_the_curve_without_objects_and_without_detections():
    assert np.isnan(compute_pr_curve(RIGHT, 0)).all()
    assert np.isnan(compute_average_precision(NOTHING[1], 0))
    assert compute_pr_curve(NOTHING[1], 3).tolist() == [0] * 101


def test_the_best_threshold_has_the_best_f1():
    best = choose_threshold(SCORES, RIGHT, 2)  # F1 at each score: 2/3, 2/4, 4/5, 4/6
    assert best.f1 == pytest.approx(0.8)
    assert (best.precision, best.recall) == (pytest.approx(2 / 3), 1)
    assert best.threshold == 0.65  # between the third score and the fourth


def test_detections_of_one_score_are_kept_together():
    scores, right = np.array([0.5, 0.5, 0.2]), np.array([True, False, False])
    best = choose_threshold(scores, right, 1)
    assert best.f1 == pytest.approx(2 / 3)  # not 1, which the first alone would have
    assert 0.2 < best.threshold < 0.5


def test_of_equally_good_thresholds_the_highest_is_taken():
    scores, right = np.array([0.9, 0.5, 0.4]), np.array([True, False, True])
    assert choose_threshold(scores, right, 1).threshold == 0.7  # F1 1, 2/3, 1


@pytest.mark.parametrize(
    ("high", "low"),
    [(0.5, 0.4), (0.31234, 0.31233), (0.3, 0.3 - 1e-17), (1.0, 0.999), (0.01, 0), (0.326, 0.3245)],
)
def test_a_threshold_parts_what_is_kept_from_the_rest(high, low):
    scores, right = np.array([high, low]), np.array([True, False])
    threshold = choose_threshold(scores, right, 1).threshold
    assert low < threshold <= high or high == low
    assert (scores >= threshold).tolist() == ([True, False] if low < high else [True, True])


def test_no_threshold_is_best_where_nothing_is_right():
    assert choose_threshold(*NOTHING, 3) is None
    assert choose_threshold(*NOTHING, 0) is None
    assert choose_threshold(SCORES, np.zeros(4, dtype=bool), 0) is None


def test_what_a_threshold_does():
    kept = measure_operation(SCORES, RIGHT, 4, 0.8)  # a score on the threshold is kept
    assert (kept.precision, kept.recall, kept.f1) == (0.5, 0.25, pytest.approx(2 / 6))
    none = measure_operation(SCORES, RIGHT, 4, 0.95)
    assert np.isnan(none.precision)
    assert (none.recall, none.f1) == (0, 0)
    without = measure_operation(*NOTHING, 0, 0.5)
    assert np.isnan([without.precision, without.recall, without.f1]).all()
    curve = compute_threshold_curve(SCORES, RIGHT, 4)
    assert [point.threshold for point in curve[::50]] == [0, 0.5, 1]
    assert [point.recall for point in curve[::50]] == [0.5, 0.5, 0]


def test_calibration_is_the_weighted_gap_between_score_and_truth():
    scores = np.array([0.95, 0.85, 0.05, 0.0, 1.0])
    found = compute_calibration(scores, np.array([True, False, False, False, True]))
    bins = found.bins
    assert [each.detections for each in bins] == [2, 0, 0, 0, 0, 0, 0, 0, 1, 2]
    assert [bins[i].score for i in (0, 8, 9)] == pytest.approx([0.025, 0.85, 0.975])
    assert [bins[i].right for i in (0, 8, 9)] == [0, 0, 1]
    assert np.isnan(bins[1].right)
    assert found.error == pytest.approx((2 * 0.025 + 0.85 + 2 * 0.025) / 5)


def test_a_score_on_an_edge_belongs_to_the_upper_bin():
    scores = np.array([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])  # as in a file
    found = compute_calibration(scores, np.ones(11, dtype=bool))
    assert [each.detections for each in found.bins] == [1] * 9 + [2]
    assert [each.low for each in found.bins] == scores[:-1].tolist()


def test_calibration_without_detections():
    found = compute_calibration(*NOTHING)
    assert np.isnan(found.error)
    assert not any(each.detections for each in found.bins)
