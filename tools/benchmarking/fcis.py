"""FCIS with a ResNet on one image, at our levels of speed.

There is no other FCIS in PyTorch to compare with, so the level "exact" is the baseline. `layers`
compares its RoI layers with torchvision's. The weights are random, see `inference`.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from detectron2.config import CfgNode

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.errors import require_range
from mask_rcnn_ext.model_zoo import get_config
from mask_rcnn_ext.modeling.speed import SPEEDS

from .inference import compare_instances, make_image, make_weights, time_case
from .machine import require_device
from .parts import Part

__all__ = ["make_config", "run"]

_CONFIGS = {"R50": "fcis/fcis_R50_C5_dilated", "R101": "fcis_R101_C5_dilated"}


def make_config(args: argparse.Namespace) -> CfgNode:
    """Return the config for the options of the command line."""
    cfg = get_config(_CONFIGS[args.backbone])
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = args.device, ""
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min(args.size), max(args.size)
    cfg.DATASETS.TEST = ()
    return cfg


def run(args: argparse.Namespace) -> Part:
    """Time the levels and compare the instances that they find."""
    require_device(args.device)
    require_range("--size", min(args.size), 1)
    image, cfg = make_image(*args.size, args.seed), make_config(args)
    with tempfile.TemporaryDirectory() as folder:
        cfg.MODEL.WEIGHTS = str(Path(folder, "weights.pth"))
        torch.save({"model": make_weights(cfg, image, args.seed)}, cfg.MODEL.WEIGHTS)
        ours = {level: Predictor(cfg, speed=level) for level in SPEEDS}
    height, width = args.size
    part = Part(
        f"FCIS, ResNet-{args.backbone[1:]} C5, one image",
        {
            "device": args.device, "rounds": args.rounds, "seed": args.seed,
            "image": f"{height} x {width}",
        },
    )  # fmt: skip
    contenders = {level: partial(predictor, image) for level, predictor in ours.items()}
    part.rows = time_case("image to instances", contenders, args.rounds, compare_instances)
    return part
