"""VGG-16, AlexNet and their last layers: torchvision's arithmetic, its files, what is frozen."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, build_box_head
from torch import nn
from torchvision.models import alexnet, vgg16

from mask_rcnn_ext import UserError, get_cfg
from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.checkpoint.torchvision_weights import convert_torchvision_weights
from mask_rcnn_ext.modeling.backbone.classifier_backbones import ClassifierBackbone
from mask_rcnn_ext.modeling.roi_heads import ClassifierBoxHead


def backbone_cfg(name, *features, freeze_at=0):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = f"mask_rcnn_ext_{name}_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.RESNETS.OUT_FEATURES = list(features)
    return cfg


def on_meta(name, *features, **options):
    with torch.device("meta"):
        return build_backbone(backbone_cfg(name, *features, **options))


@pytest.mark.parametrize(
    ("name", "feature", "image", "shape"),
    [
        ("vgg16", "conv5", (224, 224), (512, 14, 14)),
        ("vgg16", "conv5", (608, 1008), (512, 38, 63)),
        ("vgg16", "pool5", (224, 224), (512, 7, 7)),
        ("alexnet", "conv5", (227, 227), (256, 13, 13)),
        ("alexnet", "pool5", (227, 227), (256, 6, 6)),
    ],
)
def test_the_map_has_the_papers_size(name, feature, image, shape):
    backbone = on_meta(name, feature)
    spec = backbone.output_shape()[feature]
    assert (spec.channels, spec.stride) == (shape[0], 16 if feature == "conv5" else 32)
    assert backbone.size_divisibility == spec.stride
    maps = backbone(torch.zeros(1, 3, *image, device="meta"))
    assert list(maps) == [feature]
    assert tuple(maps[feature].shape[1:]) == shape


@pytest.mark.parametrize(("name", "classifier"), [("vgg16", vgg16), ("alexnet", alexnet)])
def test_the_layers_are_torchvisions(name, classifier):
    with torch.device("meta"):
        expected = classifier(weights=None).features
    whole, cut = (on_meta(name, feature).features for feature in ("pool5", "conv5"))
    assert str(whole) == str(expected)
    assert str(cut) == str(expected[:-1])
    assert {k: v.shape for k, v in whole.state_dict().items()} == {
        k: v.shape for k, v in expected.state_dict().items()
    }


def test_both_maps_of_alexnet_are_those_of_its_layers_one_by_one():
    torch.manual_seed(0)
    backbone = build_backbone(backbone_cfg("alexnet", "pool5", "conv5")).eval()
    assert {parameter.device.type for parameter in backbone.parameters()} == {"cpu"}
    image = torch.rand(2, 3, 67, 99)
    with torch.no_grad():
        maps = backbone(image.clone())
        expected = image
        for layer in list(backbone.features)[:-1]:
            expected = layer(expected)
        assert list(maps) == ["pool5", "conv5"]
        assert torch.equal(maps["conv5"], expected)
        assert maps["conv5"].min() == 0  # after the ReLU
        assert maps["conv5"].std() > 0.01
        assert torch.equal(maps["pool5"], nn.functional.max_pool2d(expected, 3, 2))


@pytest.mark.parametrize(
    ("name", "freeze_at", "first_trained"),
    [
        ("vgg16", 0, "features.0"),
        ("vgg16", 2, "features.10"),  # conv3_1 (Fast R-CNN)
        ("vgg16", 4, "features.24"),
        ("vgg16", 5, None),
        ("alexnet", 1, "features.3"),
        ("alexnet", 4, "features.10"),
        ("alexnet", 5, None),
    ],
)
def test_the_first_stages_are_frozen(name, freeze_at, first_trained):
    parameters = list(on_meta(name, "pool5", freeze_at=freeze_at).named_parameters())
    trained = [n for n, p in parameters if p.requires_grad]
    assert (trained[0].rpartition(".")[0] if trained else None) == first_trained
    if trained:
        assert trained == [n for n, _ in parameters][-len(trained) :]


@pytest.mark.parametrize(
    ("features", "freeze_at", "channels", "message"),
    [
        (["res4"], 0, 3, "OUT_FEATURES: expected some of conv5, pool5.* got 'res4'"),
        ([], 0, 3, "OUT_FEATURES"),
        (["conv5"], 6, 3, "FREEZE_AT.*from 0 to 5, got 6"),
        (["conv5"], 0, 1, "PIXEL_MEAN: expected 3"),
    ],
)
def test_what_a_backbone_lacks_is_told(features, freeze_at, channels, message):
    cfg = backbone_cfg("alexnet", *features, freeze_at=freeze_at)
    with pytest.raises(UserError, match=message), torch.device("meta"):
        build_backbone(cfg, ShapeSpec(channels=channels))


# The box head


def head_cfg(num_fc, dropout=0.0):
    cfg = get_cfg()
    head = cfg.MODEL.ROI_BOX_HEAD
    head.NAME = "MaskRCNNExtClassifierBoxHead"
    head.NUM_FC, head.FC_DIM, head.DROPOUT = num_fc, 5, dropout
    return cfg


SHAPE = ShapeSpec(channels=4, height=2, width=3)


def test_the_head_is_detectron2s_without_dropout_and_drops_in_training():
    heads = []
    for name in ("MaskRCNNExtClassifierBoxHead", "FastRCNNConvFCHead"):
        cfg = head_cfg(2)
        cfg.MODEL.ROI_BOX_HEAD.NAME = name
        torch.manual_seed(1)
        heads.append(build_box_head(cfg, SHAPE))
    ours, stock = heads
    assert isinstance(stock, FastRCNNConvFCHead)
    assert list(ours.state_dict()) == list(stock.state_dict())
    features = torch.randn(6, 4, 2, 3)
    assert torch.equal(ours(features), stock(features))
    assert ours.output_shape == stock.output_shape
    dropping = build_box_head(head_cfg(2, 0.5), SHAPE)
    dropping.load_state_dict(ours.state_dict())
    assert not torch.equal(dropping(features), ours(features))
    assert [type(layer).__name__ for layer in dropping] == [
        "Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout"
    ]  # fmt: skip
    assert torch.equal(dropping.eval()(features), ours(features))


def test_without_layers_the_head_averages_over_the_cells():
    head = build_box_head(head_cfg(0, 0.5), SHAPE)
    features = torch.randn(6, 4, 2, 3)
    assert torch.allclose(head(features), features.mean(dim=(2, 3)))
    assert head.output_shape == ShapeSpec(channels=4)
    assert not list(head.parameters())


@pytest.mark.parametrize("num_fc", [0, 2])
def test_a_head_takes_no_rois(num_fc):
    head = build_box_head(head_cfg(num_fc, 0.5), SHAPE)
    hidden = head(torch.zeros(0, 4, 2, 3, requires_grad=True))
    assert hidden.shape == (0, head.output_shape.channels)
    hidden.sum().backward()


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_share_out_of_range_is_told(dropout):
    with pytest.raises(UserError, match="DROPOUT"):
        ClassifierBoxHead(input_shape=SHAPE, fc_dims=[3], dropout=dropout)


# torchvision's files


@pytest.mark.parametrize(("classifier", "layers"), [(vgg16, (0, 3, 6)), (alexnet, (1, 4, 6))])
def test_torchvisions_names_become_those_of_the_detector(classifier, layers):
    with torch.device("meta"):
        weights = classifier(weights=None).state_dict()
    assert {int(n.split(".")[1]) for n in weights if n.startswith("classifier.")} == set(layers)
    renamed = convert_torchvision_weights(weights)
    fc6, fc7, _ = layers
    for kind in ("weight", "bias"):
        assert renamed[f"roi_heads.box_head.fc1.{kind}"] is weights[f"classifier.{fc6}.{kind}"]
        assert renamed[f"roi_heads.box_head.fc2.{kind}"] is weights[f"classifier.{fc7}.{kind}"]
        assert renamed[f"backbone.features.0.{kind}"] is weights[f"features.0.{kind}"]
    assert len(renamed) == len(weights) - 2  # without the classes of ImageNet


@pytest.mark.parametrize(
    "names",
    [
        ["features.0.weight"],
        ["classifier.0.weight"],
        ["features.0.weight", "classifier.0.weight", "roi_heads.x"],
        ["features.denseblock1.weight", "classifier.weight"],  # DenseNet
        ["backbone.features.0.weight", "roi_heads.box_head.fc1.weight"],
    ],
)
def test_other_files_keep_their_names(names):
    assert convert_torchvision_weights(dict.fromkeys(names)) is None


class Small(nn.Module):
    """A classifier as torchvision's, with three layers of two kinds."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
        fully_connected = nn.Linear(24, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 5), nn.ReLU()
        self.classifier = nn.Sequential(*fully_connected, nn.Dropout(), nn.Linear(5, 7))


