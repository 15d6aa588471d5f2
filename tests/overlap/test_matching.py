import numpy as np
import pytest

from mask_rcnn_ext.overlap import matching


@pytest.mark.parametrize("same_class", [False, True])
def test_overlaps_are_measured_in_parts(same_class, monkeypatch):
    """The IoUs of 20,000 objects with each other would take 3 GB."""
    shapes, box_iou = [], matching.box_iou
    monkeypatch.setattr(
        matching, "box_iou", lambda *boxes: shapes.append([*map(len, boxes)]) or box_iou(*boxes)
    )
    rng = np.random.default_rng(0)
    low = rng.random((20, 2)) * 30
    boxes = np.hstack([low, low + rng.random((20, 2)) * 20])
    classes, crowd = rng.integers(0, 2, 20), rng.random(20) < 0.2
    monkeypatch.setattr(matching, "_AT_ONCE", 8)
    overlap = matching.measure_overlap(boxes, classes, crowd, same_class=same_class)
    assert shapes == [[8, 20], [8, 20], [4, 20]]
    ious = box_iou(boxes, boxes)
    for i in range(20):
        others = [
            ious[i, j]
            for j in range(20)
            if j != i and not crowd[[i, j]].any() and (classes[i] == classes[j] or not same_class)
        ]
        assert overlap[i] == max(others, default=0)
    assert (overlap > 0).sum() > 5
