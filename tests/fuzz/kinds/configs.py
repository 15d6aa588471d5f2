"""Configs in yaml."""

import random
from pathlib import Path

import torch
import yaml
from fuzz.kinds.kind import Kind, copy_small_cfg
from fuzz.mutators import ODD_VALUES, change_bytes, change_text, change_value

from mask_rcnn_ext.config_limits import require_limits
from mask_rcnn_ext.modeling.building import build_model
from mask_rcnn_ext.modeling.checks import check_registry_names, require_fitting_parts

__all__ = ["YamlConfig"]

_YAML = """
VERSION: 2
MODEL:
  META_ARCHITECTURE: GeneralizedRCNN
  WEIGHTS: ""
  MASK_ON: true
  PIXEL_MEAN: [103.53, 116.28, 123.675]
  BACKBONE: {NAME: build_resnet_fpn_backbone, FREEZE_AT: 2}
  RESNETS: {DEPTH: 18, RES2_OUT_CHANNELS: 64, OUT_FEATURES: [res2, res3, res4, res5], NORM: BN}
  FPN: {IN_FEATURES: [res2, res3, res4, res5], OUT_CHANNELS: 16, NORM: ""}
  ANCHOR_GENERATOR: {SIZES: [[16], [32], [64], [128], [256]], ASPECT_RATIOS: [[0.5, 1.0, 2.0]]}
  RPN: {IN_FEATURES: [p2, p3, p4, p5, p6], PRE_NMS_TOPK_TEST: 100, NMS_THRESH: 0.7}
  ROI_HEADS: {NAME: StandardROIHeads, NUM_CLASSES: 3, IN_FEATURES: [p2, p3], SCORE_THRESH_TEST: 0.0}
  ROI_BOX_HEAD: {NAME: FastRCNNConvFCHead, NUM_FC: 1, FC_DIM: 32, POOLER_TYPE: ROIAlignV2}
  ROI_MASK_HEAD: {NAME: MaskRCNNConvUpsampleHead, NUM_CONV: 1, CONV_DIM: 16, NORM: GN}
INPUT: {MIN_SIZE_TRAIN: [64], MAX_SIZE_TRAIN: 96, FORMAT: BGR}
SOLVER: {BASE_LR: 0.01, STEPS: [10, 20], MAX_ITER: 30, IMS_PER_BATCH: 2}
DATASETS: {TRAIN: [a_train], TEST: [a_val]}
MASK_RCNN_EXT: {CLASS_NAMES: [cat, dog, cow], LOGGERS: [tensorboard], SPEED: exact}
"""


class YamlConfig(Kind):
    """A config; every tenth accepted one is built, without memory for its weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.content = yaml.safe_load(_YAML)
        self.accepted, self.build_every = 0, 10

    def make(self, rng: random.Random) -> tuple[str, bytes]:
        if rng.random() < 0.5:
            odd = [*ODD_VALUES, "a.yaml", "ROIAlign", "BN", ["res9"], "RetinaNet", "FCISROIHeads"]
            content = change_value(rng, self.content, odd)
            if rng.random() < 0.05:
                content = {"_BASE_": rng.choice(odd), "MODEL": content}
            try:
                text = yaml.safe_dump(content)
            except ValueError:
                text = repr(content)
        else:
            text = change_text(rng, _YAML)
        data = text.encode("utf-8", "surrogatepass")
        return ".yaml", change_bytes(rng, data) if rng.random() < 0.1 else data

    def read(self, path: Path) -> None:
        cfg = copy_small_cfg()
        cfg.merge_from_file(str(path))
        require_limits(cfg)
        check_registry_names(cfg)
        require_fitting_parts(cfg)
        self.accepted += 1
        if self.accepted % self.build_every == 0:
            with torch.device("meta"):
                cfg.MODEL.DEVICE = "meta"
                build_model(cfg)
