"""The small ResNet of the embedded-data configs, with an FPN and without."""

import pytest
import torch
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import build_backbone
from support import TINY_CONFIG

from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.modeling.backbone.tiny_resnet import build_tiny_res5, build_tiny_resnet

RES4_DILATION = "MASK_RCNN_EXT.TINY_RESNET.RES4_DILATION"


def tiny_backbone(*overrides):
    """Return `mask_rcnn_ext_tiny_resnet_backbone` of four, eight, ... channels."""
    cfg = load_config(
        TINY_CONFIG,
        [
            "MODEL.DEVICE", "cpu",
            "MODEL.BACKBONE.NAME", "mask_rcnn_ext_tiny_resnet_backbone",
            "MASK_RCNN_EXT.TINY_RESNET.STEM_CHANNELS", "6",
            "MASK_RCNN_EXT.TINY_RESNET.CHANNELS", "[4, 8, 12, 16]",
            "MASK_RCNN_EXT.TINY_RESNET.BLOCKS", "[1, 2, 1, 2]",
            *overrides,
        ],
    )  # fmt: skip
    torch.manual_seed(0)
    return build_backbone(cfg)


@pytest.mark.parametrize(
    ("stage", "stages", "shape"),
    [("res4", 3, (2, 12, 4, 6)), ("res5", 4, (2, 16, 2, 3))],
    ids=["C4", "C5"],
)
def test_it_ends_with_the_last_stage_that_is_asked_for(stage, stages, shape):
    backbone = tiny_backbone("MODEL.RESNETS.OUT_FEATURES", f"['{stage}']")
    assert [name for name, _ in backbone.named_children()] == [
        "stem", "res2", "res3", "res4", "res5"
    ][: stages + 1]  # fmt: skip
    features = backbone(torch.randn(2, 3, 64, 96))
    assert {name: f.shape for name, f in features.items()} == {stage: shape}
    assert backbone.output_shape() == {stage: ShapeSpec(channels=shape[1], stride=64 // shape[2])}
    features[stage].sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize(
    ("overrides", "steps", "dilations"),
    [
        (
            ["MODEL.RESNETS.RES5_DILATION", "2"],
            {"res3": 1, "res4": 1, "res5": 2},
            {"res5.0.conv2": 2, "res5.1.conv1": 2, "res5.1.conv2": 2},
        ),
        (
            [RES4_DILATION, "2", "MODEL.RESNETS.RES5_DILATION", "2"],
            {"res3": 1, "res4": 2, "res5": 4},
            {
                **{"res4.0.conv2": 2, "res5.0.conv1": 2, "res5.0.conv2": 4},
                **{"res5.1.conv1": 4, "res5.1.conv2": 4},
            },
        ),
    ],
    ids=["res5", "res4 and res5"],
)
def test_dilated_stages_keep_the_resolution_and_the_field_of_view(overrides, steps, dilations):
    """Of a stage, every cell of the strided network is one of `step` cells in each direction."""
    stages = ["MODEL.RESNETS.OUT_FEATURES", "['res3', 'res4', 'res5']"]
    strided, dilated = tiny_backbone(*stages).eval(), tiny_backbone(*stages, *overrides).eval()
    for name, value in strided.state_dict().items():
        assert torch.equal(dilated.state_dict()[name], value), name
    images = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        coarse, fine = strided(images), dilated(images)
    for stage, step in steps.items():
        before, after = (network.output_shape()[stage] for network in (strided, dilated))
        assert after == ShapeSpec(channels=before.channels, stride=before.stride // step)
        assert fine[stage].shape[2:] == (128 // after.stride, 160 // after.stride)
        torch.testing.assert_close(fine[stage][:, :, ::step, ::step], coarse[stage])
    found = {name: m.dilation for name, m in dilated.named_modules() if isinstance(m, Conv2d)}
    assert {name: d[0] for name, d in found.items() if d != (1, 1)} == dilations


def test_dilated_res4_alone():
    backbone = tiny_backbone("MODEL.RESNETS.OUT_FEATURES", "['res4']", RES4_DILATION, "2")
    assert backbone.output_shape() == {"res4": ShapeSpec(channels=12, stride=8)}


def test_res5_alone_is_that_of_the_network():
    alone = build_tiny_res5(channels=[4, 8, 12, 16], blocks=[1, 2, 1, 2], norm="BN", stride=2)
    network = tiny_backbone("MODEL.RESNETS.OUT_FEATURES", "['res5']").eval()
    alone = torch.nn.Sequential(*alone).eval()
    alone.load_state_dict(network.res5.state_dict())
    features = torch.randn(1, 12, 6, 8)
    assert torch.equal(alone(features), network.res5(features))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.RESNETS.OUT_FEATURES", "['c4']"], r"expected some of res2, .*got 'c4'"),
        (["MODEL.RESNETS.OUT_FEATURES", "['Res4']"], r"got 'Res4'; did you mean 'res4'"),
        (["MODEL.RESNETS.RES5_DILATION", "4"], r"RES5_DILATION: expected 1 or 2, got 4"),
        ([RES4_DILATION, "3"], r"RESNET.RES4_DILATION: expected 1 or 2, got 3"),
        (
            ["MODEL.RESNETS.OUT_FEATURES", "['res5']", RES4_DILATION, "2"],
            r"expected a res5 at the same stride, got RES5_DILATION 1",
        ),
    ],
)
def test_without_an_fpn_it_refuses_what_it_cannot_build(overrides, message):
    with pytest.raises(UserError, match=message):
        tiny_backbone(*overrides)


def test_backbone_shapes_and_gradients():
    cfg = load_config(TINY_CONFIG, ["MODEL.DEVICE", "cpu"])
    backbone = build_backbone(cfg)
    features = backbone(torch.randn(2, 3, 64, 96))
    channels = cfg.MODEL.FPN.OUT_CHANNELS
    for level in range(2, 7):
        stride = 2**level
        expected = (2, channels, 64 // stride, 96 // stride)
        if level < 6:
            assert features[f"p{level}"].shape == expected
        assert backbone.output_shape()[f"p{level}"].stride == stride
    # 2 x 3 at stride 32, every second, rounded up
    assert features["p6"].shape == (2, channels, 1, 2)
    sum(f.sum() for f in features.values()).backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_backbone_takes_other_channels_and_widths():
    network = build_tiny_resnet(
        5, stem_channels=4, channels=[4, 8, 12, 16], blocks=[1, 2, 1, 1], norm="BN",
        out_features=["res3"],
    )  # fmt: skip
    assert network(torch.randn(1, 5, 32, 32))["res3"].shape == (1, 8, 4, 4)
    assert network.output_shape() == {"res3": ShapeSpec(channels=8, stride=8)}


@pytest.mark.parametrize("channels", [[4, 8], [4, 8, 8, 16]], ids=["two stages", "equal widths"])
def test_backbone_refuses_what_it_cannot_build(channels):
    with pytest.raises(UserError, match="TINY_RESNET"):
        build_tiny_resnet(
            3,
            stem_channels=4,
            channels=channels,
            blocks=[1] * len(channels),
            norm="BN",
            out_features=["res3"],
        )