def detector():
    model, classifier = nn.Module(), Small()
    model.backbone = ClassifierBackbone(
        classifier.features, stages=(0, 1, 1, 1, 1), out_features=["pool5"]
    )
    model.roi_heads = nn.Module()
    model.roi_heads.box_head = build_box_head(head_cfg(2), SHAPE)
    model.roi_heads.cls_score = nn.Linear(5, 3)
    return model


def test_a_file_of_torchvision_fills_backbone_and_box_head(tmp_path, caplog):
    path, classifier, model = str(tmp_path / "small-397923af.pth"), Small(), detector()
    torch.save(classifier.state_dict(), path)
    fresh = model.roi_heads.cls_score.weight.clone()
    with caplog.at_level("INFO", logger="mask_rcnn_ext"):
        Checkpointer(model).load(path, strict=False)
    box_head = model.roi_heads.box_head
    assert torch.equal(model.backbone.features[0].weight, classifier.features[0].weight)
    for layer, theirs in ((box_head.fc1, 0), (box_head.fc2, 3)):
        assert torch.equal(layer.weight, classifier.classifier[theirs].weight)
        assert torch.equal(layer.bias, classifier.classifier[theirs].bias)
    assert torch.equal(model.roi_heads.cls_score.weight, fresh)
    assert "start from scratch" in caplog.text
    assert "roi_heads.cls_score" in caplog.text
    with pytest.raises(UserError, match=r"no weights for roi_heads\.cls_score"):
        Checkpointer(detector()).load(path)


def test_what_a_detector_saves_is_loaded_as_it_is(tmp_path):
    model, again = detector(), detector()
    Checkpointer(model, str(tmp_path)).save("model_final")
    Checkpointer(again).load(str(tmp_path / "model_final.pth"))
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
