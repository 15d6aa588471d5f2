"""Models from an OmegaConf config, as detectron2's own tests have, equal those from a CfgNode."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import StandardROIHeads
from omegaconf import OmegaConf
from support import REPO, SMALL
from tiny_model import tiny_cfg

from mask_rcnn_ext import load_config

CONFIGS = [
    *("fcis_tiny", "lineage/rcnn_tiny", "lineage/fast_rcnn_tiny"),
    *("ablations/mask_rcnn_tiny_C4_RoIWarpMax", "ablations/mask_rcnn_tiny_FPN_MLP2"),
]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_from_omegaconf(name):
    path = REPO / f"configs/shapes/{name}.yaml"
    cfg = load_config(str(path), [*SMALL, "MODEL.DEVICE", "cpu"])
    cfg.freeze()
    models = []
    for config in (cfg, OmegaConf.create(cfg.dump())):
        torch.manual_seed(0)
        models.append(build_model(config))
    ours, theirs = models
    assert repr(ours) == repr(theirs)
    state = theirs.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize("name", ["StandardROIHeads", "MaskRCNNROIHeads"])
def test_rotated_boxes_are_left_to_detectron2s_pooler(name):
    cfg = tiny_cfg()
    cfg.MODEL.ROI_HEADS.NAME = name
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = "ROIAlignRotated"
    heads = build_model(cfg).roi_heads
    assert isinstance(heads, StandardROIHeads)
    for pooler in (heads.box_pooler, heads.mask_pooler):
        assert type(pooler) is ROIPooler
        assert type(pooler.level_poolers[0]).__name__ == "ROIAlignRotated"
