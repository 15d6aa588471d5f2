"""The yaml files of Mask R-CNN: their headers, their models, and the stock bases.

Those of FCIS are in `test_fcis_configs.py`.
"""

import re

import pytest
import torch
from config_files import ROOT, load, read_header, summarize
from detectron2 import model_zoo as stock_zoo
from detectron2.modeling import build_model
from support import REPO

from mask_rcnn_ext import paper
from mask_rcnn_ext.paper.deviations import COMMON, OWN

ROWS = [name for name in paper.CONFIGS if "fcis" not in name]
NO_ROW = [name for name in paper.NO_ROW if "fcis" not in name]
NAMES = [*ROWS, *NO_ROW]
BASES = {
    "Base-RCNN-FPN", "Base-RCNN-C4", "Base-RCNN-DilatedC5", "Base-Paper", "Base-Paper-FPN",
    "Base-Paper-C4", "Base-Paper-C5", "Base-Paper-Keypoint", "Base-X101", "Base-FCIS",
}  # fmt: skip
OTHER_FOLDERS = ("shapes", "lineage")  # no rows of the paper
ROOT_NAMES = {  # fixed names: users and other projects refer to them
    "mask_rcnn_R50_FPN", "mask_rcnn_R101_FPN", "mask_rcnn_X101_FPN", "mask_rcnn_R50_C4",
    "mask_rcnn_R101_C4", "faster_rcnn_R101_FPN", "fcis_R101_C5_dilated",
}  # fmt: skip


