"""The paper's numbers in the root configs, and their stock base."""

import pytest
from conftest import REPO
from detectron2 import model_zoo as stock_zoo

from mask_rcnn_ext import load_config, model_zoo

# arXiv:1703.06870v3, section 3.1 unless said; per config: images per batch, learning rate.
PAPER = {
    "mask_rcnn_R50_FPN": (16, 0.02, 50, 1, 64),
    "mask_rcnn_R101_FPN": (16, 0.02, 101, 1, 64),
    "mask_rcnn_X101_FPN": (8, 0.01, 101, 64, 4),
}
PUBLISHED = {  # Table 2a, minival: AP, AP50, AP75
    "mask_rcnn_R50_FPN": ("33.6", "55.2", "35.3"),
    "mask_rcnn_R101_FPN": ("35.4", "57.3", "37.5"),
    "mask_rcnn_X101_FPN": ("36.7", "59.5", "38.9"),
}


@pytest.mark.parametrize("name", PAPER)
def test_hyper_parameters_are_the_papers(name):
    cfg = model_zoo.get_config(name)
    batch, rate, depth, groups, width = PAPER[name]
    assert (batch, rate) == (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR)
    assert cfg.SOLVER.MAX_ITER == 160_000
    assert tuple(cfg.SOLVER.STEPS) == (120_000,)
    assert cfg.SOLVER.GAMMA == 0.1
    assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.MOMENTUM) == (1e-4, 0.9)
    assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == (800,)
    assert cfg.INPUT.MIN_SIZE_TEST == 800
    assert depth == cfg.MODEL.RESNETS.DEPTH
    assert groups == cfg.MODEL.RESNETS.NUM_GROUPS
    assert width == cfg.MODEL.RESNETS.WIDTH_PER_GROUP
    roi = cfg.MODEL.ROI_HEADS
    assert (roi.BATCH_SIZE_PER_IMAGE, roi.POSITIVE_FRACTION) == (512, 0.25)
    assert (roi.IOU_THRESHOLDS, roi.NMS_THRESH_TEST) == ([0.5], 0.3)  # appendix B: NMS 0.3
    for head in (cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD):
        assert head.POOLER_TYPE == "ROIAlign"
        assert head.POOLER_SAMPLING_RATIO == 2  # four points per bin
    box, mask = cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD  # Figure 4, right
    assert (box.POOLER_RESOLUTION, box.NUM_FC, box.FC_DIM) == (7, 2, 1024)
    assert (mask.POOLER_RESOLUTION, mask.NUM_CONV, mask.CONV_DIM) == (14, 4, 256)
    assert box.SMOOTH_L1_BETA == 1.0
    rpn = cfg.MODEL.RPN
    assert pytest.approx(1 / 9, abs=1e-4) == rpn.SMOOTH_L1_BETA
    assert rpn.NMS_THRESH == 0.7
    assert (rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST) == (2000, 1000)
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[32], [64], [128], [256], [512]]
    assert cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS == [[0.5, 1.0, 2.0]]
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 100


@pytest.mark.parametrize("name", PUBLISHED)
def test_header_cites_the_row_and_its_numbers(name):
    text = (REPO / "configs" / f"{name}.yaml").read_text()
    header = text.split("_BASE_")[0]
    for expected in (*PUBLISHED[name], "2a", "minival", "Deviations", "train_net.py"):
        assert expected in header


def test_base_is_detectron2s_own():
    """Drift test: the base file gives the same config as the one in detectron2's zoo."""
    stock = stock_zoo.get_config("Base-RCNN-FPN.yaml")
    ours = load_config(str(REPO / "configs/Base-RCNN-FPN.yaml"))
    for key in stock:
        mine = ours[key]
        if key == "MODEL":
            mine = mine.clone()
            del mine["TINY_RESNET"]
        assert str(mine) == str(stock[key]), key
