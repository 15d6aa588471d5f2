"""The COCO-scale FCIS configs: the released code's recipe, what they build, what they say."""

import re

import numpy as np
import pytest
import torch
from config_files import ROOT, build_on_meta, load, read_header, summarize
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from reference.fcis_recipes import RECIPES

from mask_rcnn_ext import UserError, model_zoo, paper
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.modeling.checks import require_fitting_training_data
from mask_rcnn_ext.modeling.fcis import FCISROIHeads
from mask_rcnn_ext.paper.deviations import FCIS, OWN
from mask_rcnn_ext.recipes.two_stage import make_first_stage, make_second_stage

ROWS = [name for name in RECIPES if name in paper.CONFIGS]


def test_the_rows_of_the_paper_are_two_of_the_configs():
    assert set(ROWS) == {"fcis_R101_C5_dilated", "fcis/fcis_plusplusplus_R101_C5_dilated"}
    assert set(RECIPES) - set(ROWS) == {name for name in paper.NO_ROW if "fcis" in name}


@pytest.mark.parametrize("name", RECIPES)
def test_a_config_fits_its_training_data(name):
    require_fitting_training_data(load(name))


@pytest.mark.parametrize("name", RECIPES)
def test_every_model_builds_with_the_released_codes_channels(name):
    """81 classes with the background, twice, and 4 box deltas: each for 7 x 7 bins."""
    model, copies = build_on_meta(name), 1 if name.endswith("k1") else 49
    heads = model.roi_heads
    shapes = [tuple(layer.weight.shape) for layer in (heads.conv_new, heads.score_maps)]
    assert shapes == [(1024, 2048, 1, 1), (2 * 81 * copies, 1024, 1, 1)]
    assert heads.box_maps.weight.shape[0] == 4 * copies
    if copies == 49:
        assert (heads.score_maps.out_channels, heads.box_maps.out_channels) == (7938, 196)
    rpn = model.proposal_generator.rpn_head
    assert tuple(rpn.conv.weight.shape) == (512, 1024, 3, 3)
    assert (rpn.objectness_logits.out_channels, rpn.anchor_deltas.out_channels) == (12, 48)
    assert [len(stage) for stage in model.backbone.stages] == [3, 4, 6 if "R50" in name else 23, 3]
    aligned = name.endswith("PSROIAlign")
    assert type(heads.pooler).__name__ == ("PSROIAlign" if aligned else "PSROIPool")
    assert heads.ohem_size == (None if name.endswith("random") else 128)
    assert (type(model).__name__, type(heads).__name__) == ("FCIS", "FCISROIHeads")


@pytest.mark.parametrize("name", ["fcis_R101_C5_dilated", "fcis/fcis_R50_C5_dilated"])
def test_all_of_res5_is_dilated_at_stride_16(name):
    model = build_on_meta(name)
    shapes = model.backbone.output_shape()
    assert {key: (s.stride, s.channels) for key, s in shapes.items()} == {
        "res4": (16, 1024), "res5": (16, 2048)
    }  # fmt: skip
    assert model.roi_heads.pooler.spatial_scale == 1 / 16
    for block in model.backbone.res5:
        assert (block.conv2.dilation, block.conv2.padding) == ((2, 2), (2, 2))
    for number, block in enumerate(model.backbone.res4):  # the stride is in the 1 x 1 convolution
        assert block.conv1.stride == ((2, 2) if number == 0 else (1, 1))
        assert (block.conv2.stride, block.conv2.dilation) == ((1, 1), (1, 1))


def test_the_learning_rate_and_the_weight_decay_of_each_parameter():
    cfg, model = load("fcis_R101_C5_dilated"), build_on_meta("fcis_R101_C5_dilated")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = Trainer.build_optimizer(cfg, model).param_groups
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert {name for name, rate in rates.items() if rate != 0.004} == {
        "roi_heads.conv_new.weight", "roi_heads.conv_new.bias"
    }  # fmt: skip
    assert rates["roi_heads.conv_new.bias"] == pytest.approx(3 * 0.004)
    for name, decay in decays.items():
        assert decay == (0 if name.endswith(".bias") else 5e-4), name
    assert not any(".norm." in name or "stem" in name or "res2" in name for name in rates)


def test_the_schedule_starts_at_a_tenth_without_a_ramp_and_drops_once():
    cfg = load("fcis_R101_C5_dilated")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    multiplier = build_lr_scheduler(cfg, optimizer)._multiplier
    at = {i: multiplier(i / 240_000) for i in (0, 249, 251, 159_999, 160_001, 239_999)}
    assert [round(0.004 * factor, 7) for factor in at.values()] == [
        0.0004, 0.0004, 0.004, 0.004, 0.0004, 0.0004
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["fcis_R101_C5_dilated", "fcis/fcis_plusplusplus_R101_C5_dilated"])
def test_no_size_is_cut_for_images_of_cocos_usual_shapes(name):
    """4 : 3 and 3 : 2 keep their shorter side, in training and in augmented testing."""
    cfg = load(name)
    sizes = [(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN)]
    if cfg.TEST.AUG.ENABLED:
        sizes.append((cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE))
    for shorter, longest in sizes:
        for height, width in [(480, 640), (640, 480), (427, 640)]:
            image = np.zeros((height, width, 3), np.uint8)
            for size in shorter:
                transform = ResizeShortestEdge([size], longest, "choice").get_transform(image)
                assert min(transform.new_h, transform.new_w) == size


