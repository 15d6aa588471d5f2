"""timm's networks as backbones: names, strides, layout, freezing, and one clear error each."""

import ast
import sys

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from support import REPO
from torch import nn

from mask_rcnn_ext import UserError, get_cfg
from mask_rcnn_ext.modeling.backbone.timm_backbone import TimmBackbone
from mask_rcnn_ext.modeling.freezing import freeze_parts

ALL = ["res2", "res3", "res4", "res5"]


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm", reason='timm is not installed: pip install -e ".[timm]"')


def timm_cfg(name: str, *overrides):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "mask_rcnn_ext_timm_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.merge_from_list(["MASK_RCNN_EXT.TIMM.NAME", name, *overrides])
    return cfg


def build(name: str, features=ALL, *, channels: int = 3, freeze_at: int = 0) -> TimmBackbone:
    return TimmBackbone(name=name, in_channels=channels, out_features=features, freeze_at=freeze_at)


@pytest.mark.parametrize(
    ("name", "extra"), [("resnet18", "timm"), ("tf_efficientnet_lite0.in1k", "lite0")]
)
def test_without_timm_the_error_says_what_to_install(name, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    said = rf'^the backbone {name} needs timm.*pip install "mask_rcnn_ext\[{extra}\]"'
    with pytest.raises(UserError, match=said):
        build_backbone(timm_cfg(name))


def test_the_package_imports_without_timm():
    for path in (REPO / "mask_rcnn_ext").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            module = getattr(node, "module", None) or ""
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "timm" not in {name.split(".")[0] for name in (*names, module)}, path


@pytest.mark.parametrize(
    ("name", "features"),
    [
        pytest.param("resnet10t", ALL, id="resnet"),
        pytest.param("mobilenetv3_small_050", ["res3", "res5"], id="mobilenet"),
        pytest.param("convnext_atto", ALL, id="convnext"),
        pytest.param("test_vit", ["res4"], id="vit, one stride"),
        pytest.param("vit_tiny_patch16_224", ["res4"], id="vit made for 224 pixels"),
        pytest.param("swin_tiny_patch4_window7_224", ALL, id="swin, NHWC, for 224 pixels"),
        pytest.param("darknet17", ["res2", "res4"], id="six stages"),
    ],
)
def test_features_have_the_promised_names_shapes_and_values(timm, name, features):
    backbone = build(name, features).eval()
    shapes = backbone.output_shape()
    assert list(shapes) == features
    assert backbone.size_divisibility == max(shape.stride for shape in shapes.values())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        outputs, own = backbone(images), backbone.net(images)
    for feature, shape in shapes.items():
        assert shape.stride == 2 ** int(feature[-1])
        expected = (2, shape.channels, 64 // shape.stride, 96 // shape.stride)
        assert tuple(outputs[feature].shape) == expected
    # timm's own last map, put in (N, C, H, W) order by comparing sizes rather than by its flag.
    last = own[-1] if own[-1].shape[1] == shape.channels else own[-1].movedim(-1, 1)
    assert torch.equal(outputs[features[-1]], last)


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_any_number_of_input_channels(timm, channels):
    backbone = build("resnet18", ["res2"], channels=channels)
    assert backbone.net.conv1.weight.shape[1] == channels
    assert backbone(torch.zeros(1, channels, 32, 32))["res2"].shape == (1, 64, 8, 8)


def test_later_stages_are_not_built(timm):
    names = {name.split(".")[0] for name, _ in build("resnet10t", ["res3"]).net.named_parameters()}
    assert "layer2" in names
    assert "layer3" not in names


def test_fpn_from_a_config(timm):
    cfg = timm_cfg("test_resnet", "MODEL.BACKBONE.NAME", "mask_rcnn_ext_timm_fpn_backbone")
    cfg.merge_from_list(["MODEL.FPN.IN_FEATURES", ALL, "MODEL.FPN.OUT_CHANNELS", 16])
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [100.0] * 6, [50.0] * 6
    fpn = build_backbone(cfg)
    assert fpn.output_shape() == {
        f"p{level}": ShapeSpec(channels=16, stride=2**level) for level in range(2, 7)
    }
    assert fpn.size_divisibility == 32
    outputs = fpn(torch.zeros(1, 6, 64, 96))
    assert outputs["p6"].shape == (1, 16, 1, 2)


def test_output_features_come_from_the_config(timm):
    backbone = build_backbone(timm_cfg("test_resnet"))
    assert list(backbone.output_shape()) == ["res4"]  # detectron2's default


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        pytest.param("resnet1O", ALL, r"no model 'resnet1O'; did you mean 'resnet", id="unknown"),
        pytest.param("resnet18.nonsense", ALL, "gives no feature maps.*nonsense", id="tag"),
        pytest.param("test_vit", ALL, "has the features res4; asked for: res2", id="one stride"),
        pytest.param("test_resnet", ["p2"], "has the features res2, res3, res4, res5", id="name"),
        pytest.param("vit_base_patch14_dinov2", ["res4"], "stride 14, 14, 14", id="stride 14"),
        pytest.param("hiera_tiny_224", ["res4"], "images of any size", id="one image size"),
        pytest.param("inception_v3", ["res4"], r"expected \(1, 768, 8, 12\)", id="no padding"),
    ],
)
def test_networks_that_cannot_serve_are_refused(timm, name, features, message):
    with pytest.raises(UserError, match=message):
        build(name, features)


