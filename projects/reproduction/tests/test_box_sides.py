"""Contour on the box sides of voters: a voter that ends at its box, and one that does not."""

import numpy as np
import pytest
import torch
from reproduction.fcis.box_sides import SideLengths, find_box_ends, measure_box_sides

from mask_rcnn_ext.layers.mask_crops import MaskCrop
from mask_rcnn_ext.modeling.fcis.voting import render_mask, vote_masks
from mask_rcnn_ext.overlap.contours import trace_contour

SIZE = (60, 60)


def rectangle(x1, y1, x2, y2):
    """Return a mask that fills its box."""
    return MaskCrop(y1, x1, np.ones((y2 - y1, x2 - x1), dtype=bool))


def measure(mask, voters, truth):
    ends = [find_box_ends(voter, *SIZE) for voter in voters]
    return measure_box_sides(mask, ends, trace_contour(truth, *SIZE).points, *SIZE)


def test_a_mask_that_reaches_one_side_ends_there():
    half = np.zeros((20, 20), dtype=bool)
    half[5:15, 8:] = True
    ends = find_box_ends(MaskCrop(10, 30, half), *SIZE)
    assert sorted(ends.vertical.tolist()) == [[50, 15.5 + i] for i in range(10)]
    assert len(ends.horizontal) == 0


def test_the_frame_of_the_image_is_no_end():
    ends = find_box_ends(rectangle(40, 0, 60, 10), *SIZE)
    assert sorted(set(ends.vertical[:, 0])) == [40]
    assert sorted(set(ends.horizontal[:, 1])) == [10]


@pytest.mark.parametrize(("x", "on_sides"), [(29, 20), (30, 20), (31, 20), (32, 0)])
def test_contour_counts_within_a_pixel_of_a_side(x, on_sides):
    """The mask's right side is at x; the only voter with an end is at 30, 20 px long."""
    voter = MaskCrop(10, 20, np.pad(np.ones((20, 9), dtype=bool), ((1, 1), (1, 0))))
    mask = rectangle(12, 11, x, 31)
    assert measure(mask, [voter], rectangle(12, 11, 50, 31)).on_sides == on_sides


def test_a_side_across_the_contour_does_not_count():
    voter = MaskCrop(10, 20, np.pad(np.ones((20, 9), dtype=bool), ((1, 1), (1, 0))))
    mask = rectangle(20, 15, 50, 16)  # crosses the voter's right side at x = 30
    assert measure(mask, [voter], mask).on_sides == 0


def test_the_vote_ends_where_a_voter_ends_at_its_box():
    """The object is 40 px wide. Two of three boxes end at its middle, where the vote ends, too."""
    boxes = torch.tensor([[5.0, 10, 45, 30], [5, 10, 25, 30], [5, 10, 25, 30]])
    probs = torch.tensor([[0.9], [0.8], [0.8]])
    masks = torch.ones(3, 7, 7)
    voted = vote_masks(
        *(boxes, probs, masks, (torch.tensor([0]), torch.tensor([0]))),
        image_size=SIZE,
        mask_threshold=0.4,
        iou_threshold=0.5,
    )
    mask = MaskCrop(0, 0, voted.pred_masks[0].numpy())
    assert voted.pred_boxes.tensor.tolist() == [[5, 10, 25, 30]]
    crops = [render_mask(masks[i], boxes[i], *SIZE, 0.4) for i in range(3)]
    voters = [MaskCrop(crop.top, crop.left, crop.mask.numpy()) for crop in crops]
    truth = rectangle(5, 10, 45, 30)
    # All 4 x 20 px lie on sides. 16 px of the line at x = 25 are farther than 2 px from the object.
    expected = SideLengths(length=80, on_sides=80, wrong=16, wrong_on_sides=16)
    assert measure(mask, voters, truth) == expected
    before = measure(MaskCrop(0, 0, voters[0].cut(slice(0, 60), slice(0, 60))), voters, truth)
    assert (before.length, before.wrong) == (120, 0), "the mask of its own RoI is right"


def test_nothing_to_measure():
    empty = MaskCrop(0, 0, np.zeros((0, 0), dtype=bool))
    assert measure(empty, [], rectangle(1, 1, 5, 5)) == SideLengths()
