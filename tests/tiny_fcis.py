"""A small FCIS on the backbone of `conftest.SMALL`, for tests that need one: builds in 0.1 s."""

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from support import REPO, SMALL
from tiny_model import spread
from torch import nn

from mask_rcnn_ext import load_config
from mask_rcnn_ext.config import ExtCfgNode
from mask_rcnn_ext.modeling.precision import prepare_model

FCIS_CONFIG = str(REPO / "configs/shapes/fcis_tiny.yaml")
FCIS_SMALL = [*SMALL, "INPUT.MAX_SIZE_TEST", "96", "MODEL.FCIS.CONV_DIM", "16"]


def fcis_cfg(*overrides: str, num_classes: int = 3, amp: bool = False) -> ExtCfgNode:
    """Return the config of an FCIS on images of 64 pixels, 96 at most, in float32 unless `amp`."""
    fixed = ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.NUM_CLASSES", str(num_classes)]
    fixed += ["SOLVER.AMP.ENABLED", str(amp), "TEST.DETECTIONS_PER_IMAGE", "10"]
    return load_config(FCIS_CONFIG, [*FCIS_SMALL, *fixed, *overrides])


def fcis_model(cfg: ExtCfgNode, seed: int = 0) -> nn.Module:
    """Return a model with random weights whose scores, masks and deltas vary as trained ones do."""
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    heads = model.roi_heads
    for layer, deviation in ((heads.score_maps, 3.0), (heads.box_maps, 2.0)):
        spread(model, layer, deviation, image_of(64, 96))
    return prepare_model(cfg, model)


def image_of(height: int, width: int, *, seed: int = 0) -> dict:
    """Return a model's input: coarse noise, so that features differ from place to place."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, height // 8, width // 8), generator=generator)
    image = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0] * 255
    return {"image": image.to(torch.uint8), "height": height, "width": width}


class FixedProposals(nn.Module):
    """An RPN that proposes the same RoIs, of an image of 64 x 96, whatever it sees."""

    def __init__(self, boxes) -> None:
        super().__init__()
        self.boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)

    def forward(self, images, features, targets=None):
        size = images.image_sizes[0]
        assert size == (64, 96)
        return [Instances(size, proposal_boxes=Boxes(self.boxes.clone()))], {}
