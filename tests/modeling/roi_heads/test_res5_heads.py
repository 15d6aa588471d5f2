"""`MaskRCNNRes5ROIHeads`: the paper's C4 head and detectron2's, and the one of the tiny ResNet."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_roi_heads
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.structures import Boxes, Instances
from faithful import assert_same_tensors
from test_roi_heads import (
    CLASSES,
    assert_same_model,
    assert_survives_no_proposals,
    assert_trains,
    batch,
    build,
    detections,
    train_losses,
)
from tiny_model import tiny_cfg
from torch import nn

from mask_rcnn_ext import UserError
from mask_rcnn_ext.modeling.poolers import POOLER_TYPES

RES4, RES5 = 64, 128  # channels of the narrow ResNet-50 below


def c4_cfg(name: str, resolution: int, *overrides) -> CfgNode:
    """Return a narrow ResNet-50 with res5 as the head; `name` are the RoI heads."""
    cfg = tiny_cfg(CLASSES)
    model = cfg.MODEL
    model.BACKBONE.NAME, model.RESNETS.OUT_FEATURES = "build_resnet_backbone", ["res4"]
    model.RESNETS.DEPTH, model.RESNETS.STEM_OUT_CHANNELS = 50, 8
    model.RESNETS.RES2_OUT_CHANNELS, model.RESNETS.WIDTH_PER_GROUP = 16, 4
    model.PIXEL_STD = [2000.0] * 3  # random weights without a norm double the variance in a block
    model.ANCHOR_GENERATOR.SIZES = [[16, 32, 64]]
    model.RPN.IN_FEATURES = model.ROI_HEADS.IN_FEATURES = ["res4"]
    model.ROI_HEADS.NAME, model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = name, 16
    model.ROI_BOX_HEAD.NAME = ""
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = resolution
    model.ROI_MASK_HEAD.NUM_CONV = 0
    cfg.merge_from_list(list(overrides))
    return cfg


def tiny_c4_cfg(resolution: int, *overrides) -> CfgNode:
    """Return a narrow tiny ResNet with its res5 as the head."""
    cfg = c4_cfg("MaskRCNNTinyRes5ROIHeads", resolution)
    model = cfg.MODEL
    model.BACKBONE.NAME = "mask_rcnn_ext_tiny_resnet_backbone"
    model.PIXEL_STD = [57.0] * 3
    tiny = cfg.MASK_RCNN_EXT.TINY_RESNET
    tiny.STEM_CHANNELS, tiny.CHANNELS, tiny.BLOCKS = 4, [8, 12, RES4, 24], [1, 1, 1, 2]
    cfg.merge_from_list(list(overrides))
    return cfg


def heads_alone(cfg: CfgNode) -> nn.Module:
    """Return the RoI heads on a 1/16 map, without a backbone."""
    torch.manual_seed(5)
    return build_roi_heads(cfg, {"res4": ShapeSpec(channels=RES4, stride=16)})


def res4_and_boxes() -> tuple[dict[str, torch.Tensor], list[Boxes]]:
    generator = torch.Generator().manual_seed(2)
    features = {"res4": torch.randn(2, RES4, 6, 6, generator=generator)}
    boxes = [[10.0, 12.0, 70.0, 64.0], [3.0, 20.0, 90.0, 80.0]]
    return features, [Boxes(torch.tensor(boxes)), Boxes(torch.tensor(boxes[:1]))]


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["MODEL.RESNETS.STRIDE_IN_1X1", False, "MODEL.RESNETS.NUM_GROUPS", 2],
        [
            *("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool"),
            *("MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", True),
        ],
        ["MODEL.MASK_ON", False],
    ],
    ids=["ResNet", "ResNeXt", "RoIPool, agnostic", "no masks"],
)
def test_with_14_cells_it_is_detectron2s_head(overrides):
    ours = build(c4_cfg("MaskRCNNRes5ROIHeads", 14, *overrides))
    stock = build(c4_cfg("Res5ROIHeads", 14, *overrides))
    assert_same_model(ours, stock, batch(keypoints=False))


def test_the_papers_head_differs_in_no_parameter():
    """Same keys, shapes and initial values: a checkpoint of one loads into the other."""
    ours, stock = build(c4_cfg("MaskRCNNRes5ROIHeads", 7)), build(c4_cfg("Res5ROIHeads", 14))
    assert_same_tensors(ours.state_dict(), stock.state_dict())


@pytest.mark.parametrize("stride_in_1x1", [True, False])
def test_the_papers_res5_has_stride_one(stride_in_1x1):
    """Pooler, then a res5 built with stride 1 by detectron2 itself, gives the same features."""
    overrides = ["MODEL.RESNETS.STRIDE_IN_1X1", stride_in_1x1]
    heads = heads_alone(c4_cfg("MaskRCNNRes5ROIHeads", 7, *overrides))
    by_hand = nn.Sequential(
        *ResNet.make_stage(
            BottleneckBlock, 3, stride_per_block=[1, 1, 1], in_channels=RES4, out_channels=RES5,
            bottleneck_channels=32, norm="FrozenBN", stride_in_1x1=stride_in_1x1,
        )
    )  # fmt: skip
    by_hand.load_state_dict(heads.res5.state_dict())
    features, boxes = res4_and_boxes()
    pooled = heads.pooler([features["res4"]], boxes)
    assert pooled.shape == (3, RES4, 7, 7)
    seen = heads._shared_roi_transform([features["res4"]], boxes)
    assert seen.shape == (3, RES5, 7, 7)
    assert torch.equal(seen, by_hand(pooled))
    assert [block.stride for block in heads.res5] == [1, 1, 1]
    strides = {m.stride for m in heads.res5.modules() if isinstance(m, nn.Conv2d)}
    assert strides == {(1, 1)}


def test_detectron2s_head_sees_every_second_cell():
    """What detectron2's head computes from 14 x 14 cells, the paper's does from the even ones."""
    paper = heads_alone(c4_cfg("MaskRCNNRes5ROIHeads", 7))
    detectron2 = heads_alone(c4_cfg("MaskRCNNRes5ROIHeads", 14))
    cells = torch.randn(2, RES4, 14, 14)
    assert detectron2.res5(cells).shape == (2, RES5, 7, 7)
    torch.testing.assert_close(detectron2.res5(cells), paper.res5(cells[:, :, ::2, ::2]))
    # With the stride in the 3 x 3 convolution, as in ResNeXt, it sees them all.
    in_3x3 = ["MODEL.RESNETS.STRIDE_IN_1X1", False]
    detectron2 = heads_alone(c4_cfg("MaskRCNNRes5ROIHeads", 14, *in_3x3))
    seen = detectron2.res5(cells)
    assert not torch.allclose(seen, paper.res5(cells[:, :, ::2, ::2]), atol=1e-3)


@pytest.mark.parametrize("resolution", [7, 14])
@pytest.mark.parametrize(("side", "expected"), [(0, 14), (14, 14), (28, 28), (56, 56)])
def test_the_mask_side_counts_from_seven(resolution, side, expected):
    cfg = c4_cfg(
        "MaskRCNNRes5ROIHeads", resolution,
        "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNFCNHead",
        "MODEL.ROI_MASK_HEAD.OUTPUT_RESOLUTION", side,
    )  # fmt: skip
    heads = heads_alone(cfg).eval()
    features, (boxes, _) = res4_and_boxes()
    given = {"pred_boxes": boxes, "pred_classes": torch.tensor([0, 2])}
    found = [Instances((96, 96), **given) for _ in range(2)]
    with torch.no_grad():
        found = heads.forward_with_given_boxes(features, found)
    assert [i.pred_masks.shape for i in found] == [(2, 1, expected, expected)] * 2


def test_box_and_mask_share_res5_in_training_and_not_at_test():
    """In training one pass of pooler and res5; at test a second one, on the detected boxes."""
    model = build(c4_cfg("MaskRCNNRes5ROIHeads", 7))
    heads, passes = model.roi_heads, []
    heads.res5.register_forward_hook(lambda module, inputs, output: passes.append(output))
    masked = []
    heads.mask_head.register_forward_pre_hook(lambda module, inputs: masked.append(inputs))
    train_losses(model, batch(keypoints=False))
    assert len(passes) == len(masked) == 1
    foreground, proposals = masked[0]
    assert 0 < len(foreground) == sum(len(p) for p in proposals) < len(passes[0])
    # Each of the mask head's inputs is one of the box head's.
    rows = {tuple(row.flatten()[:8].tolist()) for row in passes[0]}
    assert all(tuple(row.flatten()[:8].tolist()) in rows for row in foreground)
    passes.clear()
    found = detections(model)
    assert len(passes) == 2
    assert len(passes[1]) == sum(len(i) for i in found) < len(passes[0])
    assert torch.equal(masked[1][0], passes[1])


@pytest.mark.parametrize(
    ("pooler_type", "resolution"),
    [*((pooler_type, 7) for pooler_type in POOLER_TYPES), ("ROIWarpAve", 14)],
)
def test_every_pooler_type(pooler_type, resolution):
    types = ["MODEL.ROI_BOX_HEAD.POOLER_TYPE", pooler_type]
    model = build(c4_cfg("MaskRCNNRes5ROIHeads", resolution, *types))
    assert model.roi_heads.pooler.pooler_type == pooler_type
    losses = assert_trains(model, batch(keypoints=False))
    assert all(losses[name] > 0 for name in ("loss_cls", "loss_box_reg", "loss_mask"))
    for instances in detections(model):
        assert len(instances) > 0
        assert instances.pred_masks.shape[1:] == instances.image_size


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
@pytest.mark.parametrize("agnostic", [False, True], ids=["specific", "agnostic"])
def test_losses_and_agnostic_masks(loss, agnostic):
    """Tables 2b and "class-agnostic" are on C4; the boxes stay class-specific."""
    cfg = c4_cfg(
        "MaskRCNNRes5ROIHeads", 7,
        "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNFCNHead",
        "MODEL.ROI_MASK_HEAD.LOSS", loss,
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", agnostic,
    )  # fmt: skip
    model = build(cfg)
    channels = (1 if agnostic else CLASSES) + (loss == "softmax")  # softmax: and the background
    assert model.roi_heads.mask_head.predictor.out_channels == channels
    assert model.roi_heads.box_predictor.bbox_pred.out_features == 4 * CLASSES
    assert assert_trains(model, batch(keypoints=False))["loss_mask"] > 0
    assert all(i.pred_masks.dtype == torch.bool for i in detections(model))


@pytest.mark.parametrize(
    "cfg", [c4_cfg("MaskRCNNRes5ROIHeads", 7), tiny_c4_cfg(7)], ids=["ResNet-50", "tiny"]
)
def test_images_without_objects(cfg):
    losses = assert_trains(build(cfg), batch(keypoints=False, objects=False))
    assert losses["loss_mask"] == losses["loss_box_reg"] == 0
    assert losses["loss_cls"] > 0


@pytest.mark.parametrize(
    "cfg",
    [
        *(
            c4_cfg("MaskRCNNRes5ROIHeads", 7, "MODEL.ROI_BOX_HEAD.POOLER_TYPE", pooler_type)
            for pooler_type in POOLER_TYPES
        ),
        tiny_c4_cfg(7),
    ],
    ids=[*POOLER_TYPES, "tiny"],
)
def test_no_proposals_at_all(cfg):
    assert_survives_no_proposals(heads_alone(cfg), ["res4"], channels=RES4)


@pytest.mark.parametrize("resolution", [7, 14])
def test_the_tiny_head(resolution):
    """res5 of the tiny ResNet, by the same rule; the backbone itself ends at res4."""
    model = build(tiny_c4_cfg(resolution))
    assert not any(name.startswith("backbone.res5") for name in model.state_dict())
    res5 = model.roi_heads.res5
    assert [block.stride for block in res5] == [resolution // 7, 1]
    assert res5[0].conv1.stride == (resolution // 7,) * 2
    assert res5(torch.randn(1, RES4, resolution, resolution)).shape == (1, 24, 7, 7)
    assert_trains(model, batch(keypoints=False))
    for instances in detections(model):
        assert len(instances) > 0
        assert instances.pred_masks.shape[1:] == instances.image_size


def test_the_tiny_head_has_the_parameters_of_the_tiny_backbone():
    """Those that `mask_rcnn_ext_tiny_resnet_backbone` gives to res5 when it goes that far."""
    head = build(tiny_c4_cfg(7)).roi_heads.res5.state_dict()
    cfg = tiny_c4_cfg(7, "MODEL.RESNETS.OUT_FEATURES", ["res4", "res5"])
    backbone = build(cfg).backbone.res5.state_dict()
    assert {k: v.shape for k, v in head.items()} == {k: v.shape for k, v in backbone.items()}


@pytest.mark.parametrize("resolution", [10, 28])
@pytest.mark.parametrize("name", ["MaskRCNNRes5ROIHeads", "MaskRCNNTinyRes5ROIHeads"])
def test_other_resolutions_are_refused(name, resolution):
    with pytest.raises(UserError, match=rf"POOLER_RESOLUTION.*expected 7 .* 14 .*got {resolution}"):
        heads_alone(c4_cfg(name, resolution))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.KEYPOINT_ON", True], r"KEYPOINT_ON.*no keypoint branch.*MaskRCNNROIHeads"),
        (["MODEL.ROI_HEADS.IN_FEATURES", ["res4", "res5"]], r"IN_FEATURES.*one feature map"),
        (["MODEL.ROI_HEADS.IN_FEATURES", ["res3"]], r"expected some of res4.*'res3'.*'res4'"),
        (["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "RoIWarpMax"], r"did you mean 'ROIWarpMax'"),
    ],
    ids=["keypoints", "two maps", "unknown map", "pooler"],
)
def test_what_it_cannot_do_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        heads_alone(c4_cfg("MaskRCNNRes5ROIHeads", 7, *overrides))
