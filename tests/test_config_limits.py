"""Numbers that a key cannot mean are refused before anything starts."""

import pytest
from config_files import ROOT
from support import SMALL, TINY_CONFIG, run_train_net

from mask_rcnn_ext import UserError, get_cfg, load_config
from mask_rcnn_ext.config_limits import require_limits


def test_every_config_is_within_the_limits():
    paths = sorted(ROOT.rglob("*.yaml"))
    assert len(paths) > 50
    for path in paths:
        require_limits(load_config(str(path)))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", -3, "expected 1 or more, got -3"),
        ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 0, "expected 1 or more, got 0"),
        ("MODEL.RPN.POSITIVE_FRACTION", 1.5, "expected 0 to 1, got 1.5"),
        ("MODEL.ROI_HEADS.NMS_THRESH_TEST", -0.1, "expected 0 to 1, got -0.1"),
        ("INPUT.MIN_SIZE_TRAIN", ("a",), "expected 0 or more, got ('a',)"),
        ("INPUT.MIN_SIZE_TRAIN", (64, -1), "expected 0 or more, got (64, -1)"),
        ("SOLVER.BASE_LR", float("nan"), "expected 0 or more, got nan"),
        ("SOLVER.BASE_LR", float("inf"), "expected 0 to 1e+18, got inf"),
        ("SOLVER.BASE_LR", 1e25, "expected 0 to 1e+18, got 1e+25"),
        ("SOLVER.CHECKPOINT_PERIOD", -1, "expected 1 or more, got -1"),
        ("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 0, "expected 1 to 1024, got 0"),
        ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", 10**9, "expected 0 to 1024, got 1000000000"),
        ("SOLVER.IMS_PER_BATCH", 10**9, "expected 1 to 65536, got 1000000000"),
        ("TEST.EXPECTED_RESULTS", ["segm", "AP", 35.2, 0.3],
         "expected lists of a task, a metric, its value and how much it may differ, such as "
         "[[\"segm\", \"AP\", 35.2, 0.3]], got 'segm'"),
        ("SOLVER.GAMMA", -0.1, "expected 0 or more, got -0.1"),
        ("DATALOADER.REPEAT_THRESHOLD", -1.0, "expected 0 or more, got -1.0"),
        ("MODEL.RPN.CONV_DIMS", [16, 0],
         "expected numbers of channels, or -1 for as many as the layer before has, got [16, 0]"),
        ("MODEL.FPN.OUT_CHANNELS", 0, "expected 1 or more, got 0"),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[0.0, 1.0]],
         "expected 0.001 to 1000, got [[0.0, 1.0]]"),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", [[]],
         "expected a number or more for each level, such as [[32, 64]], got [[]]"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], []],
         "expected a number or more for each level, such as [[32, 64]], got [[32], []]"),
        ("MODEL.ROI_MASK_HEAD.CONV_DIM", 0, "expected 1 or more, got 0"),
        ("MODEL.RPN.PRE_NMS_TOPK_TEST", -1, "expected 0 or more, got -1"),
        ("DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", -1, "expected 0 or more, got -1"),
        ("TEST.AUG.MIN_SIZES", (-5,), "expected 0 or more, got (-5,)"),
        ("TEST.AUG.MAX_SIZE", 0, "expected 1 or more, got 0"),
        ("MASK_RCNN_EXT.TINY_RESNET.STEM_CHANNELS", 0, "expected 1 or more, got 0"),
        ("MODEL.RPN.LOSS_WEIGHT", -1.0, "expected 0 or more, got -1.0"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[32], [0]], "expected 1 or more, got [[32], [0]]"),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", (2.0, 1.0), "expected 4 numbers above 0, got (2.0, 1.0)"),
        ("MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS", (5, 5, 0, 2),
         "expected 4 numbers above 0, got (5, 5, 0, 2)"),
    ],
)  # fmt: skip
def test_a_number_outside_is_named(key, value, message):
    cfg = get_cfg()
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError) as caught:
        require_limits(cfg)
    assert str(caught.value) == f"{key}: {message}"


@pytest.mark.parametrize("key", ["WEIGHT_DECAY_NORM", "WEIGHT_DECAY_BIAS"])
def test_no_decay_means_that_of_the_others(key):
    cfg = get_cfg()
    cfg.SOLVER[key] = None
    assert require_limits(cfg) is None
    for wrong in ("abc", -1.0, True):  # the type of None says nothing
        cfg.SOLVER[key] = wrong
        with pytest.raises(UserError, match=rf"SOLVER\.{key}: expected 0 or more, got {wrong!r}"):
            require_limits(cfg)


def test_a_scaled_schedule_needs_iterations_after_the_warmup():
    cfg = get_cfg()
    cfg.SOLVER.RESCALE_INTERVAL, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = True, 5, 5
    with pytest.raises(UserError, match=r"below SOLVER\.MAX_ITER, got 5 and 5"):
        require_limits(cfg)
    cfg.SOLVER.WARMUP_ITERS = 4
    assert require_limits(cfg) is None


def test_rotated_boxes_have_five_weights():
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.PROPOSAL_GENERATOR.NAME = "RROIHeads", "RRPN"
    for part in ("RPN", "ROI_BOX_HEAD"):
        with pytest.raises(UserError, match="BBOX_REG_WEIGHTS: expected 5 numbers"):
            require_limits(cfg)
        cfg.MODEL[part].BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0, 1.0)
    assert require_limits(cfg) is None


def test_a_part_of_a_project_may_take_boxes_of_both_kinds():
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "OwnROIHeads"
    for weights in ((10.0, 10.0, 5.0, 5.0), (10.0, 10.0, 5.0, 5.0, 1.0)):
        cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = weights
        assert require_limits(cfg) is None
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0)
    with pytest.raises(UserError, match="expected 4 or 5 numbers above 0"):
        require_limits(cfg)


@pytest.mark.parametrize(
    ("key", "end", "beyond"),
    [
        ("INPUT.MIN_SIZE_TEST", 0, -1),
        ("SOLVER.BASE_LR", 0.0, -1e-9),
        ("MODEL.RPN.POSITIVE_FRACTION", 1.0, 1.0001),
        ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 1, 0),
        ("SOLVER.CHECKPOINT_PERIOD", 1, 0),
    ],
)
def test_the_ends_of_the_limits_pass(key, end, beyond):
    cfg = get_cfg()
    cfg.merge_from_list([key, end])
    assert require_limits(cfg) is None
    cfg.merge_from_list([key, beyond])
    with pytest.raises(UserError, match=key):
        require_limits(cfg)


def test_the_command_says_it_before_it_reads_the_data(tmp_path, capsys):
    options = [*SMALL, "OUTPUT_DIR", str(tmp_path / "run"), "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "0"]
    assert run_train_net("--config-file", TINY_CONFIG, *options) == 2
    assert "MODEL.RPN.BATCH_SIZE_PER_IMAGE: expected 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
