"""`MaskRCNNROIHeads`: detectron2's standard heads with this package's RoI layers."""

import faithful
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_model
from detectron2.modeling.roi_heads import BaseMaskRCNNHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from faithful import assert_same_detections, assert_same_tensors
from tiny_model import detect, tiny_cfg
from torch import nn

from mask_rcnn_ext import UserError
from mask_rcnn_ext.modeling.poolers import OUR_TYPES, POOLER_TYPES, MaskRCNNROIPooler

# detectron2 logs the mean number of keypoint RoIs per image, also when no image has any.
no_keypoints_at_all = pytest.mark.filterwarnings(
    "ignore:Mean of empty slice:RuntimeWarning", "ignore:invalid value encountered:RuntimeWarning"
)
STOCK_TYPES = ("ROIAlign", "ROIAlignV2", "ROIPool")
CLASSES, KEYPOINTS = 3, 2


def heads_cfg(name: str, *, keypoints: bool = True, **pooler_types: str) -> CfgNode:
    """Return the small FPN model with box, mask and keypoint heads; `name` are the RoI heads."""
    cfg = tiny_cfg(CLASSES)
    model = cfg.MODEL
    model.ROI_HEADS.NAME, model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = name, 16
    model.KEYPOINT_ON = keypoints
    model.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS, model.ROI_KEYPOINT_HEAD.CONV_DIMS = KEYPOINTS, [8]
    model.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE = 0
    for head, pooler_type in pooler_types.items():
        model[f"ROI_{head.upper()}_HEAD"].POOLER_TYPE = pooler_type
    return cfg


def build(cfg: CfgNode, seed: int = 7) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(cfg)


def batch(*, keypoints: bool = True, objects: bool = True) -> list[dict]:
    return faithful.batch(classes=(0, 2), keypoints=KEYPOINTS if keypoints else 0, objects=objects)


def train_losses(model: nn.Module, images: list[dict]) -> dict[str, torch.Tensor]:
    model.train()
    torch.manual_seed(11)  # of the RoI sampling
    with EventStorage():
        return model(images)


def detections(model: nn.Module) -> list[Instances]:
    inputs = [{k: d[k] for k in ("image", "height", "width")} for d in batch()]
    return detect(model.eval(), *inputs)


def assert_same_model(ours: nn.Module, stock: nn.Module, images: list[dict]) -> None:
    """Fail unless keys, initial values, losses and predictions are equal, bit for bit."""
    assert_same_tensors(ours.state_dict(), stock.state_dict())
    assert_same_tensors(train_losses(ours, images), train_losses(stock, images))
    assert_same_detections(ours, stock)


def assert_trains(model: nn.Module, images: list[dict]) -> dict[str, torch.Tensor]:
    """Fail unless losses and gradients are finite and every trained parameter gets a gradient."""
    losses = train_losses(model, images)
    sum(losses.values()).backward()
    for name, loss in losses.items():
        assert torch.isfinite(loss), name
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    return losses


@pytest.mark.parametrize("pooler_type", STOCK_TYPES)
def test_bit_identical_to_detectron2s_heads(pooler_type):
    types = {"box": pooler_type, "mask": pooler_type, "keypoint": pooler_type}
    ours = build(heads_cfg("MaskRCNNROIHeads", **types))
    stock = build(heads_cfg("StandardROIHeads", **types))
    assert_same_model(ours, stock, batch())


