"""What R-CNN's second stage makes of a proposal, one by one, from the paper (2.3, appendix C)."""

from math import log

import numpy as np


def iou(a, b) -> float:
    """Return the IoU of two boxes (x1, y1, x2, y2)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def role_loop(proposal, objects, classes, label) -> tuple[str, int]:
    """Return "negative" or "ignored", and the object to regress the proposal to, or -1."""
    role, best, target = "negative", 0.6, -1
    for index, (box, own) in enumerate(zip(objects, classes, strict=True)):
        if own != label:
            continue
        overlap = iou(proposal, box)
        if overlap >= 0.3:
            role = "ignored"
        if overlap > best:
            best, target = overlap, index
    return role, target


def target_loop(proposal, box) -> tuple[float, float, float, float]:
    """Return t of appendix C, equations (6) to (9)."""
    px, py = (proposal[0] + proposal[2]) / 2, (proposal[1] + proposal[3]) / 2
    pw, ph = proposal[2] - proposal[0], proposal[3] - proposal[1]
    gx, gy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    gw, gh = box[2] - box[0], box[3] - box[1]
    return (gx - px) / pw, (gy - py) / ph, log(gw / pw), log(gh / ph)


def svm_dual(positives, negatives, *, c, positive_weight, bias_feature):
    """Return weights and bias of the SVM with hinge loss, by projected gradient on its dual.

    min over a of |sum_i a_i y_i (x_i, bias_feature)|^2 / 2 - sum_i a_i, with 0 <= a_i <= c_i, where
    c_i is `c`, times `positive_weight` for a positive.
    """
    rows = np.concatenate([positives, -negatives]).astype(float)
    ones = np.repeat([1.0, -1.0], [len(positives), len(negatives)])
    rows = np.column_stack([rows, bias_feature * ones])  # each with its sign
    highest = np.where(ones > 0, positive_weight * c, c)
    product = rows @ rows.T
    step, a = 1 / np.linalg.eigvalsh(product)[-1], np.zeros(len(rows))
    for _ in range(20000):
        a = np.clip(a + step * (1 - product @ a), 0, highest)
    weights = a @ rows
    return weights[:-1], weights[-1] * bias_feature