def test_every_file_is_a_row_or_a_base_or_says_why_not():
    found = {path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*.yaml")}
    found = {name for name in found if not name.startswith(OTHER_FOLDERS)}
    assert found == set(paper.CONFIGS) | set(paper.NO_ROW) | BASES
    assert set(paper.CONFIGS) >= ROOT_NAMES


@pytest.mark.parametrize("name", ROWS)
def test_the_header_names_row_numbers_command_and_deviations(name):
    text = read_header(name)
    for row in paper.get_rows(name):
        assert f"{summarize(row)}." in text
    assert "The paper's numbers. Not run by us." in text
    assert f"--config-file configs/{name}.yaml" in text
    assert "Deviations: see Base-Paper.yaml" in text
    for deviation in OWN.get(name, ()):
        assert f"- {deviation}" in text
    assert text.count(" - ") == len(OWN.get(name, ())), "a deviation that paper.py lacks"
    joint = COMMON[0]
    (row, *_) = paper.get_rows(name)
    assert (joint not in row.deviations) == ("except joint training" in text)


def test_the_base_lists_the_common_deviations():
    text = read_header("Base-Paper")
    assert [deviation for deviation in COMMON if f"- {deviation}" not in text] == []
    assert set(OWN) <= set(paper.CONFIGS)


@pytest.mark.parametrize("name", NO_ROW)
def test_a_config_of_no_row_says_so(name):
    assert read_header(name).startswith("No row of the paper")
    assert paper.get_rows(name) == ()


@pytest.mark.parametrize("name", sorted(ROOT_NAMES | {"cityscapes/mask_rcnn_R50_FPN_fine_coco"}))
def test_files_that_a_header_names_exist(name):
    words = re.findall(
        r"\b(?:configs|tools)/[\w/]+\.(?:yaml|py)|\bBase-[\w-]+\.yaml", read_header(name)
    )
    assert words
    for word in words:
        path = ROOT / word if word.startswith("Base") else REPO / word
        assert path.is_file(), word


@pytest.mark.parametrize("name", ["Base-RCNN-FPN", "Base-RCNN-C4", "Base-RCNN-DilatedC5"])
def test_base_is_detectron2s_own(name):
    """Every key of detectron2 has the same value as in detectron2's file of this name."""
    ours = load(name)

    def compare(stock, mine, place):
        for key, value in stock.items():
            if isinstance(value, dict):
                compare(value, mine[key], f"{place}{key}.")
            else:
                assert mine[key] == value, place + key

    compare(stock_zoo.get_config(f"{name}.yaml"), ours, "")


def test_the_drift_test_compares_something():
    a, b = (stock_zoo.get_config(f"Base-RCNN-{kind}.yaml") for kind in ("C4", "FPN"))
    assert a.MODEL.RPN.PRE_NMS_TOPK_TEST != b.MODEL.RPN.PRE_NMS_TOPK_TEST


def parts(model):
    """Return the shapes that make a model the row it stands for."""
    roi = model.roi_heads
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    predictor = shapes["roi_heads.box_predictor.cls_score.weight"]
    masks = shapes.get("roi_heads.mask_head.predictor.weight")
    keypoints = shapes.get("roi_heads.keypoint_head.score_lowres.weight")
    return type(roi).__name__, predictor, masks, keypoints


RES5, HEADS = "MaskRCNNRes5ROIHeads", "MaskRCNNROIHeads"
FPN_80, C4_80, MASK_80 = (81, 1024), (81, 2048), (80, 256, 1, 1)
KEYPOINTS = (512, 17, 4, 4)
BUILT = {  # ROI heads; classifier; mask predictor; the keypoint head's deconvolution
    "mask_rcnn_R50_FPN": (HEADS, FPN_80, MASK_80, None),
    "mask_rcnn_X101_FPN": (HEADS, FPN_80, MASK_80, None),
    "mask_rcnn_R101_C4": (RES5, C4_80, MASK_80, None),
    "faster_rcnn_R101_FPN": (HEADS, FPN_80, None, None),
    "ablations/mask_rcnn_R50_C4_softmax": (RES5, C4_80, (81, 256, 1, 1), None),
    "ablations/mask_rcnn_R50_C4_agnostic": (RES5, C4_80, (1, 256, 1, 1), None),
    "ablations/mask_rcnn_R50_C4_RoIWarpMax": (RES5, C4_80, MASK_80, None),
    "ablations/mask_rcnn_R50_C5": (HEADS, FPN_80, MASK_80, None),
    "ablations/mask_rcnn_R50_FPN_MLP3": (HEADS, FPN_80, (80 * 28**2, 1024), None),
    "keypoints/keypoint_mask_rcnn_R50_FPN": (HEADS, (2, 1024), (1, 256, 1, 1), KEYPOINTS),
    "keypoints/keypoint_rcnn_X101_FPN": (HEADS, (2, 1024), None, KEYPOINTS),
    "keypoints/faster_rcnn_R50_FPN_person": (HEADS, (2, 1024), None, None),
    "cityscapes/mask_rcnn_R50_FPN_fine": (HEADS, (9, 1024), (8, 256, 1, 1), None),
    "enhanced/mask_rcnn_X152_FPN_nonlocal": (HEADS, FPN_80, MASK_80, None),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_config_loads_strictly_and_its_model_builds(name):
    """On the "meta" device, so that no weight of the full-size models is made."""
    cfg = load(name, "MODEL.DEVICE", "meta")
    with torch.device("meta"):
        model = build_model(cfg)
    assert type(model).__name__ == cfg.MODEL.META_ARCHITECTURE == "MaskRCNN"
    if name in BUILT:
        assert parts(model) == BUILT[name]
    blocks = [module for module in model.modules() if type(module).__name__ == "NonLocalBlock"]
    assert len(blocks) == ("nonlocal" in name)
    attributes = ("pooler", "box_pooler", "mask_pooler", "keypoint_pooler")
    poolers = [getattr(model.roi_heads, attribute, None) for attribute in attributes]
    layers = {type(layer).__name__ for each in poolers if each for layer in each.level_poolers}
    assert len(layers) == 1  # one RoI layer in all branches
    last = name.rsplit("_", 1)[-1]
    expected = last.replace("RoI", "ROI") if last.startswith("RoI") else "ROIAlign"
    assert layers.pop().endswith(expected)


@pytest.mark.parametrize(("name", "stages"), [("R50_FPN", [3, 8, 36, 3]), ("R50_C4", [3, 8, 36])])
def test_resnet_152_is_one_key(name, stages):
    """The paper has only a ResNeXt-152; any config can have a ResNet of that depth."""
    depth = ["MODEL.RESNETS.DEPTH", "152", "MODEL.DEVICE", "meta"]
    cfg = load(f"mask_rcnn_{name}", *depth)
    with torch.device("meta"):
        backbone = build_model(cfg).backbone
    assert [len(stage) for stage in getattr(backbone, "bottom_up", backbone).stages] == stages
