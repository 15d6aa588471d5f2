"""A small Mask R-CNN of detectron2's parts, for tests that need some model: builds in 0.1 s."""

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image
from torch import nn

from mask_rcnn_ext.config import get_cfg


def tiny_cfg(num_classes: int = 3) -> CfgNode:
    """Return the config of a ResNet-18-FPN Mask R-CNN with narrow heads on 64-pixel images."""
    cfg = get_cfg()
    model = cfg.MODEL
    model.DEVICE, model.WEIGHTS, model.MASK_ON = "cpu", "", True
    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model.RESNETS.DEPTH, model.RESNETS.RES2_OUT_CHANNELS = 18, 64
    model.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    model.FPN.IN_FEATURES, model.FPN.OUT_CHANNELS = ["res2", "res3", "res4", "res5"], 16
    model.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [128], [256]]
    model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    model.RPN.PRE_NMS_TOPK_TEST, model.RPN.POST_NMS_TOPK_TEST = 100, 30
    model.ROI_HEADS.NAME, model.ROI_HEADS.NUM_CLASSES = "StandardROIHeads", num_classes
    model.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    model.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    model.ROI_BOX_HEAD.NUM_FC, model.ROI_BOX_HEAD.FC_DIM = 1, 32
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    model.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    model.ROI_MASK_HEAD.NUM_CONV, model.ROI_MASK_HEAD.CONV_DIM = 1, 16
    model.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 64, 96
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    return cfg


def tiny_model(num_classes: int = 3, seed: int = 0) -> nn.Module:
    """Return the model of `tiny_cfg` with random weights of `seed`, so that it finds something."""
    torch.manual_seed(seed)
    model = build_model(tiny_cfg(num_classes))
    # detectron2 starts these layers near zero, where all scores and all mask pixels are alike; here
    # scores spread over (0, 1).
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.01)
    nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.5)
    return model


def spread(model: nn.Module, layer: nn.Module, deviation: float, image: dict) -> None:
    """Scale and shift a layer's outputs to mean 0 and a given deviation per channel."""
    seen = []
    hook = layer.register_forward_hook(lambda _m, _i, output: seen.append(output.float()))
    detect(model, image)
    hook.remove()
    dims = [d for d in range(seen[0].dim()) if d != 1]
    factor = deviation / seen[0].std(dim=dims)
    channels = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    shape = [-1 if d == channels else 1 for d in range(layer.weight.dim())]
    with torch.no_grad():
        layer.weight *= factor.view(shape)
        layer.bias.copy_((layer.bias - seen[0].mean(dim=dims)) * factor)


def detect(model: nn.Module, *images: dict) -> list[Instances]:
    """Return what a model finds in each image."""
    with torch.no_grad():
        return [output["instances"] for output in model(list(images))]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random image, (H, W, 3) uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
