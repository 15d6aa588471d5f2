"""Outlines with holes: their pixels, their validity, and cases with known corners."""

import numpy as np
import pytest
from pycocotools import mask as mask_util

from mask_rcnn_ext.layers.polygons import measure_ring, trace_coco_polygons, trace_polygons

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def random_mask(seed):
    """Blobs with holes, many parts, and pixels that touch at corners."""
    rng = np.random.default_rng(seed)
    return rng.random(rng.integers(1, 25, 2)) < rng.choice([0.2, 0.5, 0.8])


def test_a_ring_and_a_pixel_that_touches_it_at_a_corner():
    mask = np.zeros((4, 4), dtype=bool)
    mask[:3, :3], mask[1, 1], mask[3, 3] = True, False, True
    ring, pixel = trace_polygons(mask)
    assert [measure_ring(loop) for loop in ring] == [9, -1]
    assert {tuple(corner) for corner in ring[1].tolist()} == {(1, 1), (2, 1), (2, 2), (1, 2)}
    assert [loop.tolist() for loop in pixel] == [[[3, 3], [4, 3], [4, 4], [3, 4]]]
    assert trace_polygons(mask[:0]) == trace_polygons(np.zeros((3, 3), dtype=bool)) == []


def test_a_part_whose_outline_meets_itself_has_the_enclosed_pixel_as_a_hole():
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=bool)
    ((outer, hole),) = trace_polygons(mask)
    assert (measure_ring(outer), measure_ring(hole)) == (8, -1)
    assert len(outer) == 6


@pytest.mark.parametrize("seed", range(40))
def test_every_pixel_comes_back_and_every_polygon_is_valid(seed):
    geometry = pytest.importorskip("shapely.geometry")
    mask = random_mask(seed)
    parts = trace_polygons(mask)
    shapes = [
        geometry.Polygon(part[0].tolist(), [hole.tolist() for hole in part[1:]]) for part in parts
    ]
    assert all(shape.is_valid for shape in shapes)
    whole = geometry.MultiPolygon(shapes)
    assert whole.is_valid
    assert whole.area == mask.sum()
    for part in parts:
        assert [measure_ring(ring) > 0 for ring in part] == [True] + [False] * (len(part) - 1)
    top, left, height, width = 3, 5, mask.shape[0] + 4, mask.shape[1] + 9
    polygons = trace_coco_polygons(mask, top, left)
    drawn = np.zeros((height, width), dtype=bool)
    if polygons:
        rle = mask_util.merge(mask_util.frPyObjects(polygons, height, width))
        drawn = mask_util.decode(rle).astype(bool)
    expected = np.zeros_like(drawn)
    expected[top : top + mask.shape[0], left : left + mask.shape[1]] = mask
    assert (drawn == expected).all()
