"""The counts of parameters and FLOPs: against arithmetic by hand, whole models, and fresh ones."""

import copy
import functools
import json
import re

import model_costs
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.analysis import FlopCountAnalysis
from faithful import NARROW
from page_copies import copy_pages
from reproduction.costs.count import (
    CONVENTIONS,
    _count,
    count_costs,
    count_flops,
    image_size,
    measure_models,
)
from reproduction.costs.page import COSTS
from reproduction.costs.results_file import MODEL_PARTS
from support import REPO
from torch import nn

from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.paper import CONFIGS

CONTENT = json.loads((REPO / COSTS).read_text())
MODELS = {model["config"]: model for model in CONTENT["models"]}


def config(name, *overrides):
    return load_config(str(REPO / f"configs/{name}.yaml"), ["MODEL.WEIGHTS", "", *overrides])


@functools.cache
def on_meta(name):
    with torch.device("meta"):
        return build_model(config(name, "MODEL.DEVICE", "meta"))


def test_every_row_of_the_paper_was_counted():
    assert tuple(MODELS) == CONFIGS
    assert CONTENT["conventions"] == CONVENTIONS
    for name, model in MODELS.items():
        cfg = config(name)
        fcis = cfg.MODEL.META_ARCHITECTURE == "MaskRCNNExtFCIS"
        branches = {"mask": cfg.MODEL.MASK_ON, "keypoint": cfg.MODEL.KEYPOINT_ON, "maps": False}
        if fcis:
            branches = {"maps": True, "box": False, "mask": False, "keypoint": False}
        parts = [part for part in MODEL_PARTS if branches.get(part, True)]
        assert list(model["flops"]) == ["total", *parts]
        assert model["flops"]["total"] == sum(model["flops"][part] for part in parts)
        assert model["proposals"] == (300 if "_C4" in name or fcis else 1000)
        assert model["detections"] == 100
        size = [608, 928] if fcis else [1024, 2048] if "cityscapes" in name else [800, 1216]
        assert model["image_size"] == size
        assert model["parameters"]["trainable"] < model["parameters"]["total"]


FRESH = [
    "mask_rcnn_R50_FPN",
    "mask_rcnn_R101_C4",
    "mask_rcnn_X101_FPN",
    "ablations/mask_rcnn_R50_C5",
    "ablations/mask_rcnn_R50_C4_softmax",
    "ablations/mask_rcnn_R50_C4_agnostic",
    "ablations/mask_rcnn_R50_FPN_MLP3",
    "keypoints/keypoint_mask_rcnn_R50_FPN",
    "enhanced/mask_rcnn_X152_FPN_nonlocal",
    "fcis_R101_C5_dilated",
]


@pytest.mark.parametrize("name", FRESH)
def test_parameters_are_those_of_a_fresh_model(name):
    counts = [(p.numel(), p.requires_grad) for p in on_meta(name).parameters()]
    assert MODELS[name]["parameters"] == {
        "total": sum(number for number, _ in counts),
        "trainable": sum(number for number, trained in counts if trained),
    }


SHARED = {}  # most of these models have the same backbone


@pytest.mark.parametrize(
    "name",
    [
        "mask_rcnn_R50_FPN",
        "ablations/mask_rcnn_R50_FPN_MLP3",
        "keypoints/keypoint_mask_rcnn_R50_FPN",
    ],
)
def test_flops_of_the_branches_are_those_of_a_fresh_model(name):
    """They do not depend on the image, so a small one will do."""
    model = MODELS[name]
    counts = {key: model[key] for key in ("proposals", "detections")}
    found = count_flops(on_meta(name), (64, 64), cache=SHARED, **counts)
    for part in ("box", "mask", "keypoint"):
        assert found.get(part) == model["flops"].get(part)
    assert found["backbone"] < model["flops"]["backbone"] / 100


def test_r50_fpn_by_hand():
    """The heads of Figure 4, right, and the RPN's of the FPN paper, layer by layer."""
    model = MODELS["mask_rcnn_R50_FPN"]
    box = 7 * 7 * 256 * 1024 + 1024 * 1024 + 1024 * (81 + 4 * 80)
    convs, deconv = 4 * 14**2 * 3**2 * 256 * 256, 14**2 * 2**2 * 256 * 256
    mask = convs + deconv + 28**2 * 256 * 80
    cells = sum(h * w for h, w in [(200, 304), (100, 152), (50, 76), (25, 38), (13, 19)])
    rpn = cells * (3**2 * 256 * 256 + 256 * 3 * (1 + 4))
    assert model["flops"]["box"] == 1000 * box
    assert model["flops"]["mask"] == 100 * mask
    assert model["flops"]["rpn"] == rpn
    # ResNet-50 without its classifier, FPN, RPN, heads
    weights = 23_454_912 + 3_344_384 + 593_935 + (box + 1024 + 1024 + 401)
    weights += 4 * (9 * 256 * 256 + 256) + (4 * 256 * 256 + 256) + (256 * 80 + 80)
    assert model["parameters"]["total"] == weights
    assert 44.3e6 < weights < 44.4e6
    stem, res2 = 7**2 * 3 * 64, 64 * (64 + 2 * 256 + 2 * 2 * 256) + 3 * 9 * 64 * 64
    assert model["parameters"]["trainable"] == weights - stem - res2  # these are frozen