def test_freeze_at_freezes_the_stages_that_it_names(timm):
    backbone = build("test_resnet", ["res3", "res5"], freeze_at=2).train()
    convs = {f"{n}.weight" for n, m in backbone.net.named_modules() if isinstance(m, nn.Conv2d)}
    state = {name: p.requires_grad for name, p in backbone.net.named_parameters()}
    trained = {name for name, is_trained in state.items() if is_trained}
    assert trained == {name for name in convs if name.startswith(("layer2", "layer3", "layer4"))}
    assert {name.split(".")[0] for name in convs - trained} == {"conv1", "layer1"}
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    assert any("running_mean" in name for name in before)
    for name, value in backbone.named_buffers():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("freeze_at", "trained"),
    [(0, 7), (1, 6), (2, 5), (3, 4), (4, 2), (5, 0)],  # of the seven groups of blocks
)
def test_freeze_at_in_efficientnet_lite0(timm, freeze_at, trained):
    """Strides 2, 4, 8, 16 and 32 end with the groups 0, 1, 2, 4 and 6; the stem is before them."""
    net = build("tf_efficientnet_lite0", freeze_at=freeze_at).train().net
    groups = [*net.blocks, nn.ModuleList([net.conv_stem, net.bn1])]
    convs = [[m for m in group.modules() if isinstance(m, nn.Conv2d)] for group in groups]
    states = [{conv.weight.requires_grad for conv in found} for found in convs]
    assert states == [{index >= 7 - trained} for index in range(7)] + [{trained == 7}]
    before = {name: value.clone() for name, value in net.named_buffers()}
    net(torch.randn(2, 3, 64, 64))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 48
    assert {p.requires_grad for norm in norms for p in norm.parameters()} == {freeze_at == 0}
    fixed = {torch.equal(value, before[name]) for name, value in net.named_buffers()}
    assert fixed == {freeze_at > 0}


def test_a_named_stage_freezes_its_own_batch_normalisation_only(timm):
    """`MASK_RCNN_EXT.FREEZE` takes the names of timm's modules."""
    backbone = freeze_parts(build("tf_efficientnet_lite0"), ["net.blocks.0", "net.bn1"]).train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    for name, value in backbone.named_buffers():
        is_frozen = name.startswith(("net.blocks.0.", "net.bn1."))
        assert torch.equal(value, before[name]) == is_frozen, name
    for name, parameter in backbone.named_parameters():
        is_frozen = name.startswith(("net.blocks.0.", "net.bn1."))
        assert parameter.requires_grad != is_frozen, name


def test_freeze_at_zero_trains_everything(timm):
    backbone = build("test_resnet", ["res5"]).train()
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    before = backbone.net.bn1.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64) + 1)
    assert not torch.equal(backbone.net.bn1.running_mean, before)


def test_building_leaves_the_statistics_of_normalisation(timm):
    backbone = build("test_resnet", ["res5"])
    assert backbone.training
    assert all(module.training for module in backbone.modules())
    assert float(backbone.net.bn1.num_batches_tracked) == 0


def test_every_trained_parameter_gets_a_gradient(timm):
    """timm keeps blocks of this network that res3 does not need; DDP would wait for them."""
    backbone = build("mobilenetv3_small_050", ["res3"])
    unused = [parameter for parameter in backbone.parameters() if not parameter.requires_grad]
    assert unused
    backbone(torch.randn(2, 3, 64, 64))["res3"].sum().backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)
    assert all(p.grad is None for p in unused)


def test_a_stem_that_a_network_lacks_cannot_be_frozen(timm):
    with pytest.raises(UserError, match=r"no feature of stride 2.*one of 2, 3, 4, 5"):
        build("convnext_atto", freeze_at=1)


def test_random_weights_are_not_frozen(timm):
    with pytest.raises(UserError, match=r"FREEZE_AT is 2.*set MODEL\.BACKBONE\.FREEZE_AT 0"):
        build_backbone(timm_cfg("test_resnet", "MODEL.BACKBONE.FREEZE_AT", 2))


@pytest.mark.parametrize(
    ("weights", "asked_for"), [("", True), ("model_final.pth", False)], ids=["none", "a file"]
)
def test_timms_weights_are_wanted_only_without_others(timm, monkeypatch, weights, asked_for):
    create, asked = timm.create_model, []

    def record(name, *, pretrained=False, **options):
        asked.append(pretrained)
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", record)
    cfg = timm_cfg("test_resnet", "MASK_RCNN_EXT.TIMM.PRETRAINED", True)
    cfg.MODEL.WEIGHTS = weights
    build_backbone(cfg)
    assert any(asked) is asked_for


def test_weights_that_cannot_be_fetched_are_one_error(timm, monkeypatch):
    create = timm.create_model

    def offline(name, *, pretrained=False, **options):
        if pretrained:
            raise OSError("Name or service not known\nmore")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match=r"could not be loaded \(Name or service not known\)\. To"):
        build_backbone(timm_cfg("test_resnet", "MASK_RCNN_EXT.TIMM.PRETRAINED", True))
