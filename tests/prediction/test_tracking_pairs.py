"""The tracker compares only masks that can overlap enough, and finds the same pairs as a loop."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from mask_rcnn_ext.layers.packed_masks import MaskCrop, PackedMasks
from mask_rcnn_ext.prediction import tracking
from mask_rcnn_ext.prediction.tracking import Tracker

SIZE = (90, 120)


def make_instances(masks, boxes, labels) -> Instances:
    found = Instances(SIZE)
    found.pred_boxes = Boxes(torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 4))
    found.scores, found.pred_classes = torch.ones(len(labels)), torch.tensor(labels).long()
    found.pred_masks = PackedMasks.pack(np.array(masks, dtype=bool).reshape(-1, *SIZE))
    return found


def make_squares(places, side=6) -> Instances:
    masks = np.zeros((len(places), *SIZE), dtype=bool)
    for mask, (x, y) in zip(masks, places, strict=True):
        mask[y : y + side, x : x + side] = True
    return make_instances(masks, [[x, y, x + side, y + side] for x, y in places], [0] * len(masks))


def make_noise(rng: np.random.Generator) -> Instances:
    """Return random objects of two classes; some are equal, some have an empty mask."""
    masks, boxes = np.zeros((30, *SIZE), dtype=bool), []
    for mask in masks:
        x, y, width, height = rng.integers(4, 20, 4) * (4, 3, 1, 1)
        mask[y : y + height, x : x + width] = rng.random() < 0.9
        mask &= rng.random(SIZE) < rng.choice([0.5, 1])
        boxes.append(np.array([x, y, x + width, y + height]) + rng.choice([0, 0.3]))
    masks[-3:], boxes[-3:] = masks[:3], boxes[:3]
    return make_instances(masks, boxes, rng.integers(0, 2, len(masks)))


def compare_literally(masks: np.ndarray, others: np.ndarray, boxes, other_boxes) -> tuple:
    """Return the IoU of masks and the nearness of boxes of each pair, whatever the class."""
    ious, nearness = np.zeros((2, len(masks), len(others)))
    for row, column in np.ndindex(ious.shape):
        one, other = masks[row], others[column]
        ious[row, column] = (one & other).sum() / max(1, (one | other).sum())
        corners = []
        for x0, y0, x1, y1 in (boxes[row], other_boxes[column]):
            half = (x1 - x0) / 2, (y1 - y0) / 2
            corners.append((x0 - half[0], y0 - half[1], x1 + half[0], y1 + half[1]))
        (a0, b0, a1, b1), (c0, d0, c1, d1) = corners
        common = max(0, min(a1, c1) - max(a0, c0)) * max(0, min(b1, d1) - max(b0, d0))
        areas = (a1 - a0) * (b1 - b0), (c1 - c0) * (d1 - d0)
        iou = common / (sum(areas) - common)
        nearness[row, column] = max(iou, 0.3 * common / min(areas))
    return ious, nearness


@pytest.mark.parametrize("at_once", [1, 50, 1 << 18])
@pytest.mark.parametrize("seed", range(4))
def test_the_assignment_gets_the_gains_of_a_loop_over_all_pairs(seed, at_once, monkeypatch):
    monkeypatch.setattr(tracking, "_PAIRS_AT_ONCE", at_once)
    solve, costs = tracking.linear_sum_assignment, []

    def record(matrix):
        costs.append(matrix.copy())
        return solve(matrix)

    monkeypatch.setattr(tracking, "linear_sum_assignment", record)
    rng, tracker = np.random.default_rng(seed), Tracker()
    first, second = make_noise(rng), make_noise(rng)
    ids = tracker.update(first)
    costs.clear()
    new_ids = tracker.update(second)
    boxes = [found.pred_boxes.tensor.numpy().astype(float) for found in (first, second)]
    masks = [found.pred_masks.unpack().numpy() for found in (first, second)]
    ious, nearness = compare_literally(*masks, *boxes)
    same = first.pred_classes.numpy()[:, None] == second.pred_classes.numpy()
    np.testing.assert_array_equal(-costs[0], np.where(same & (ious >= 0.3), ious, 0))
    # In the second round, only the tracks and the objects that the first has not paired.
    rows, columns = solve(costs[0])
    paired = costs[0][rows, columns] < 0
    assert paired.any()
    for row, column in zip(rows[paired], columns[paired], strict=True):
        assert new_ids[column] == ids[row]
    gains = np.where(same & (nearness >= 0.1), nearness, 0)
    gains = np.delete(np.delete(gains, rows[paired], axis=0), columns[paired], axis=1)
    assert gains.any()
    np.testing.assert_allclose(-costs[1], gains, rtol=1e-12)


def test_masks_that_cannot_be_one_object_are_not_compared(monkeypatch):
    """Squares of 6 x 6 pixels, 8 pixels apart, move by 3: each is compared with itself only.

    It then shares 3 x 6 pixels with itself, an IoU of 18 / 54. The next square would be at 8, and
    shares at most 1 x 6 pixels, an IoU of 6 / 66, which is too little.
    """
    places = [(8 * column, 20) for column in range(12)]
    tracker, compared, count_common = Tracker(), [], MaskCrop.count_common

    def count(one, other):
        compared.append((one.left, other.left))
        return count_common(one, other)

    monkeypatch.setattr(MaskCrop, "count_common", count)
    assert tracker.update(make_squares(places)) == list(range(1, 13))
    assert compared == []
    moved = [(x + 3, y) for x, y in places]
    assert tracker.update(make_squares(moved)) == list(range(1, 13))
    assert compared == [(x, x + 3) for x, _ in places]


def test_a_mask_outside_the_box_still_finds_its_object():
    """The windows of masks count in the first round, not the boxes of the model."""
    square = make_squares([(10, 10)])
    tracker = Tracker()
    assert tracker.update(square) == [1]
    elsewhere = make_instances(square.pred_masks.unpack().numpy(), [[90, 60, 96, 66]], [0])
    assert tracker.update(elsewhere) == [1]
