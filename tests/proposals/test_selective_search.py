"""Selective search of one image, and the recall of proposals."""

import compute_proposals  # tools/ is on the path
import cv2
import numpy as np
import predict
import pytest
from reference.proposal_recall import recall_at
from support import needs_search, write_coco

from mask_rcnn_ext.proposals.recall import measure_recall
from mask_rcnn_ext.proposals.selective_search import MODES, selective_search


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    _, folder = write_coco(tmp_path_factory.mktemp("data"), images=1)
    return cv2.imread(str(folder / "000.png"))


@needs_search
def test_the_order_is_the_images_own(image):
    first, again = (selective_search(image, image_id=7) for _ in range(2))
    assert np.array_equal(first, again)
    other = selective_search(image, image_id=7, seed=1)
    assert not np.array_equal(first, other)
    assert np.array_equal(np.unique(first, axis=0), np.unique(other, axis=0))
    assert np.array_equal(selective_search(image, image_id=7, topk=3), first[:3])


@needs_search
def test_an_enlarged_image_gives_boxes_of_the_original(image):
    large = cv2.resize(image, (128, 96))
    boxes = selective_search(image, width=128, min_size=20)
    assert np.array_equal(boxes, selective_search(large, min_size=20) / 2)
    assert (boxes[:, 2:] - boxes[:, :2] >= 10).all()  # pixels of the searched image


def test_recall_against_the_loop():
    rng = np.random.default_rng(0)

    def boxes(count):
        corner = rng.uniform(0, 40, (count, 2))
        return np.hstack([corner, corner + rng.uniform(5, 30, (count, 2))])

    images = [(boxes(n), boxes(g)) for n, g in ((30, 4), (0, 2), (20, 0), (50, 5))]
    recall = measure_recall(images)
    assert recall["recall_50"] == pytest.approx(recall_at(images, 0.5))
    assert recall["recall_70"] == pytest.approx(recall_at(images, 0.7))
    every = [recall_at(images, least) for least in np.arange(0.5, 0.96, 0.05)]
    assert recall["AR"] == pytest.approx(np.mean(every))
    assert 0 < recall["AR"] < recall["recall_50"] < 100
    assert recall["objects"] == 11


def test_recall_of_one_object():
    target = np.array([[0.0, 0, 10, 10]])
    half = measure_recall([(np.array([[0.0, 0, 10, 5]]), target)])
    assert (half["recall_50"], half["recall_70"], half["AR"]) == (100, 0, 10)
    assert np.isnan(measure_recall([(target, np.zeros((0, 4)))])["AR"])


def test_the_tools_offer_the_modes():
    """They name them without importing the package, which would make `--help` slow."""
    assert predict.MODES == compute_proposals.MODES == tuple(MODES)