@pytest.mark.parametrize("dilation", [1, 2], ids=["stride 32", "dilated"])
def test_bit_identical_on_c5(dilation):
    """Table 2d: FPN-style heads on the one map of res5."""
    models = []
    for name in ("MaskRCNNROIHeads", "StandardROIHeads"):
        cfg = heads_cfg(name, keypoints=False, box="ROIPool", mask="ROIAlign")
        model = cfg.MODEL
        model.BACKBONE.NAME = "build_resnet_backbone"
        model.RESNETS.OUT_FEATURES, model.RESNETS.RES5_DILATION = ["res5"], dilation
        model.RESNETS.DEPTH, model.RESNETS.STEM_OUT_CHANNELS = 50, 8
        model.RESNETS.RES2_OUT_CHANNELS, model.RESNETS.WIDTH_PER_GROUP = 16, 4
        model.ANCHOR_GENERATOR.SIZES = [[16, 32, 64]]
        model.RPN.IN_FEATURES = model.ROI_HEADS.IN_FEATURES = ["res5"]
        # Random weights without a norm double the variance in each block.
        model.PIXEL_STD = [5000.0] * 3
        models.append(build(cfg))
    stride = models[0].backbone.output_shape()["res5"].stride
    assert stride == 32 // dilation
    assert models[0].roi_heads.box_pooler.level_poolers[0].spatial_scale == 1 / stride
    assert_same_model(*models, batch(keypoints=False))


@pytest.mark.parametrize("pooler_type", POOLER_TYPES)
def test_every_pooler_type_in_every_head(pooler_type):
    types = {"box": pooler_type, "mask": pooler_type, "keypoint": pooler_type}
    model = build(heads_cfg("MaskRCNNROIHeads", **types))
    losses = assert_trains(model, batch())
    assert {"loss_cls", "loss_box_reg", "loss_mask", "loss_keypoint"} < set(losses)
    assert all(losses[name] > 0 for name in ("loss_cls", "loss_mask", "loss_keypoint"))
    for instances in detections(model):
        assert len(instances) > 0
        assert instances.pred_masks.shape[1:] == instances.image_size
        assert instances.pred_keypoints.shape == (len(instances), KEYPOINTS, 3)
        assert torch.isfinite(instances.scores).all()


