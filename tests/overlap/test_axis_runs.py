"""Axis runs: lines of known place and length, and shapes that prefer no direction."""

import numpy as np
import pytest

from mask_rcnn_ext.overlap.axis_runs import find_axis_runs, measure_axis_lengths


def square(size=64, low=12, high=52):
    mask = np.zeros((size, size))
    mask[low:high, low:high] = 1
    return mask


def disk(radius, cut=None, angle=0.0, size=128):
    """Return a disk, cut off by a line at a share of its radius from its centre."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    mask = np.hypot(x, y) <= radius
    if cut is not None:
        mask &= x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle)) <= cut * radius
    return mask.astype(float)


def excess(masks):
    found = [measure_axis_lengths(mask) for mask in masks]
    return sum(runs.length for runs, _ in found) / sum(rotated for _, rotated in found)


def test_sides_of_a_square_are_runs_at_their_places():
    runs = find_axis_runs(square())
    for places in (runs.vertical, runs.horizontal):
        assert set(np.round(places)) <= {12, 13, 51, 52}  # 1 px where smoothing rounds the corners
        assert 2 * 36 <= len(places) <= 2 * 40
    assert runs.length == len(runs.vertical) + len(runs.horizontal)


def test_a_rotated_square_has_them_at_its_rounded_corners_only():
    assert find_axis_runs(square(), angle=30).length <= 0.15 * 4 * 40
    assert find_axis_runs(square(), angle=90).length == pytest.approx(
        find_axis_runs(square()).length, abs=2
    )


def test_the_frame_of_the_array_is_no_contour():
    """A mask that fills a half of its RoI has one line, in the middle."""
    half = np.zeros((64, 64))
    half[:, :32] = 1
    runs = find_axis_runs(half)
    assert len(runs.horizontal) == 0
    assert set(np.round(runs.vertical)) == {32}
    assert find_axis_runs(np.ones((64, 64))).length == 0
    assert find_axis_runs(np.ones((64, 64)), angle=33).length == 0


def test_nothing_is_found_on_an_empty_mask():
    assert find_axis_runs(np.zeros((30, 30))).length == 0
    runs, rotated = measure_axis_lengths(np.zeros((30, 30)))
    assert (runs.length, rotated) == (0, 0.0)


@pytest.mark.parametrize("radius", [16, 32, 60])
def test_a_disk_has_no_excess(radius):
    assert excess([disk(radius)]) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize(("angle", "low", "high"), [(0, 1.4, 9), (90, 1.4, 9), (35, 0.5, 0.95)])
def test_a_cut_along_an_axis_has_an_excess_and_an_oblique_one_has_none(angle, low, high):
    masks = [disk(40, cut, angle) for cut in (0.0, 0.2, 0.4)]
    assert low <= excess(masks) <= high
