"""The keypoint branch of the configs is the paper's (section 5): a one-hot m x m softmax."""

import math

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_keypoint_head
from detectron2.structures import Boxes, Instances, Keypoints
from detectron2.utils.events import EventStorage

from mask_rcnn_ext import model_zoo

M, K = 56, 17  # section 5: 56 x 56 output; the keypoints of a person in COCO
BOXES = [[4.0, 7.0, 90.0, 100.0], [30.0, 20.0, 45.5, 112.0]]
CONFIGS = [
    "keypoint_rcnn_R50_FPN", "keypoint_mask_rcnn_R50_FPN", "keypoint_rcnn_X101_FPN"
]  # fmt: skip


def build(name, channels=256):
    cfg = model_zoo.get_config(f"keypoints/{name}")
    torch.manual_seed(2)
    side = cfg.MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION
    return build_keypoint_head(cfg, ShapeSpec(channels=channels, height=side, width=side))


def persons(seed=0):
    """Return two boxes with keypoints inside, outside and on the far edge; some not labelled."""
    rng = np.random.default_rng(seed)
    points = np.zeros((2, K, 3), np.float32)
    for box, row in zip(BOXES, points, strict=True):
        size = np.array([box[2] - box[0], box[3] - box[1]])
        row[:, :2] = np.array(box[:2]) + rng.uniform(-0.2, 1.2, (K, 2)) * size
        row[:, 2] = rng.integers(0, 3, K)
    points[0, 0] = (*BOXES[0][2:], 2)  # the corner belongs to the last cell
    instances = Instances((120, 140))
    instances.proposal_boxes = Boxes(torch.tensor(BOXES))
    instances.gt_boxes = Boxes(torch.tensor(BOXES))
    instances.gt_classes = torch.zeros(2, dtype=torch.int64)
    instances.gt_keypoints = Keypoints(torch.from_numpy(points))
    return instances, points


def one_hot_loss(logits, points):
    """Return the mean cross entropy over visible keypoints of a softmax over all m * m cells."""
    total, visible = 0.0, 0
    for row, (x0, y0, x1, y1) in enumerate(BOXES):
        for k, (x, y, flag) in enumerate(points[row].astype(float)):
            if not (flag > 0 and x0 <= x <= x1 and y0 <= y <= y1):
                continue
            column = min(math.floor((x - x0) * M / (x1 - x0)), M - 1)
            line = min(math.floor((y - y0) * M / (y1 - y0)), M - 1)
            cells = logits[row, k].double()
            one_hot = torch.zeros(M, M, dtype=torch.float64)
            one_hot[line, column] = 1
            total -= float((one_hot * (cells - cells.logsumexp((0, 1)))).sum())
            visible += 1
    assert 0 < visible < 2 * K
    return total / visible


@pytest.mark.parametrize("name", CONFIGS)
def test_the_loss_is_a_one_hot_softmax_over_the_map(name):
    head = build(name).train()
    instances, points = persons()
    features = torch.randn(2, 256, 14, 14)
    logits = head.layers(features)
    assert logits.shape == (2, K, M, M)
    logits = 50 * logits.detach()  # an untrained head is nearly uniform
    head.layers = lambda _: logits
    with EventStorage():
        losses = head(features, [instances])
    expected = one_hot_loss(logits, points)
    assert losses["loss_keypoint"].item() == pytest.approx(expected, rel=1e-5)


def test_eight_convolutions_of_512_and_the_deconvolution():
    head = build("keypoint_rcnn_R50_FPN")
    convs = [m for m in head.modules() if type(m).__name__ == "Conv2d"]
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in convs] == [
        (256 if i == 0 else 512, 512, (3, 3)) for i in range(8)
    ]
    assert head.score_lowres.weight.shape == (512, K, 4, 4)  # then bilinear to 56


def test_no_visible_keypoint_is_a_zero_loss_with_a_gradient():
    head = build("keypoint_rcnn_R50_FPN").train()
    instances, points = persons()
    instances.gt_keypoints = Keypoints(torch.from_numpy(points * np.float32([1, 1, 0])))
    with EventStorage():
        loss = head(torch.randn(2, 256, 14, 14), [instances])["loss_keypoint"]
    loss.backward()
    assert loss.item() == 0
    assert head.score_lowres.weight.grad is not None