def test_each_head_has_its_own_pooler():
    """Resolution, sampling ratio and type come from the head's own keys, scales from the maps."""
    cfg = heads_cfg("MaskRCNNROIHeads", box="ROIWarpMax", mask="ROIPool", keypoint="ROIAlignMax")
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 10
    cfg.freeze()
    heads = build(cfg).roi_heads
    poolers = {
        "ROIWarpMax": (heads.box_pooler, 7),
        "ROIPool": (heads.mask_pooler, 10),
        "ROIAlignMax": (heads.keypoint_pooler, 14),
    }
    maps = [torch.rand(2, 16, 32 // 2**i, 48 // 2**i) for i in range(4)]
    boxes = [Boxes(torch.tensor([[3.0, 4.0, 40.0, 61.0], [0.0, 0.0, 120.0, 100.0]]))] * 2
    for pooler_type, (pooler, side) in poolers.items():
        alone = MaskRCNNROIPooler(side, (1 / 4, 1 / 8, 1 / 16, 1 / 32), 0, pooler_type)
        assert isinstance(pooler, MaskRCNNROIPooler)
        assert torch.equal(pooler(maps, boxes), alone(maps, boxes)), pooler_type
    # Building sets a stock type in a copy; the user's config does not change.
    assert cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE == "ROIWarpMax"


def test_train_on_predicted_boxes_is_detectron2s():
    models = []
    for name in ("MaskRCNNROIHeads", "StandardROIHeads"):
        cfg = heads_cfg(name, keypoints=False)
        cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = True
        models.append(build(cfg))
        assert models[-1].roi_heads.train_on_pred_boxes
        # Boxes that were not moved would hide a model that ignores the key.
        nn.init.constant_(models[-1].roi_heads.box_predictor.bbox_pred.bias, 0.5)
    plain = build(heads_cfg("MaskRCNNROIHeads", keypoints=False))
    nn.init.constant_(plain.roi_heads.box_predictor.bbox_pred.bias, 0.5)
    assert_same_model(*models, batch(keypoints=False))
    masks = [
        train_losses(model, batch(keypoints=False))["loss_mask"] for model in (models[0], plain)
    ]
    assert not torch.equal(*masks)


class _MapsMaskHead(BaseMaskRCNNHead):
    """A mask head that pools for itself, as PointRend's does: it gets the feature maps."""

    def __init__(self, cfg: CfgNode, input_shape: dict) -> None:
        super().__init__()
        assert cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE == ""
        self.channels = {name: shape.channels for name, shape in input_shape.items()}

    def forward(self, x: dict, instances: list[Instances]):
        assert {name: features.shape[1] for name, features in x.items()} == self.channels
        return {"loss_mask": sum(f.sum() for f in x.values()) * 0} if self.training else instances


def test_a_mask_head_without_a_pooler_gets_the_maps(monkeypatch):
    monkeypatch.setitem(ROI_MASK_HEAD_REGISTRY._obj_map, "_MapsMaskHead", _MapsMaskHead)
    cfg = heads_cfg("MaskRCNNROIHeads", mask="")
    cfg.MODEL.ROI_MASK_HEAD.NAME = "_MapsMaskHead"
    model = build(cfg)
    assert model.roi_heads.mask_pooler is None
    assert set(model.roi_heads.mask_head.channels) == {"p2", "p3", "p4", "p5"}
    assert "loss_mask" in train_losses(model, batch())
    assert len(detections(model)) == 2


@no_keypoints_at_all
@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIPool", *OUR_TYPES])
def test_images_without_objects(pooler_type):
    types = {"box": pooler_type, "mask": pooler_type, "keypoint": pooler_type}
    model = build(heads_cfg("MaskRCNNROIHeads", **types))
    losses = assert_trains(model, batch(objects=False))
    assert losses["loss_mask"] == losses["loss_keypoint"] == losses["loss_box_reg"] == 0


@no_keypoints_at_all
@pytest.mark.parametrize("pooler_type", ["ROIAlignV2", "ROIPool", *OUR_TYPES])
def test_no_proposals_at_all(pooler_type):
    types = {"box": pooler_type, "mask": pooler_type, "keypoint": pooler_type}
    heads = build(heads_cfg("MaskRCNNROIHeads", **types)).roi_heads
    assert_survives_no_proposals(heads, [f"p{level}" for level in range(2, 6)], channels=16)


def assert_survives_no_proposals(heads: nn.Module, names: list[str], channels: int) -> None:
    """Train and predict on two images with neither proposals nor objects."""
    features = {n: torch.rand(2, channels, 8, 8, requires_grad=True) for n in names}
    proposals, targets = [], [d["instances"] for d in batch(objects=False)]
    for target in targets:
        empty = Instances(target.image_size)
        empty.proposal_boxes, empty.objectness_logits = Boxes(torch.zeros(0, 4)), torch.zeros(0)
        proposals.append(empty)
    heads.train()
    with EventStorage():
        _, losses = heads(None, features, proposals, targets)
    loss = sum(losses.values())
    loss.backward()
    assert loss == 0
    for name, parameter in heads.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert not parameter.grad.any(), name
    for name, value in heads.state_dict().items():
        assert torch.isfinite(value).all(), name  # also a batch norm's running statistics
    heads.eval()
    with torch.no_grad():
        found, _ = heads(None, features, proposals)
    for instances in found:
        assert len(instances) == 0
        assert instances.has("pred_masks")


@pytest.mark.parametrize("head", ["box", "mask", "keypoint"])
def test_an_unknown_pooler_type_is_named(head):
    with pytest.raises(UserError, match=r"ROIAlingV2.*did you mean 'ROIAlignV2'"):
        build(heads_cfg("MaskRCNNROIHeads", **{head: "ROIAlingV2"}))


def test_an_unknown_feature_map_is_named():
    cfg = heads_cfg("MaskRCNNROIHeads")
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "res5"]
    with pytest.raises(UserError, match=r"IN_FEATURES: expected some of p2.*got 'res5'"):
        build(cfg)
