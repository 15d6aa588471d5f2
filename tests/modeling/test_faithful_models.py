"""Built of our classes and configured like detectron2's stock models, ours are those models.

Random weights of one seed: same state-dict keys, same initial values, same losses and gradients,
same detections, bit for bit. The models are narrow; one has its real widths.
"""

import pytest
import torch
from detectron2.modeling import build_model
from faithful import (
    MODELS,
    NARROW,
    assert_same_detections,
    assert_same_tensors,
    build,
    losses,
    our_config,
    pair,
    stock_config,
)

from mask_rcnn_ext.modeling.precision import prepare_model

FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
C4 = "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.yaml"
BOX_LOSSES = {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}


def shapes_of(cfg):
    """Return the names and shapes of a model's state dict, without making its weights."""
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return {name: value.shape for name, value in build_model(cfg).state_dict().items()}


@pytest.mark.parametrize(
    ("name", "widths"),
    [*((name, NARROW) for name in MODELS), (FPN, [])],
    ids=[*MODELS, "FPN with its real widths"],
)
def test_ours_is_the_stock_model(name, widths):
    ours, stock = pair(name, *widths)
    for mine, its in ((ours, stock), (ours.roi_heads, stock.roi_heads)):
        assert type(mine) is not type(its)
        assert type(mine).__module__.startswith("mask_rcnn_ext.")
    assert_same_tensors(ours.state_dict(), stock.state_dict())
    task = "keypoint" if "keypoint" in name else "mask" if "mask" in name else ""
    expected = losses(stock, backward=True)
    values = {key: value for key, value in expected.items() if key.startswith("loss_")}
    assert set(values) == BOX_LOSSES | ({f"loss_{task}"} if task else set())
    assert all(value > 0 for value in values.values())
    # The stem and res2 are frozen.
    assert len(expected) - len(values) > 0.8 * len(list(stock.parameters()))
    assert_same_tensors(losses(ours, backward=True), expected)
    assert_same_detections(ours, stock, *([f"pred_{task}s"] if task else []))


@pytest.mark.parametrize("name", MODELS)
def test_real_widths_give_the_stock_keys_and_shapes(name):
    assert shapes_of(our_config(name, *MODELS[name])) == shapes_of(stock_config(name))


def test_the_base_config_is_the_stock_model():
    cfg = our_config("Base-RCNN-FPN", "MODEL.MASK_ON", "True", "MODEL.RESNETS.DEPTH", "50", *NARROW)
    ours, stock = prepare_model(cfg, build(cfg)), build(stock_config(FPN, *NARROW))
    assert_same_tensors(ours.state_dict(), stock.state_dict())
    assert_same_tensors(losses(ours), losses(stock))
    assert_same_detections(ours, stock, "pred_masks")


def test_the_papers_config_has_the_stock_keys_and_shapes():
    assert shapes_of(our_config("mask_rcnn_R50_FPN")) == shapes_of(stock_config(FPN))


@pytest.mark.parametrize(
    "override",
    [
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlign"),
        ("MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO", "3"),
        ("MODEL.ROI_MASK_HEAD.LOSS", "softmax"),
    ],
    ids=lambda override: override[0],
)
def test_the_comparison_can_fail(override):
    """With another config our model gives other losses: the tests above can fail."""
    ours = build(our_config(FPN, *MODELS[FPN], *NARROW, *override))
    with pytest.raises(AssertionError):
        assert_same_tensors(losses(ours), losses(build(stock_config(FPN, *NARROW))))


def test_the_c4_comparison_can_fail():
    """The paper's C4 head has the stock head's weights, and gives other losses."""
    ours = build(our_config(C4, *MODELS[C4], *NARROW, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "7"))
    stock = build(stock_config(C4, *NARROW))
    assert_same_tensors(ours.state_dict(), stock.state_dict())
    assert not torch.equal(losses(ours)["loss_cls"], losses(stock)["loss_cls"])


def test_the_comparison_of_detections_can_fail():
    ours, stock = pair(FPN, *NARROW)
    assert_same_detections(ours, stock)
    ours.roi_heads.box_predictor.bbox_pred.bias.data += 0.5
    with pytest.raises(AssertionError, match="pred_boxes"):
        assert_same_detections(ours, stock)
