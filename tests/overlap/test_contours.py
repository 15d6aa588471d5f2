"""Contours of masks and the straight runs in them, against loops that try everything."""

import math

import numpy as np
import pytest
from overlap_cases import rectangle
from reference.overlap import cracks, half_plane, rle, straight

from mask_rcnn_ext.overlap.contours import (
    find_arcs,
    find_near_points,
    find_straight_runs,
    trace_contour,
)
from mask_rcnn_ext.overlap.crops import decode_crop, find_box_window

SIZE = 100


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


def test_arcs_go_around_the_beginning_of_a_loop():
    contour = trace_contour(decode_crop(rle(rectangle(10, 10, 14, 14))), SIZE, SIZE)
    chosen = np.ones(16, dtype=bool)
    chosen[[5, 9]] = False
    first, second = sorted(find_arcs(contour, chosen), key=len)
    assert first.tolist() == [6, 7, 8]
    assert second.tolist() == [10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4]
    (whole,) = find_arcs(contour, np.ones(16, dtype=bool))
    assert sorted(whole.tolist()) == list(range(16))


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


@pytest.mark.parametrize("seed", range(6))
def test_straight_runs_are_those_found_by_trying_all(seed):
    rng = np.random.default_rng(seed)
    # A random walk of unit cracks that likes to go on, without turning back.
    directions = [0]
    while len(directions) < 45:
        turn = rng.choice([0, 0, 0, 1, -1, 0, 0])
        directions.append(int((directions[-1] + turn) % 4))
    steps = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=float)[directions]
    points = np.cumsum(steps, axis=0) - steps / 2

    def longest(begin, end):
        best = (begin, begin, -1.0)
        for a in range(begin, end):
            for b in range(a, end):
                if not straight([tuple(p) for p in points[a : b + 1]]):
                    continue
                chord = points[b] - points[a]
                length = np.hypot(*chord)
                if length:
                    unit = chord / length
                    length += (abs(unit @ steps[a]) + abs(unit @ steps[b])) / 2
                else:
                    length = 1.0
                if length > best[2] + 1e-9:
                    best = (a, b, length)
        return best

    expected, pieces = [], [(0, len(points))]
    while pieces:
        begin, end = pieces.pop()
        if end <= begin:
            continue
        a, b, length = longest(begin, end)
        if length >= 4:
            expected.append((a, b + 1, length))
            pieces += [(begin, a), (b + 1, end)]
    runs = find_straight_runs(points, steps, 4.0)
    assert [(r.start, r.stop) for r in runs] == [e[:2] for e in sorted(expected)]
    assert [r.length for r in runs] == pytest.approx([e[2] for e in sorted(expected)])


def test_the_end_of_a_run_is_farther_from_its_beginning_than_all_between():
    """All four are within 1 px of the line from the first to the last; the third is beyond it."""
    points = np.array([[0, 0], [5, -0.9], [10, 0.95], [9, 0]])
    runs = find_straight_runs(points, np.tile([1.0, 0.0], (4, 1)), 4.0)
    assert [(run.start, run.stop) for run in runs] == [(1, 3)]


@pytest.mark.parametrize("degrees", [0, 7, 18, 30, 45, 60, 83, 120])
def test_a_digitised_line_at_any_angle_is_one_run(degrees):
    mask = half_plane(degrees)
    contour = trace_contour(decode_crop(rle(mask)), SIZE, SIZE)
    (arc,) = find_arcs(contour, ~contour.frame)
    (run,) = find_straight_runs(contour.points[arc], contour.steps[arc], 20.0)
    assert run.stop - run.start == len(arc)
    angle = math.radians(degrees)
    expected = SIZE / max(abs(math.sin(angle)), abs(math.cos(angle)))
    assert run.length == pytest.approx(expected, abs=1.5)


def test_a_window_holds_the_pixels_whose_centre_is_in_the_box():
    rows, columns = find_box_window(np.array([1.5, 2.6, 4.5, 6.4]), 10, 10)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (3, 6, 1, 4)
    rows, columns = find_box_window(np.array([-5.0, 8.0, 50.0, 80.0]), 10, 10)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (8, 10, 0, 10)
