"""Configs, features and ground truth for the tests of the mask heads."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import build_mask_head
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_model import tiny_cfg

HEADS = ("MaskRCNNFCNHead", "MaskRCNNMLPHead")
CLASSES = 3
every_head = pytest.mark.parametrize("name", HEADS)
every_loss = pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
agnostic_or_not = pytest.mark.parametrize("agnostic", [False, True], ids=["specific", "agnostic"])


def head_cfg(name="MaskRCNNFCNHead", *, loss="sigmoid", agnostic=False, resolution=0, num_conv=1):
    cfg = tiny_cfg(CLASSES)
    mask_head = cfg.MODEL.ROI_MASK_HEAD
    mask_head.NAME, mask_head.LOSS, mask_head.OUTPUT_RESOLUTION = name, loss, resolution
    mask_head.CLS_AGNOSTIC_MASK, mask_head.NUM_CONV, mask_head.CONV_DIM = agnostic, num_conv, 8
    mask_head.NUM_FC, mask_head.FC_DIM = 2, 16
    return cfg


def build(cfg, side=14, channels=6, seed=3):
    torch.manual_seed(seed)
    return build_mask_head(cfg, ShapeSpec(channels=channels, height=side, width=side))


def features(count, side=14, channels=6):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(5))


def ellipses(boxes, size=(120, 140)):
    """Return bit masks of an ellipse inside each XYXY box, cut by a diagonal."""
    ys, xs = (torch.arange(n)[:, None] + 0.5 for n in size)
    masks = []
    for x0, y0, x1, y1 in boxes:
        v, u = (ys - (y0 + y1) / 2) / (y1 - y0) * 2, ((xs - (x0 + x1) / 2) / (x1 - x0) * 2).T
        masks.append((u**2 + v**2 < 1) & (u < 0.5 + v))
    return torch.stack(masks)


BOXES = [[4.0, 7.0, 90.0, 100.0], [30.0, 20.0, 110.0, 112.0], [60.5, 5.25, 135.0, 80.5]]


def training_image(rows=slice(None)):
    instances = Instances((120, 140))
    instances.proposal_boxes = Boxes(torch.tensor(BOXES))
    instances.gt_classes = torch.tensor([2, 0, 1])
    instances.gt_masks = BitMasks(ellipses(BOXES))
    return instances[rows]


def detected_image(rows=slice(None)):
    instances = Instances((120, 140))
    instances.pred_boxes = Boxes(torch.tensor(BOXES))
    instances.pred_classes = torch.tensor([2, 0, 1])
    instances.scores = torch.tensor([0.9, 0.8, 0.7])
    return instances[rows]


def loss_of(head, x, images):
    head.train()
    with EventStorage():
        losses = head(x, images)
    assert list(losses) == ["loss_mask"]
    return losses["loss_mask"]


def masks_of(head, x, images):
    head.eval()
    with torch.no_grad():
        return [image.pred_masks for image in head(x, images)]
