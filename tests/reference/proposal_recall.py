"""Recall of proposals, counted object by object."""

from .rcnn_svm import iou


def recall_at(images, least):
    """`images`: (proposals, objects) pairs of XYXY boxes."""
    found = count = 0
    for proposals, objects in images:
        for target in objects:
            count += 1
            found += any(iou(box, target) >= least for box in proposals)
    return 100 * found / count
