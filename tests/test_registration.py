"""What importing the package adds to detectron2's own registries and catalogs."""

import pytest
import torch
from conftest import TINY_CONFIG
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone

import mask_rcnn_ext
from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.modeling.backbone.tiny_resnet import build_tiny_resnet


def test_names_are_in_detectron2s_registries():
    assert BACKBONE_REGISTRY.get("build_tiny_resnet_fpn_backbone").__module__.startswith(
        mask_rcnn_ext.__name__
    )
    for split in ("train", "val", "test"):
        assert f"occluded_shapes_{split}" in DatasetCatalog.list()
        assert MetadataCatalog.get(f"occluded_shapes_{split}").evaluator_type == "coco"


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
    assert features["p6"].shape == (
        2,
        channels,
        1,
        2,
    )  # 2 x 3 at stride 32, every second, rounded up
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