def test_fcis_by_hand():
    """Its RPN and its heads run on the image, at stride 16, whatever the number of RoIs."""
    model, cells = MODELS["fcis_R101_C5_dilated"], 38 * 58
    assert model["image_size"] == [16 * 38, 16 * 58]
    maps = 2048 * 1024 + 1024 * (2 * 81 * 49 + 4 * 49)
    rpn = 3**2 * 1024 * 512 + 512 * 12 * (1 + 4)
    assert model["flops"]["maps"] == cells * maps
    assert model["flops"]["rpn"] == cells * rpn
    biases = 1024 + 7938 + 196 + 512 + 12 * 5
    weights = 42_394_816 + maps + rpn + biases  # ResNet-101 without its classifier
    assert model["parameters"]["total"] == weights
    few = count_flops(on_meta("fcis_R101_C5_dilated"), (64, 64), proposals=1, detections=1)
    more = count_flops(on_meta("fcis_R101_C5_dilated"), (64, 64), proposals=9, detections=9)
    assert few == more
    assert few["maps"] == 4 * 4 * maps


def test_a_backbone_by_its_convolutions():
    """The convolutions by their definition, two per element of a normalisation, one upsampled."""
    model = build_model(config("mask_rcnn_R50_FPN", "MODEL.DEVICE", "cpu", *NARROW)).eval()
    expected = 0

    def add(module, inputs, output):
        nonlocal expected
        if isinstance(module, nn.Conv2d):
            per_output = module.weight[0].numel()  # of one output channel: C_in / groups * k * k
            expected += per_output * output.numel()
        elif type(module).__name__ == "FrozenBatchNorm2d":
            expected += 2 * output.numel()

    hooks = [module.register_forward_hook(add) for module in model.backbone.modules()]
    with torch.no_grad():
        features = model.backbone(torch.zeros(1, 3, 96, 160))
    for hook in hooks:
        hook.remove()
    expected += sum(features[name][0].numel() for name in ("p2", "p3", "p4"))  # upsampled to
    flops = count_flops(model, (96, 160), proposals=1, detections=1)
    assert flops["backbone"] == expected


