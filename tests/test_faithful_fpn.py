"""Configured like detectron2's stock model, ours is that model: same keys and tensors."""

import pytest
import torch
from conftest import REPO
from detectron2 import model_zoo as stock_zoo
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from mask_rcnn_ext import load_config
from mask_rcnn_ext.engine.precision import prepare_model


def stock_config():
    cfg = stock_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    return cfg


def our_config(name: str, *overrides: str):
    return load_config(
        str(REPO / f"configs/{name}.yaml"),
        ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *overrides],
    )


def build(cfg):
    torch.manual_seed(7)
    return build_model(cfg)


def batch():
    generator = torch.Generator().manual_seed(3)
    images = []
    for height, width in ((64, 96), (80, 64)):
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.tensor([[5.0, 6.0, 40.0, 50.0], [20.0, 10.0, 60.0, 44.0]]))
        instances.gt_classes = torch.tensor([3, 17])
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        masks[0, 6:50, 5:40] = True
        masks[1, 10:44, 20:60] = True
        instances.gt_masks = BitMasks(masks)
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        images.append({"image": image, "instances": instances, "height": height, "width": width})
    return images


@pytest.fixture(scope="module")
def models():
    ours = our_config("Base-RCNN-FPN", "MODEL.MASK_ON", "True", "MODEL.RESNETS.DEPTH", "50")
    return prepare_model(ours, build(ours)), build(stock_config())


def test_same_state_dict_keys_and_values(models):
    ours, stock = (model.state_dict() for model in models)
    assert list(ours) == list(stock)
    for name, value in stock.items():
        assert torch.equal(ours[name], value), name


def test_paper_config_has_the_stock_keys_and_shapes(models):
    ours = build(our_config("mask_rcnn_R50_FPN")).state_dict()
    stock = models[1].state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in stock.items()}


def test_bit_identical_losses(models):
    losses = []
    for model in models:
        model.train()
        torch.manual_seed(11)  # of the RoI sampling
        with EventStorage():
            losses.append(model(batch()))
    assert set(losses[0]) == {
        "loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"
    }  # fmt: skip
    for name, value in losses[1].items():
        assert torch.equal(losses[0][name], value), name


def test_bit_identical_inference(models):
    outputs = []
    for model in models:
        model.eval()
        # Scores of an untrained model hardly differ from one another: keep them all.
        for predictor in (model.roi_heads.box_predictor,):
            predictor.test_score_thresh = 0.0
        with torch.no_grad():
            outputs.append(
                model([{k: d[k] for k in ("image", "height", "width")} for d in batch()])
            )
    for ours, stock in zip(*outputs, strict=True):
        ours, stock = ours["instances"], stock["instances"]
        assert len(ours) == len(stock) > 0
        for field, value in stock.get_fields().items():
            mine = ours.get(field)
            if field == "pred_boxes":
                mine, value = mine.tensor, value.tensor
            assert torch.equal(mine, value), field


def test_the_comparison_can_fail(models):
    """A model with another RoI layer gives other losses: the equality above is not vacuous."""
    cfg = our_config(
        "Base-RCNN-FPN", "MODEL.MASK_ON", "True", "MODEL.RESNETS.DEPTH", "50",
        "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign",
    )  # fmt: skip
    losses = []
    for model in (build(cfg), models[1]):
        model.train()
        torch.manual_seed(11)
        with EventStorage():
            losses.append(model(batch())["loss_cls"])
    assert not torch.equal(*losses)
