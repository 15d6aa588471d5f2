"""The losses on validation images: exact, repeatable, and without a trace in the training."""

import copy
import random
import warnings

import numpy as np
import pycocotools.mask
import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from support import write_coco
from tiny_fcis import fcis_cfg
from tiny_model import tiny_cfg

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.loader import seed_everything, stream_seed
from mask_rcnn_ext.data.mapper import ImageMapper
from mask_rcnn_ext.evaluation.validation_loss import build_loss_loader, measure_losses

# detectron2 under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy:UserWarning")


def make_records(folder, keypoints: bool = False) -> list[dict]:
    """Return three images of 64 x 48 pixels in detectron2's format, the second without objects."""
    _, images = write_coco(folder, images=3)
    box = {"bbox_mode": BoxMode.XYWH_ABS, "iscrowd": 0}
    first = {**box, "bbox": [5, 5, 20, 20], "category_id": 0,
             "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}  # fmt: skip
    last = {**box, "bbox": [30, 10, 16, 30], "category_id": 1,
            "segmentation": [[30, 10, 46, 10, 46, 40, 30, 40]]}  # fmt: skip
    if keypoints:
        last["keypoints"] = [35.0, 20.0, 2.0] * 17
    objects = [[first], [], [{**first, "bbox": [8, 8, 20, 20]}, last]]
    return [
        {"file_name": str(images / f"{index:03d}.png"), "image_id": index, "height": 48,
         "width": 64, "annotations": annotations}
        for index, annotations in enumerate(objects)
    ]  # fmt: skip


def make_cfg(kind: str):
    if kind == "FCIS":
        return fcis_cfg(num_classes=2)
    cfg = tiny_cfg(2)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.MODEL.RESNETS.NORM = "BN"
    if kind == "RPN":
        cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "ProposalNetwork", False
    elif kind == "RetinaNet":
        cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "RetinaNet", False
        cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
        cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
        cfg.MODEL.RETINANET.NUM_CLASSES, cfg.MODEL.RETINANET.NUM_CONVS = 2, 1
    elif kind == "keypoints":
        cfg.MODEL.KEYPOINT_ON, cfg.MODEL.MASK_ON = True, False
        cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = (8,)
    return cfg


@pytest.fixture(params=["Mask R-CNN", "FCIS", "RPN", "RetinaNet", "keypoints"])
def case(request, tmp_path, monkeypatch):
    """The config, the model in training mode, and a function that makes the loader."""
    cfg = make_cfg(request.param)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that differ from any batch's
            module.running_mean += 0.1
    records = make_records(tmp_path, keypoints=request.param == "keypoints")

    def make_loader():
        monkeypatch.setattr(
            "detectron2.data.detection_utils.create_keypoint_hflip_indices", lambda _: None
        )
        return build_loss_loader(cfg, copy.deepcopy(records), ImageMapper(cfg, is_train=False))

    return cfg, model, make_loader


def test_the_losses_are_those_of_training_with_fixed_statistics(case):
    """The oracle replaces batch normalisation by a layer that has fixed statistics only."""
    _, model, make_loader = case
    expected = copy.deepcopy(model)
    expected = FrozenBatchNorm2d.convert_frozen_batchnorm(expected).train()
    rows = []
    for index, images in enumerate(make_loader()):
        seed_everything(stream_seed(index))
        vars(expected).pop("loss_normalizer", None)
        if hasattr(expected, "_ema_update"):  # of a dense detector: no mean over images
            expected._ema_update = lambda name, value, initial_value: value
        with EventStorage(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows.append(expected(images))
    found = measure_losses(model, make_loader())
    assert found.pop("total_loss") == pytest.approx(sum(found.values()))
    assert found.keys() == rows[0].keys()
    assert len(found) >= 2
    for name, loss in found.items():
        mean = sum(float(row[name]) for row in rows) / 3
        assert loss == pytest.approx(mean, rel=1e-4), name
        assert loss > 0, name


@pytest.mark.parametrize("case", ["Mask R-CNN", "RetinaNet"], indirect=True)
def test_measuring_leaves_no_trace_and_gives_the_same_bits_again(case):
    _, model, make_loader = case
    dropout = torch.nn.Dropout(0.5)
    model.backbone.register_forward_hook(
        lambda _module, _inputs, maps: {name: dropout(value) for name, value in maps.items()}
    )
    model.add_module("dropped", dropout)
    model.backbone.eval()  # a mode that must come back
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    attributes = set(vars(model))
    seed_everything(7)
    expected = (random.random(), np.random.rand(), torch.rand(1))  # noqa: NPY002
    losses = []
    for seed in (7, 8):
        seed_everything(seed)
        losses.append(measure_losses(model, make_loader()))
        if seed == 8:
            seed_everything(7)
        assert (random.random(), np.random.rand(), torch.rand(1)) == expected  # noqa: NPY002
    assert losses[0] == losses[1]
    assert [module.training for module in model.modules()] == modes
    assert set(vars(model)) == attributes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_rle_where_training_reads_polygons(tmp_path):
    cfg, records = make_cfg("Mask R-CNN"), make_records(tmp_path)
    mask = np.zeros((48, 64), dtype=np.uint8, order="F")
    mask[8:28, 8:28] = 1
    records[2]["annotations"][0]["segmentation"] = pycocotools.mask.encode(mask)
    loader = build_loss_loader(cfg, records, ImageMapper(cfg, is_train=False))
    torch.manual_seed(0)
    assert measure_losses(build_model(cfg), loader)["loss_mask"] > 0


def test_images_without_annotations_are_refused(tmp_path):
    cfg = make_cfg("RPN")
    records = [{k: v for k, v in r.items() if k != "annotations"} for r in make_records(tmp_path)]
    loader = build_loss_loader(cfg, records, ImageMapper(cfg, is_train=False))
    with pytest.raises(UserError, match=r"VALIDATION_LOSS: expected annotations.*000\.png"):
        measure_losses(build_model(cfg), loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_is_skipped_is_no_part_of_the_mean(tmp_path, workers):
    cfg = make_cfg("Mask R-CNN")
    cfg.MODEL.RESNETS.NORM = "FrozenBN"  # so that training computes the same
    cfg.MASK_RCNN_EXT.DATA.ON_BAD_IMAGE, cfg.DATALOADER.NUM_WORKERS = "skip", workers
    torch.manual_seed(0)
    model, records = build_model(cfg).train(), make_records(tmp_path)
    mapper = ImageMapper(cfg, is_train=False)
    (tmp_path / "images/001.png").write_bytes(b"")
    found = measure_losses(model, build_loss_loader(cfg, records, mapper))
    found.pop("total_loss")
    for place, images in enumerate(build_loss_loader(cfg, records, mapper)):
        if images:
            seed_everything(stream_seed(place))
            with EventStorage(), torch.no_grad():
                for name, loss in model(images).items():
                    found[name] -= float(loss) / 2
    assert list(found.values()) == pytest.approx([0] * len(found), abs=1e-6)
