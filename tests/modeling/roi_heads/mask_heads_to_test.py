"""Small mask heads, and the inputs of their tests."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import build_mask_head
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
