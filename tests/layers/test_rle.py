"""Runs of RLE masks: pycocotools' own are read, and counts that would break it are refused."""

import numpy as np
import pytest
from pycocotools import mask as mask_util
from reference.overlap import rle

from mask_rcnn_ext.layers.rle import compress, read_runs


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
