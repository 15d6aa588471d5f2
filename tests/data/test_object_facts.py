"""Objects of an image that are compared with each other, a few at a time."""

import numpy as np
import pytest
from torch import as_tensor
from torchvision.ops import box_iou

from mask_rcnn_ext.data import object_facts


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 1000])
def test_boxes_are_compared_with_all_others(monkeypatch, rows):
    """Also with those of earlier and later parts; a box without sides overlaps nothing."""
    monkeypatch.setattr(object_facts, "_ROWS", rows)
    corners = np.array(
        [[0, 0, 9, 9], [0, 0, 9, 9.5], [5, 5, 14, 14], [30, 30, 30, 30], [0, 0, 9, 9],
         [40, 40, 50, 50], [40, 40, 50, 49], [30, 30, 30, 30], [60, 0, 64, 4]]
    ).astype(float)  # fmt: skip
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    largest, alike = object_facts._compare_boxes(boxes)
    ious = box_iou(as_tensor(corners), as_tensor(corners)).nan_to_num().numpy()
    np.fill_diagonal(ious, 0)
    assert largest == pytest.approx(ious.max(axis=1))
    assert [pair[:2] for pair in alike] == [(0, 1), (0, 4), (1, 4), (5, 6)]
    assert [pair[2] for pair in alike] == pytest.approx([9 / 9.5, 1, 9 / 9.5, 0.9])
