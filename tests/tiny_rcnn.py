"""A small R-CNN, and one image as its input."""

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from support import REPO
from torch import nn

from mask_rcnn_ext import load_config

LINEAGE = REPO / "configs/shapes/lineage"


SMALL = [
    "MODEL.DEVICE", "cpu", "MASK_RCNN_EXT.TINY_RESNET.STEM_CHANNELS", "4",
    "MASK_RCNN_EXT.TINY_RESNET.CHANNELS", "[4,8,16,32]",
    "MASK_RCNN_EXT.TINY_RESNET.BLOCKS", "[1,1,1,1]",
    "MODEL.ROI_BOX_HEAD.CONV_DIM", "8", "MODEL.ROI_BOX_HEAD.FC_DIM", "16",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.RCNN.CROP_SIZE", "32",
]  # fmt: skip


def small_cfg(*overrides: str, name: str = "rcnn_tiny"):
    return load_config(str(LINEAGE / f"{name}.yaml"), [*SMALL, *overrides])


def small_model(*overrides: str, name: str = "rcnn_tiny", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = build_model(small_cfg(*overrides, name=name))
    for parameter in model.roi_heads.box_predictor.parameters():
        nn.init.normal_(parameter, std=0.3)  # detectron2's are near zero: all boxes would be alike
    return model


def record(boxes, *, size=(64, 96), seed=0, targets=((8, 8, 40, 40),)) -> dict:
    """Return a model's input: noise, proposals `boxes`, objects of class 1."""
    generator = torch.Generator().manual_seed(seed)
    proposals, objects = Instances(size), Instances(size)
    proposals.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    proposals.objectness_logits = -torch.arange(len(boxes), dtype=torch.float32)
    objects.gt_boxes = Boxes(torch.tensor(targets, dtype=torch.float32).reshape(-1, 4))
    objects.gt_classes = torch.ones(len(targets), dtype=torch.int64)
    image = torch.rand(3, *size, generator=generator) * 255
    return {
        "image": image, "height": size[0], "width": size[1],
        "proposals": proposals, "instances": objects,
    }  # fmt: skip
