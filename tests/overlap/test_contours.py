"""Contours of masks, against loops that try everything."""

import numpy as np
import pytest
from reference.overlap import cracks, rle

from mask_rcnn_ext.overlap.contours import find_near_points, trace_contour
from mask_rcnn_ext.overlap.crops import decode_crop, find_box_window


@pytest.mark.parametrize("seed", range(8))
def test_contours_are_closed_loops_around_every_edge(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((13, 17)) < (0.2 + 0.1 * seed)
    contour = trace_contour(decode_crop(rle(mask)), 13, 17)
    inner = contour.points[~contour.frame]
    assert {tuple(p) for p in inner} == cracks(mask)
    assert len(inner) == len(cracks(mask))
    # Consecutive cracks share a vertex, and so do the last and the first of a loop.
    for begin, end in zip(contour.loops[:-1], contour.loops[1:], strict=True):
        ends = contour.points[begin:end] + contour.steps[begin:end] / 2
        starts = contour.points[begin:end] - contour.steps[begin:end] / 2
        np.testing.assert_array_equal(ends, np.roll(starts, -1, axis=0))


def test_pixels_that_touch_at_a_corner_are_one_loop():
    mask = np.zeros((5, 5), dtype=bool)
    mask[1, 1] = mask[2, 2] = True
    diagonal = trace_contour(decode_crop(rle(mask)), 5, 5)
    assert len(diagonal.loops) == 2  # one loop: where it begins and ends
    ring = np.ones((3, 3), dtype=bool)
    ring[1, 1] = False
    contour = trace_contour(decode_crop(rle(np.pad(ring, 1))), 5, 5)
    assert len(contour.loops) == 3  # the hole is another loop


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.7])
def test_near_is_the_distance_to_every_target(radius):
    rng = np.random.default_rng(5)
    points, targets = rng.integers(0, 80, (300, 2)) / 2, rng.integers(0, 80, (40, 2)) / 2
    distances = np.hypot(*(points[:, None] - targets[None]).transpose(2, 0, 1))
    np.testing.assert_array_equal(
        find_near_points(points, targets, radius), (distances <= radius).any(axis=1)
    )
    assert not find_near_points(points, targets[:0], radius).any()
    assert find_near_points(points[:0], targets, radius).shape == (0,)


def test_a_window_holds_the_pixels_whose_centre_is_in_the_box():
    rows, columns = find_box_window(np.array([1.5, 2.6, 4.5, 6.4]), 10, 10)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (3, 6, 1, 4)
    rows, columns = find_box_window(np.array([-5.0, 8.0, 50.0, 80.0]), 10, 10)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (8, 10, 0, 10)