@pytest.mark.parametrize("name", ["mask_rcnn_R50_FPN", "mask_rcnn_R50_C4"])
def test_the_parts_make_up_a_whole_inference(name):
    """The whole model, traced on an image, with the numbers of RoIs that it happens to have."""
    torch.manual_seed(0)
    few = ["MODEL.RPN.POST_NMS_TOPK_TEST", "30", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    few += ["TEST.DETECTIONS_PER_IMAGE", "7", "MODEL.RPN.NMS_THRESH", "1.1"]
    few += ["MODEL.ROI_HEADS.NMS_THRESH_TEST", "1.1"]
    cfg = config(name, "MODEL.DEVICE", "cpu", *NARROW, *few)
    model = build_model(cfg).eval()
    image = torch.randint(0, 256, (3, 96, 96)).float()
    rois = {}
    predictor, mask_head = model.roi_heads.box_predictor, model.roi_heads.mask_head
    for part, head in (("proposals", predictor), ("detections", mask_head)):
        head.register_forward_hook(lambda _, x, __, part=part: rois.update({part: len(x[0])}))
    with torch.no_grad():
        for weight in predictor.parameters():  # no box leaves the image, all classes score alike
            weight.zero_()
        analysis = FlopCountAnalysis(model, [{"image": image, "height": 96, "width": 96}])
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        whole = analysis.by_module()
    assert rois["proposals"] > 1
    assert rois["detections"] == 7
    parts = count_flops(model, (96, 96), **rois)
    assert parts["backbone"] == whole["model.backbone"]
    assert parts["rpn"] == whole["model.proposal_generator"]
    assert parts["box"] + parts["mask"] == whole["model.roi_heads"]


def test_a_model_is_left_as_it_was():
    model = on_meta("mask_rcnn_R50_FPN")
    count_flops(model, (64, 64), proposals=1, detections=1)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_rois_count_in_their_branch_alone():
    model = on_meta("keypoints/keypoint_mask_rcnn_R50_FPN")
    once = count_flops(model, (64, 64), proposals=1, detections=1, cache=SHARED)
    more = count_flops(model, (64, 64), proposals=5, detections=3, cache=SHARED)
    factors = {part: more[part] / once[part] for part in once}
    assert factors == {"backbone": 1, "rpn": 1, "box": 5, "mask": 3, "keypoint": 3}


def test_a_shared_count_is_that_of_the_same_part_and_size():
    cache = {}
    conv = nn.Conv2d(3, 4, 1, bias=False)
    assert _count(conv, [torch.zeros(1, 3, 5, 7)], cache) == 12 * 35
    assert _count(nn.Conv2d(3, 4, 1, bias=False), [torch.zeros(1, 3, 5, 7)], cache) == 12 * 35
    assert len(cache) == 1
    assert _count(conv, [torch.zeros(1, 3, 5, 8)], cache) == 12 * 40
    assert _count(nn.Conv2d(3, 4, 1, stride=2), [torch.zeros(1, 3, 5, 7)], cache) == 12 * 12


class Unknown(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real


def test_what_cannot_be_counted_is_an_error():
    with pytest.raises(UserError, match="fvcore cannot count aten::fft"):
        _count(Unknown(), [torch.zeros(1, 4)], {})
    model = on_meta("mask_rcnn_R50_FPN")
    with pytest.raises(UserError, match="multiples of 32, got 800 x 1200"):
        count_flops(model, (800, 1200), proposals=1, detections=1)
    with pytest.raises(UserError, match="expected a yaml config"):
        measure_models(["new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py"])


def test_unknown_roi_heads_are_an_error():
    model = copy.copy(on_meta("mask_rcnn_R50_FPN"))
    model._modules = {**model._modules, "roi_heads": nn.Module()}
    model.roi_heads.in_features = ["p2"]
    with pytest.raises(UserError, match="expected a kind of StandardROIHeads or Res5ROIHeads"):
        count_flops(model, (64, 64), proposals=1, detections=1)


def test_the_image_is_of_the_configs_size():
    assert image_size(config("mask_rcnn_R50_FPN")) == (800, 1216)
    assert image_size(config("cityscapes/mask_rcnn_R50_FPN_fine")) == (1024, 2048)
    assert image_size(config("shapes/mask_rcnn_tiny_FPN")) == (160, 256)


def test_a_config_is_counted_and_left_as_it_was():
    cfg = config("mask_rcnn_R50_FPN", *NARROW, "INPUT.MIN_SIZE_TEST", "64")
    cfg.freeze()
    before = cfg.dump()
    costs = count_costs("narrow", cfg)
    assert cfg.dump() == before
    assert cfg.is_frozen()
    assert (costs.image_size, costs.proposals, costs.detections) == ([64, 96], 1000, 100)
    with torch.device("meta"):
        model = build_model(config("mask_rcnn_R50_FPN", "MODEL.DEVICE", "meta", *NARROW))
    frozen = [p.numel() for p in model.parameters() if not p.requires_grad]
    assert frozen
    assert costs.parameters.total == sum(p.numel() for p in model.parameters())
    assert costs.parameters.total - costs.parameters.trainable == sum(frozen)


def test_the_command_prints_named_configs_and_writes_nothing(tmp_path, capsys):
    assert model_costs.main(["shapes/mask_rcnn_tiny_FPN", "--root", str(tmp_path)]) == 0
    head, _, row = re.sub(r" {2,}", " ", capsys.readouterr().out).splitlines()
    assert head.startswith("| config | image |")
    assert row.startswith("| shapes/mask_rcnn_tiny_FPN | 160 x 256 |")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_json_and_page(tmp_path, monkeypatch, capsys):
    for path in (copy_pages(tmp_path) / "results").iterdir():
        if path.stem not in ("demo", "ablations", "fcis_comparison", "lineage"):
            path.unlink()
    monkeypatch.setattr(model_costs, "CONFIGS", ("shapes/mask_rcnn_tiny_FPN",))
    assert model_costs.main(["--root", str(tmp_path)]) == 0
    content = json.loads((tmp_path / COSTS).read_text())
    (model,) = content["models"]
    assert model["config"] == "shapes/mask_rcnn_tiny_FPN"
    page = (tmp_path / "docs/models.md").read_text()
    assert f" {model['flops']['total'] / 1e9:.1f} |" in page
    assert f"torch {torch.__version__}" in page
    assert set(CONVENTIONS) == set(content["conventions"])


def test_an_unknown_name_is_an_error(capsys):
    assert model_costs.main(["mask_rcnn_R50_FNP"]) == 2
    assert "did you mean 'mask_rcnn_R50_FPN" in capsys.readouterr().err