def test_an_r50_takes_a_training_step_and_finds_masks():
    name = "fcis/fcis_R50_C5_dilated"
    few = ["MODEL.RPN.POST_NMS_TOPK_TRAIN", "20", "MODEL.RPN.POST_NMS_TOPK_TEST", "5"]
    torch.manual_seed(0)
    model = build_model(load(name, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *few))
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, 8:40, 16:60] = True
    boxes, classes = Boxes(torch.tensor([[16.0, 8.0, 60.0, 40.0]])), torch.tensor([17])
    target = Instances((64, 64), gt_boxes=boxes, gt_classes=classes, gt_masks=BitMasks(masks))
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    with EventStorage():
        losses = model([{"image": image, "instances": target}])
    assert set(losses) == {
        "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_mask", "loss_box_reg"
    }  # fmt: skip
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    missing = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert missing == set()
    assert model.roi_heads.score_maps.weight.grad.abs().sum() > 0
    with torch.no_grad():
        (found,) = model.eval()([{"image": image, "height": 48, "width": 48}])
    assert found["instances"].pred_masks.shape == (len(found["instances"]), 48, 48)


@pytest.mark.parametrize("name", ["fcis/fcis_R50_C5_dilated", "shapes/mask_rcnn_tiny_DC5"])
def test_the_rpn_alone_has_no_layers_that_only_the_heads_read(name):
    """Nothing would train res5 there, and several processes would wait for its gradients."""
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = "meta", (), ()
    assert cfg.MODEL.RPN.IN_FEATURES == ["res4"]
    rpn, second = make_first_stage(cfg, []), make_second_stage(cfg)
    with torch.device("meta"):
        names = [[name for name, _ in build_model(c).named_parameters()] for c in (rpn, second)]
    assert [any("res5" in name for name in found) for found in names] == [False, True]
    assert [any("rpn_head" in name for name in found) for found in names] == [True, False]


def test_fcis_reads_as_many_stored_proposals_as_it_would_make():
    second = make_second_stage(load("fcis_R101_C5_dilated"))
    assert second.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN == 300
    assert second.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST == 300
    assert second.MODEL.META_ARCHITECTURE == "MaskRCNNExtFCIS"


def test_the_features_of_an_fpn_stay():
    cfg = model_zoo.get_config("mask_rcnn_R50_FPN")
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    assert make_first_stage(cfg, []).MODEL.RESNETS.OUT_FEATURES == cfg.MODEL.RESNETS.OUT_FEATURES


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_names_numbers_command_and_deviations(name):
    text, rows = read_header(name), paper.get_rows(name)
    assert all(f"{summarize(row)}." in text for row in rows)
    assert rows or text.startswith("No row of the paper: FCIS ")
    assert "Not run by us." in text
    if name.endswith("PSROIAlign"):
        assert "There is no published number." in text
    else:
        assert "The numbers of FCIS's authors." in text
    assert f"--config-file configs/{name}.yaml" in text
    assert "Deviations: see Base-FCIS.yaml" in text
    assert [deviation for deviation in OWN.get(name, ()) if f"- {deviation}" not in text] == []
    if rows:
        assert text.count(" - ") == len(OWN.get(name, ())), "a deviation that deviations.py lacks"
        assert {row.deviations for row in rows} == {(*FCIS, *OWN.get(name, ()))}
    assert all(len(line) <= 120 for line in (ROOT / f"{name}.yaml").read_text().splitlines())


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("fcis_R101_C5_dilated", "29.6 51.4 30.2 29.2 50.8 29.7"),  # the released code's [7]
        ("fcis/fcis_R50_C5_dilated", "27.1 29.2"),
        ("fcis/fcis_R101_C5_dilated_random", "28.8 48.7 29.2 49.5"),
        ("fcis/fcis_R101_C5_dilated_k1", "52.5 38.5 65.7 52.1"),
        ("fcis/fcis_plusplusplus_R101_C5_dilated", "32.0 32.7 33.6"),
    ],
)
def test_published_numbers_that_table_1_lacks(name, numbers):
    text = read_header(name)
    for row in paper.get_rows(name):
        text = text.replace(summarize(row), "")
    assert re.findall(r"\b\d\d\.\d\b", text) == numbers.split()


def test_the_base_lists_the_common_deviations():
    text = read_header("Base-FCIS")
    assert [deviation for deviation in FCIS if f"- {deviation}" not in text] == []
    assert text.count(" - ") == len(FCIS)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("NUM_PASSES_TEST", 0), ("CONV_DIM", 0), ("CONV_LR_FACTOR", 0.0)),
        *(("MASK_LOSS_WEIGHT", -1.0), ("POOLER_SAMPLING_RATIO", -1), ("VOTE_IOU_THRESH", 2.0)),
    ],
    ids=str,
)
def test_a_number_out_of_range_is_an_error(key, value):
    cfg = load("shapes/fcis_tiny")
    cfg.MODEL.FCIS[key] = value
    with pytest.raises(UserError, match=rf"MODEL\.FCIS\.{key}: expected .*, got {value}"):
        FCISROIHeads.from_config(cfg, {"res5": ShapeSpec(channels=8, stride=8)})
