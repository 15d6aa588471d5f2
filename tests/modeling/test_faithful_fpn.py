"""Our FPN base configured like detectron2's stock model is that model: same keys and tensors."""

import pytest
import torch
from faithful import (
    NARROW,
    assert_same_detections,
    assert_same_tensors,
    build,
    losses,
    our_config,
    stock_config,
)

from mask_rcnn_ext.modeling.precision import prepare_model

STOCK = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
STOCK_FPN = ["MODEL.MASK_ON", "True", "MODEL.RESNETS.DEPTH", "50"]


@pytest.fixture(scope="module")
def models():
    ours = our_config("Base-RCNN-FPN", *STOCK_FPN, *NARROW)
    return prepare_model(ours, build(ours)), build(stock_config(STOCK, *NARROW))


def test_the_base_config_is_the_stock_model(models):
    ours, stock = models
    assert_same_tensors(ours.state_dict(), stock.state_dict())
    assert_same_tensors(losses(ours), losses(stock))
    assert_same_detections(ours, stock, "pred_masks")


def test_paper_config_has_the_stock_keys_and_shapes(models):
    ours = build(our_config("mask_rcnn_R50_FPN", *NARROW)).state_dict()
    stock = models[1].state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in stock.items()}


def test_the_comparison_can_fail(models):
    """A model with another RoI layer gives other losses: the equality above is not vacuous."""
    cfg = our_config(
        "Base-RCNN-FPN", *STOCK_FPN, *NARROW, "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign"
    )
    ours, stock = (losses(model)["loss_cls"] for model in (build(cfg), models[1]))
    assert not torch.equal(ours, stock)
