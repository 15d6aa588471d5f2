"""Outlines of masks, drawn again by pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mask_rcnn_ext.layers import cracks
from mask_rcnn_ext.layers.cracks import join_loops, trace_loops

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def draw(polygon, height, width):
    rle = mask_util.frPyObjects([np.asarray(polygon, dtype=float).ravel().tolist()], height, width)
    return mask_util.decode(rle)[..., 0].astype(bool)


def random_mask(seed):
    """Return blobs with holes, several parts and pixels that touch at corners."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    grain = rng.random((height, width))
    if seed % 2:  # larger patches
        grain = np.repeat(np.repeat(grain, 3, axis=0), 3, axis=1)
    mask = grain < rng.choice([0.1, 0.5, 0.9])
    mask[0, 0] |= not mask.any()
    return mask


def test_a_ring_has_two_loops_with_their_corners():
    mask = np.ones((3, 4), dtype=bool)
    mask[1, 1:3] = False
    outer, hole = sorted(trace_loops(mask), key=lambda loop: loop.min())
    assert {tuple(p) for p in outer} == {(0, 0), (4, 0), (4, 3), (0, 3)}
    assert {tuple(p) for p in hole} == {(1, 1), (3, 1), (3, 2), (1, 2)}
    assert len(outer) == len(hole) == 4


@pytest.mark.parametrize("seed", range(60))
def test_one_polygon_gives_back_every_pixel(seed):
    mask = random_mask(seed)
    polygon = join_loops(trace_loops(mask))
    np.testing.assert_array_equal(draw(polygon, *mask.shape), mask)


def test_thousands_of_holes_need_few_trees(monkeypatch):
    """Each corner is put into a tree some times, not once for each later hole."""
    mask = np.ones((202, 202), dtype=bool)
    mask[1:-1:5, 1:-1:5] = False
    loops = trace_loops(mask)
    num_corners, sizes = sum(map(len, loops)), []
    tree = cracks.cKDTree
    monkeypatch.setattr(cracks, "cKDTree", lambda points: sizes.append(len(points)) or tree(points))
    outline = join_loops(loops)
    assert len(loops) == 1601
    assert len(outline) == num_corners + 2 * 1600
    assert sum(sizes) < 15 * num_corners
    np.testing.assert_array_equal(draw(outline, *mask.shape), mask)


def test_lines_lead_to_the_nearest_corner():
    """Two holes hang at the same corner, and a third one at the second."""
    squares = [np.array([[0, 0], [s, 0], [s, s], [0, s]], dtype=float) for s in (20, 1, 1, 1)]
    places = [(0, 0), (0, 4), (4, 0), (7, 1)]
    loops = [square + place for square, place in zip(squares, places, strict=True)]
    outline = join_loops(loops).tolist()
    lines = [(outline[i], outline[i + 1]) for i in range(len(outline) - 1)]
    for line in ([0, 0], [0, 4]), ([0, 0], [4, 0]), ([5, 1], [7, 1]):
        assert line in lines
        assert line[::-1] in lines
    assert len(outline) == 4 * 4 + 2 * 3


def test_no_pixel_gives_no_loop():
    assert trace_loops(np.zeros((4, 5), dtype=bool)) == []
