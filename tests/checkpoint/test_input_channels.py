"""Weights for colour images in a model for other channels."""

import pytest
import torch
from detectron2.modeling import build_model
from tiny_model import tiny_cfg, tiny_model

from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.checkpoint.input_channels import inflate

FIRST = "backbone.bottom_up.stem.conv1.weight"


def test_the_rule_by_hand():
    weight = torch.tensor([1.0, 10.0, 100.0]).reshape(1, 3, 1, 1)
    assert inflate(weight, 1).flatten().tolist() == [111]
    assert inflate(weight, 2).flatten().tolist() == [1.5, 15]
    assert inflate(weight, 6).flatten().tolist() == [0.5, 5, 50, 0.5, 5, 50]
    assert inflate(weight, 3).equal(weight)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 13])
def test_it_is_timms_rule(channels):
    timm = pytest.importorskip("timm.models")
    weight = torch.randn(4, 3, 3, 3)
    expected = timm.adapt_input_conv(channels, weight.clone())
    assert torch.allclose(inflate(weight, channels), expected)


@pytest.mark.parametrize("name", ["model.pth", "stem.pth"])
def test_the_first_convolution_is_fitted_and_the_rest_is_loaded(tmp_path, name, caplog):
    """`stem.pth` has names as detectron2's ImageNet weights have them."""
    colour = tiny_model(seed=1).state_dict()
    content = {"model": colour}
    if name == "stem.pth":
        prefix = "backbone.bottom_up."
        plain = {k.removeprefix(prefix): v for k, v in colour.items() if k.startswith(prefix)}
        content = {"model": plain, "matching_heuristics": True}
    torch.save(content, tmp_path / name)
    cfg = tiny_cfg()
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * 5, [1.0] * 5
    model = build_model(cfg)
    with caplog.at_level("INFO"):
        Checkpointer(model).load(str(tmp_path / name), checkpointables=[], strict=False)
    ours = model.state_dict()
    assert torch.equal(ours[FIRST], inflate(colour[FIRST], 5))
    second = "backbone.bottom_up.res3.0.conv1.weight"
    assert torch.equal(ours[second], colour[second])
    assert "The weights are for 3 channels, the images have 5" in caplog.text
    assert "The first convolution is frozen" in caplog.text  # FREEZE_AT is 2


def test_a_model_for_colour_images_is_left_alone(tmp_path, caplog):
    colour = tiny_model(seed=1)
    torch.save({"model": colour.state_dict()}, tmp_path / "x.pth")
    model = tiny_model(seed=2)
    with caplog.at_level("INFO"):
        Checkpointer(model).load(str(tmp_path / "x.pth"), checkpointables=[], strict=False)
    assert torch.equal(model.state_dict()[FIRST], colour.state_dict()[FIRST])
    assert "channels" not in caplog.text
