"""The full-size configs of the lineage: their papers' recipes, numbers and models."""

import re

import numpy as np
import pytest
import torch
from config_files import ROOT, build_on_meta, load, read_header
from detectron2.data.detection_utils import build_augmentation
from detectron2.data.transforms import AugInput, AugmentationList
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.solver import build_lr_scheduler
from reference.lineage_recipes import ALEXNET_URL, RECIPES, VGG16_URL, VOC_NUMBERS
from reproduction.lineage import papers as lineage
from support import REPO
from torchvision.models import AlexNet_Weights, VGG16_Weights

from mask_rcnn_ext.engine.optimizer import build_optimizer
from mask_rcnn_ext.paper.tables import PRINTED


def test_every_config_but_one_has_a_published_number():
    named = {n.config for n in lineage.LINEAGE if "lineage/" in (n.config or "")}
    assert named == set(RECIPES) - {"lineage/rcnn_R50"}


def test_the_weights_are_those_of_torchvision():
    assert VGG16_Weights.IMAGENET1K_V1.url == VGG16_URL
    assert AlexNet_Weights.IMAGENET1K_V1.url == ALEXNET_URL


def describe_published(config):
    """Return the header's lines on published numbers, one for each subject and source."""
    found = {}
    for number in lineage.LINEAGE:
        if number.config == config:
            texts = found.setdefault((number.source, number.subject), [])
            texts.append(f"{number.metric} {number.value}")
    return [f"{', '.join(place)}: {', '.join(texts)}." for place, texts in found.items()]


@pytest.mark.parametrize("name", RECIPES)
def test_the_header_names_numbers_command_and_deviations(name):
    text = read_header(name)
    numbers = describe_published(name)
    assert all(number in text for number in numbers)
    assert "The paper's numbers. Not run by us." in text or not numbers
    assert "Not run by us." in text
    assert numbers or text.startswith("No published number: ")
    assert "Deviations" in text
    tool = r"tools/train_rcnn_svm\.py" if name.endswith("svm") else r"train_net\.py"
    assert re.search(rf"python {tool} (--num-gpus 8 )?--config-file configs/{name}\.yaml", text)
    stored = RECIPES[name].get("MODEL.LOAD_PROPOSALS")
    assert bool(re.search("proposals.* first|network first", text)) == bool(stored)
    for path in re.findall(r"\b(?:configs|tools|mask_rcnn_ext)/[\w/]+\.(?:yaml|py)", text):
        assert (REPO / path).is_file(), path
    for word in re.findall(r"(?<![\w/])[\w-]+\.yaml", text):
        assert (ROOT / "lineage" / word).is_file(), word


# ROI heads; box head's layers with weights; classifier; RPN's anchors per cell; frozen parameters
FC = {"fc1": (4096, 25088), "fc2": (4096, 4096)}
ALEX_FC = {"fc1": (4096, 9216), "fc2": (4096, 4096)}
RES5 = "MaskRCNNRes5ROIHeads"
BUILT = {
    "lineage/rcnn_AlexNet": ("RCNNROIHeads", ALEX_FC, (21, 4096), None, 0),
    "lineage/rcnn_AlexNet_svm": ("RCNNROIHeads", ALEX_FC, (20, 4096), None, 0),
    "lineage/rcnn_VGG16": ("RCNNROIHeads", FC, (21, 4096), None, 0),
    "lineage/rcnn_R50": ("RCNNROIHeads", {}, (21, 2048), None, 0),
    "lineage/fast_rcnn_VGG16": ("MaskRCNNROIHeads", FC, (21, 4096), None, 8),
    "lineage/fast_rcnn_VGG16_COCO": ("MaskRCNNROIHeads", FC, (81, 4096), None, 8),
    "lineage/fast_rcnn_R50_C4": (RES5, {}, (81, 2048), None, 11),
    "lineage/faster_rcnn_VGG16": ("MaskRCNNROIHeads", FC, (21, 4096), 9, 8),
    "lineage/faster_rcnn_VGG16_COCO": ("MaskRCNNROIHeads", FC, (81, 4096), 12, 8),
    "lineage/faster_rcnn_R50_C4": (RES5, {}, (81, 2048), 15, 11),
    "lineage/faster_rcnn_R101_C4": (RES5, {}, (81, 2048), 12, 11),
}


