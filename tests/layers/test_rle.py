"""Runs of RLE masks: pycocotools' own are read, and counts that would break it are refused."""

import numpy as np
import pytest
from pycocotools import mask as mask_util
from reference.overlap import rle

from mask_rcnn_ext.layers.rle import check_mask, check_size, compress, decode_runs, read_runs


@pytest.mark.parametrize("seed", range(5))
def test_runs_are_those_that_pycocotools_wrote(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((37, 53)) < rng.random() ** 3
    mask[:, 20:40] = False  # a long run, whose neighbours' differences are negative
    flat = mask.ravel(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    expected = [0, *runs] if flat[0] else runs
    compressed = rle(mask)
    for counts in (compressed["counts"], compressed["counts"].decode(), expected):
        assert read_runs(counts, mask.size).tolist() == expected
        packed = compress({"size": [37, 53], "counts": counts}, 37, 53)
        assert packed == compressed


def test_long_runs():
    runs = [24_000_000, 7, 999_993]
    large = mask_util.frPyObjects({"size": [5000, 5000], "counts": runs}, 1, 1)
    assert read_runs(large["counts"], 25_000_000).tolist() == runs


@pytest.mark.parametrize("seed", range(5))
def test_decoded_runs_are_the_box_of_what_pycocotools_decodes(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((37, 53), dtype=bool)
    top, left = rng.integers(0, (37, 53))
    window = mask[top : top + 15, left : left + 15]
    window[:] = rng.random(window.shape) < 0.8
    mask[:, 20:24] |= seed == 4  # runs go on at the top of the next column
    top, left, crop = decode_runs(read_runs(rle(mask)["counts"], mask.size), 37)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (top, left) == (rows[0], columns[0])
    np.testing.assert_array_equal(crop, mask[top : rows[-1] + 1, left : columns[-1] + 1])


def test_decoded_runs_take_no_image():
    """10^15 pixels; runs without pixels do not enlarge the box."""
    side = 1 << 25
    before = 7 * side + 9
    runs = np.array([5, 0, before - 5, 2, side - 2, 2, side * side - before - side - 2])
    top, left, crop = decode_runs(runs, side)
    assert (top, left) == (9, 7)
    assert (crop == np.ones((2, 2), dtype=bool)).all()
    for runs in ([12], [5, 0, 7]):
        assert decode_runs(np.array(runs), 3)[2].shape == (0, 0)
    assert decode_runs(np.array([0, 12]), 3)[2].sum() == 12


def test_polygons_are_joined():
    squares = [[0, 0, 4, 0, 4, 4, 0, 4], [6, 6, 8, 6, 8, 8, 6, 8]]
    assert mask_util.area(compress(squares, 10, 10)) == 16 + 4


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (None, "without counts"),
        ("", "without counts"),
        ("P", "wrong characters"),  # more should follow
        ("o" * 40, "wrong characters"),  # the same
        ("~~~", "wrong characters"),
        ("\ud800", "wrong characters"),
        ("0" * 9 + "é", "wrong characters"),
        ("oooooooo0", "wrong characters"),  # a number of 45 bits
        ("2", "add up"),
        ([], "add up"),
        ([5, -5, 100], "add up"),
        ([0.5, 99.5], "add up"),
        (["1", "2"], "add up"),
        ([[1], [2, 3]], "add up"),
        ([2**63 - 1, 2**63 - 1, 102], "add up"),  # their sum is 100 in 64 bits
        ([2**70], "add up"),
    ],
    ids=str,
)
def test_counts_that_do_not_fill_the_mask_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        read_runs(counts, 100)


def nest(depth: int):
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


FAR = 2147483648
LONG = [*[5, 5] * 3, *[-500, 500, 500, -500] * 400]  # 1600 sides
BROKEN = {
    "a vertex at the end of 32 bits": ([[5, 5, 20, 5, 20, -FAR, 5, 20]], "leads more than"),
    "a vertex beyond 32 bits": ([[5, 5, 20, 5, 20, 4 * FAR, 5, 20]], "leads more than"),
    "a vertex beyond floats": ([[5, 5, 20, 5, 20, 10**400, 5, 20]], "not made of numbers"),
    "a vertex 2000 pixels away": ([[5, 5, 20, 5, 20, 2000, 5, 20]], "leads more than"),
    "not a number": ([[5, 5, 20, 5, float("nan"), 20]], "leads more than"),
    "infinity": ([[5, 5, 20, 5, float("inf"), 20]], "leads more than"),
    "a long outline": ([LONG * 2], "outline of more than 1,000,000 pixels"),
    "texts": ([["5"] * 6], "not made of numbers"),
    "a good and a bad part": ([[5, 5, 20, 5, 20, 20], [1, 2, FAR, 4, 5, 6]], "leads more than"),
    "two points": ([[5, 5, 20, 5]], "three points or more"),
    "an odd number": ([[5, 5, 20, 5, 20, 20, 5]], "three points or more"),
    "a flat list": ([5, 5, 20, 5, 20, 20], "three points or more"),
    "nested points": ([nest(900)] * 6, "three points or more"),
    "nested deeper": ([[nest(900)] * 6], "not made of numbers"),
    "no polygon": ([], "neither polygons"),
    "a text": ("mask.png", "neither polygons"),
    "runs that wrap": ({"size": [64, 64], "counts": [FAR * FAR] * 4 + [4096]}, "add up"),
    "runs that wrap in 32 bits": ({"size": [64, 64], "counts": [2 * FAR, 4096]}, "add up"),
    "too few runs": ({"size": [64, 64], "counts": [0, 4]}, "add up"),
    "nested runs": ({"size": [64, 64], "counts": nest(900)}, "add up"),
    "another size": ({"size": [0, 64], "counts": [0]}, "RLE of size [0, 64], the image"),
    "a size of floats": ({"size": [64.0, 64.0], "counts": [0, 4096]}, "two whole numbers"),
    "a size of truth values": ({"size": [True, True], "counts": [0, 4096]}, "two whole numbers"),
    "a size of texts": ({"size": "64", "counts": [0, 4096]}, "two whole numbers"),
    "a size of three": ({"size": [64, 64, 1], "counts": [0, 4096]}, "two whole numbers"),
    "a nested size": ({"size": nest(900), "counts": [0, 4096]}, "two whole numbers"),
    "no size": ({"counts": [0, 4096]}, "two whole numbers"),
}


@pytest.mark.parametrize(("mask", "message"), BROKEN.values(), ids=BROKEN)
def test_a_mask_that_would_break_pycocotools_is_refused(mask, message):
    with pytest.raises(ValueError, match=r"(polygon|RLE|mask) (?s:.*)") as caught:
        check_mask(mask, 64, 64)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("size", [(0, 5), (-5, 5), (5.0, 5), (True, 5), ("5", 5), (None, None)])
def test_a_size_that_no_image_has_is_refused(size):
    with pytest.raises(ValueError, match="whole numbers of at least 1"):
        check_size(*size)


def test_a_size_that_no_memory_holds_is_refused():
    check_size(1 << 15, 1 << 15)
    with pytest.raises(ValueError, match="more than 1,073,741,824 pixels"):
        check_size(1 << 15, (1 << 15) + 1)


def test_what_images_hold_is_not_refused():
    """Parts outside the image are common where a large image was cut into tiles."""
    polygons = [[-600, 10, 700, 10, 5.5, 40], np.array([-1, -1, 65, -1, 65, 65.0])]
    check_mask(polygons, 64, 64)
    check_mask([LONG], 64, 64)
    assert mask_util.area(compress([polygons[0]], 64, 64)) > 0
    runs = {"size": [64, 64], "counts": [96, 4000]}
    check_mask(runs, 64, 64)
    check_mask(compress(runs, 64, 64), 64, 64)
