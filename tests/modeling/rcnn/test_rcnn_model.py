"""R-CNN: a classifier on every crop; what is sampled, scored and kept; the mistakes."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from tiny_rcnn import record, small_cfg, small_model
from torch import nn

from mask_rcnn_ext import UserError
from mask_rcnn_ext.modeling.checks import require_fitting_parts, require_fitting_training_data
from mask_rcnn_ext.modeling.rcnn import RCNN, RCNNSVMOutputLayers

BOXES = [(10, 10, 42, 38), (0, 0, 20, 60), (50, 5, 90, 60), (30, 30, 34, 33)]


def losses_of(model: nn.Module, *records: dict) -> dict:
    with EventStorage():
        losses: dict = model(list(records))
    return losses


def test_it_is_registered_and_shares_no_map():
    model = small_model().eval()
    assert isinstance(model, RCNN)
    assert model.proposal_generator is None
    one = record(BOXES[:1])
    other = {**one, "image": one["image"].clone()}
    other["image"][:, :, 60:] = 0  # beyond the crop of the only proposal
    alike = [model([each])[0]["instances"] for each in (one, other)]
    assert len(alike[0]) > 0
    assert torch.equal(alike[0].scores, alike[1].scores)
    other["image"][:, 10:20, 12:30] = 0
    assert not torch.equal(alike[0].scores, model([other])[0]["instances"].scores)


def test_fast_rcnn_does_share_its_map():
    model = small_model(name="fast_rcnn_tiny").eval()
    one = record(BOXES[:1])
    other = {**one, "image": one["image"].clone()}
    other["image"][:, :, 60:] = 0
    scores = [model([each])[0]["instances"].scores for each in (one, other)]
    assert not torch.equal(*scores)


@pytest.mark.parametrize("name", ["rcnn_tiny", "fast_rcnn_tiny"])
def test_gradients_reach_the_backbone(name):
    model = small_model(name=name)
    losses = losses_of(model, record(BOXES), record(BOXES[1:], seed=1))
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.parameters())


def test_the_svms_train_nothing():
    model = small_model("MODEL.RCNN.SCORER", "svm")
    with pytest.raises(UserError, match=r"tools/train_rcnn_svm\.py"):
        losses_of(model, record(BOXES))


@pytest.mark.parametrize("scorer", ["softmax", "svm"])
def test_crops_in_parts_or_at_once(scorer):
    model = small_model("MODEL.RCNN.SCORER", scorer).eval()
    found = {}
    for model.crops_per_batch in (1, 3, 256):
        found[model.crops_per_batch] = model([record(BOXES)])[0]["instances"]
    for part in (1, 3):
        torch.testing.assert_close(found[part].scores, found[256].scores)
        torch.testing.assert_close(found[part].pred_boxes.tensor, found[256].pred_boxes.tensor)


def test_images_of_a_batch_do_not_touch_one_another():
    model = small_model().eval()
    records = [record(BOXES), record(BOXES[:2], size=(48, 56), seed=1), record([], seed=2)]
    together = [each["instances"] for each in model(records)]
    for alone, each in zip(records, together, strict=True):
        single = model([alone])[0]["instances"]
        torch.testing.assert_close(single.scores, each.scores)
        torch.testing.assert_close(single.pred_boxes.tensor, each.pred_boxes.tensor)
    assert len(together[2]) == 0
    assert together[1].pred_boxes.tensor[:, 2].max() <= 56


def test_no_object_and_no_proposal_still_backward():
    model = small_model()
    empty = record([], targets=())
    losses = losses_of(model, empty)
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_batch_is_a_quarter_positive_and_sees_the_true_boxes():
    model = small_model("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "8")
    seen = []
    model.roi_heads.box_head.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0]))
    near = [(8 + i / 4, 8, 40, 40) for i in range(9)]
    losses_of(model, record([*near, *[(60, y, 90, y + 20) for y in range(9)]]))
    assert len(seen[0]) == 8  # of 19 candidates: the true box is one
    assert (sampled(model, record(near)).gt_classes == 1).sum() == 2
    far = sampled(model, record([(60, y, 90, y + 20) for y in range(9)]))
    assert far.proposal_boxes.tensor[far.gt_classes == 1].tolist() == [[8, 8, 40, 40]]


def sampled(model: nn.Module, one: dict) -> Instances:
    """Return the labelled sample of the proposals of an image."""
    with EventStorage():
        (found,) = model.roi_heads.label_and_sample_proposals(
            [one["proposals"]], [one["instances"]]
        )
    return found


@pytest.mark.parametrize(("name", "floor"), [("fast_rcnn_tiny", 0.1), ("faster_rcnn_tiny", 0.0)])
def test_background_of_fast_rcnn_overlaps_an_object_a_little(name, floor):
    """Fast R-CNN, section 2.3: background has an IoU of at least 0.1 and below 0.5."""
    model = small_model("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "100", name=name)
    generator = torch.Generator().manual_seed(5)
    corners = torch.rand(200, 2, generator=generator) * 40
    boxes = torch.cat([corners, corners + 10 + torch.rand(200, 2, generator=generator) * 30], 1)
    one = record(boxes.tolist())
    found = sampled(model, one)
    ious = pairwise_iou(found.proposal_boxes, one["instances"].gt_boxes)[:, 0]
    background = found.gt_classes == 5
    assert background.sum() > 20
    assert (ious[background] < 0.5).all()
    assert (ious[~background] >= 0.5).all()
    assert (ious[background].min() >= floor) if floor else (ious[background].min() < 0.1)


def test_the_box_branch_is_class_specific():
    model = small_model()
    assert model.roi_heads.box_predictor.bbox_pred.out_features == 4 * 5
    assert model.roi_heads.box_predictor.cls_score.out_features == 5 + 1


def test_an_svms_score_is_the_sigmoid_of_its_margin():
    model = small_model("MODEL.RCNN.SCORER", "svm").eval()
    layers = model.roi_heads.box_predictor
    assert isinstance(layers, RCNNSVMOutputLayers)
    assert layers.ridge.in_features == 16 * 4 * 4  # the map of a crop, flattened
    one = record(BOXES)
    images = model.preprocess_image([one])
    hidden, flat = model.roi_heads.describe(model.map_crops(images, [torch.tensor(BOXES).float()]))
    margins, deltas = layers(hidden, flat)
    torch.testing.assert_close(margins, hidden @ layers.svm.weight.T + layers.svm.bias)
    probs = layers.predict_probs((margins, deltas), [one["proposals"]])[0]
    torch.testing.assert_close(probs[:, :-1], 1 / (1 + torch.exp(-margins)))
    assert not probs[:, -1].any()
    best = model([one])[0]["instances"].scores.max()
    torch.testing.assert_close(best, probs.max())


def test_building_it_leaves_batch_statistics_alone():
    model = small_model()
    means = [b for name, b in model.backbone.named_buffers() if name.endswith("running_mean")]
    assert means
    assert not any(mean.any() for mean in means)
    assert model.backbone.training


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.RCNN.CROP_CONTEXT", "16"], r"CROP_CONTEXT.*less than half of CROP_SIZE \(32\)"),
        (["MODEL.RCNN.CROPS_PER_BATCH", "0"], "CROPS_PER_BATCH: expected 1 or more, got 0"),
        (["MODEL.RCNN.SCORER", "swm"], "softmax or svm, got 'swm'"),
        (["MODEL.ROI_HEADS.IN_FEATURES", "['res5']"], "IN_FEATURES: expected one of res4"),
        (["MODEL.ROI_BOX_HEAD.NAME", ""], "ROI_BOX_HEAD.NAME"),
        (["MODEL.RCNN.SCORER", "svm", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"],
         "class-specific boxes"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_built_says_why(overrides, message):
    with pytest.raises(UserError, match=message):
        build_model(small_cfg(*overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.LOAD_PROPOSALS", "False"], "reads stored proposals"),
        (["MODEL.PROPOSAL_GENERATOR.NAME", "RPN"], "got 'RPN'.*mask-rcnn-ext proposals"),
        (["MODEL.MASK_ON", "True"], "MODEL.MASK_ON: R-CNN finds boxes only"),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "Set MODEL.ROI_HEADS.NAME RCNNROIHeads"),
        (["MODEL.META_ARCHITECTURE", "MaskRCNN"], "Set MODEL.META_ARCHITECTURE MaskRCNNExtRCNN"),
    ],
)
def test_parts_that_do_not_fit_are_found_before_building(overrides, message):
    require_fitting_parts(small_cfg())
    with pytest.raises(UserError, match=message):
        require_fitting_parts(small_cfg(*overrides))


def test_the_svms_are_not_for_train_net():
    require_fitting_training_data(small_cfg())
    with pytest.raises(UserError, match=r"use tools/train_rcnn_svm\.py"):
        require_fitting_training_data(small_cfg("MODEL.RCNN.SCORER", "svm"))


def test_an_image_without_proposals_is_an_error():
    one = record(BOXES)
    del one["proposals"]
    with pytest.raises(UserError, match="reads stored proposals"):
        small_model().eval()([one])