@pytest.mark.parametrize("name", RECIPES)
def test_every_model_builds_with_its_papers_parts(name):
    """On the "meta" device; fc6 alone has 103 million weights."""
    model = build_on_meta(name)
    heads = model.roi_heads
    assert type(model) is META_ARCH_REGISTRY.get(RECIPES[name]["MODEL.META_ARCHITECTURE"])
    head = getattr(heads, "box_head", torch.nn.Module())
    weights = {
        n.removesuffix(".weight"): tuple(p.shape) for n, p in head.named_parameters() if p.dim() > 1
    }
    predictor = heads.box_predictor
    classifier = predictor.svm if name.endswith("svm") else predictor.cls_score
    rpn = model.proposal_generator
    anchors = rpn.rpn_head.objectness_logits.out_channels if rpn else None
    frozen = sum(not p.requires_grad for p in model.backbone.parameters())
    found = (type(heads).__name__, weights, tuple(classifier.weight.shape), anchors, frozen)
    assert found == BUILT[name]
    pooler = getattr(heads, "pooler", getattr(heads, "box_pooler", None))
    if pooler:
        (layer,) = pooler.level_poolers
        assert type(layer).__name__ == "FullPrecisionROIPool"
        assert layer.spatial_scale == 1 / 16


def test_svms_read_fc7_and_the_ridge_regression_reads_pool5():
    predictor = build_on_meta("lineage/rcnn_AlexNet_svm").roi_heads.box_predictor
    assert tuple(predictor.ridge.weight.shape) == (80, 6 * 6 * 256)


def test_biases_learn_at_twice_the_rate_and_there_is_no_warm_up():
    for name, decay in (("lineage/fast_rcnn_VGG16", 5e-4), ("lineage/rcnn_VGG16", 0.0)):
        cfg, model = load(name), build_on_meta(name)
        names = {id(p): n for n, p in model.named_parameters()}
        optimizer = build_optimizer(cfg, model)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                bias = names[id(parameter)].endswith("bias")
                assert group["lr"] == (0.002 if bias else 0.001)
                assert group["weight_decay"] == (decay if bias else 5e-4)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
        multiplier = build_lr_scheduler(cfg, optimizer)._multiplier
        last, (first, *_) = cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS
        at = [multiplier(i / last) for i in (0, 1, first - 1, first + 1)]
        assert at == pytest.approx([1, 1, 1, 0.1])


def test_images_of_rcnn_keep_their_size():
    cfg = load("lineage/rcnn_AlexNet")
    for is_train in (True, False):
        resize = AugmentationList(build_augmentation(cfg, is_train)[:1])
        given = AugInput(np.zeros((333, 500, 3), np.uint8))
        resize(given)
        assert given.image.shape == (333, 500, 3)


# Published numbers


def test_the_numbers_of_pascal_voc_are_the_papers():
    found = [n for n in lineage.LINEAGE if n.metric == "mAP"]
    keys = [(n.method, n.model, n.trained_on, n.tested_on) for n in found]
    assert dict(zip(keys, (n.value for n in found), strict=True)) == VOC_NUMBERS


def test_every_number_has_its_key_once_and_a_source():
    keys = [(n.subject, n.metric) for n in lineage.LINEAGE]
    assert len(set(keys)) == len(keys)
    for number in lineage.LINEAGE:
        assert re.match(r"arXiv:\d{4}\.\d{4,5}(v\d)?(, Table \d)?$", number.source)
    methods = list(dict.fromkeys(n.method for n in lineage.LINEAGE))
    assert methods == ["R-CNN", "Fast R-CNN", "Faster R-CNN", "Mask R-CNN"]


def test_what_the_papers_say_of_one_another_holds():
    """Differences that the papers also print: box regression, sharing, ResNet over VGG."""
    values = {(n.method, n.model, n.tested_on, n.metric): n.value for n in lineage.LINEAGE}

    def gain(method, tested_on, metric, low, high):
        a, b = (values[method, model, tested_on, metric] for model in (low, high))
        return round(b - a, 1)

    svm = ("AlexNet, SVMs", "AlexNet, SVMs and box regression")
    assert gain("R-CNN", "VOC 2007 test", "mAP", "AlexNet, softmax", svm[0]) == 3.3
    gains = [gain("R-CNN", f"VOC {year} test", "mAP", *svm) for year in (2007, 2010, 2012)]
    assert gains == [4.3, 3.5, 3.7]
    models = ("VGG-16", "ResNet-101-C4")
    assert gain("Faster R-CNN", "COCO val", "box AP", *models) == 6.0  # 6.9 of AP50
    assert gain("Faster R-CNN", "COCO val", "box AP50", *models) == 6.9
    fpn = gain("Faster R-CNN", "COCO minival", "box AP", "ResNet-50-C4", "ResNet-50-FPN")
    assert fpn == 2.3


def test_mask_rcnns_numbers_are_those_of_its_tables():
    ours = [n for n in lineage.LINEAGE if n.source.startswith("arXiv:1703.06870v3, Table")]
    rows = [r for r in PRINTED if r.table in "13" and not r.note.startswith("another method")]
    assert len(rows) == 6
    assert [n.value for n in ours] == [value for row in rows for value in row.published.values()]
    assert {n.config for n in ours} == {row.config for row in rows}
