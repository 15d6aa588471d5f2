"""Test-time augmentation: with one view it is the plain model; with flips it is symmetric."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.evaluation import inference_context
from detectron2.modeling import DatasetMapperTTA, build_model
from detectron2.structures import Boxes, Instances
from fvcore.transforms import HFlipTransform
from fvcore.transforms.transform import TransformList
from tiny_model import detect, spread, tiny_cfg
from torch import nn

from mask_rcnn_ext import UserError
from mask_rcnn_ext.modeling.precision import inference_autocast, prepare_model
from mask_rcnn_ext.modeling.test_time_augmentation import (
    MaskRCNNWithTTA,
    add_tta_results,
    make_tta_config,
    require_tta,
)

NAMES = ["nose", "left_eye", "right_eye"]
MIRROR = [0, 2, 1]


@pytest.fixture
def people(forget_data_sets):
    """The name of a data set that knows left from right."""
    name = "tta_people"
    MetadataCatalog.get(name).set(
        keypoint_names=NAMES, keypoint_flip_map=[("left_eye", "right_eye")]
    )
    return name


def cfg_of(*, sizes=(64,), flip=False, keypoints=False, datasets=()):
    cfg = tiny_cfg(3)
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.FLIP = True, flip
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = sizes, 96
    cfg.DATASETS.TEST = datasets
    if keypoints:
        cfg.MODEL.KEYPOINT_ON = True
        head = cfg.MODEL.ROI_KEYPOINT_HEAD
        head.NAME, head.NUM_KEYPOINTS = "KRCNNConvDeconvUpsampleHead", len(NAMES)
        head.POOLER_RESOLUTION, head.CONV_DIMS = 7, [8]
    return cfg


def model_of(cfg) -> nn.Module:
    """A model with random weights whose scores, masks and heatmaps vary as a trained one's do."""
    torch.manual_seed(0)
    model = prepare_model(cfg, build_model(cfg)).eval()
    heads = model.roi_heads
    layers = [(heads.box_predictor.cls_score, 1.0), (heads.mask_head.predictor, 2.0)]
    if cfg.MODEL.KEYPOINT_ON:
        layers.append((heads.keypoint_head.score_lowres, 3.0))
    for layer, deviation in layers:
        nn.init.normal_(layer.weight, std=0.01)
        spread(model, layer, deviation, image_of(64, 96))
    return model


def image_of(height: int, width: int, *, seed=0, size=None) -> dict:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    full = size or (height, width)
    return {"image": image, "height": full[0], "width": full[1]}


def assert_same(ours: Instances, plain: Instances) -> None:
    assert set(ours.get_fields()) == set(plain.get_fields()) - {"pred_keypoint_heatmaps"}
    assert len(ours) == len(plain) > 3
    assert ours.image_size == plain.image_size
    assert torch.equal(ours.pred_classes, plain.pred_classes)
    assert torch.allclose(ours.scores, plain.scores, atol=1e-6)
    assert torch.allclose(ours.pred_boxes.tensor, plain.pred_boxes.tensor, atol=1e-3)
    if ours.has("pred_masks"):
        assert plain.pred_masks.sum() > 500
        assert (ours.pred_masks != plain.pred_masks).sum() < 0.01 * plain.pred_masks.sum()
    if ours.has("pred_keypoints"):
        assert torch.allclose(ours.pred_keypoints, plain.pred_keypoints, atol=1e-2)


@pytest.mark.parametrize("keypoints", [False, True], ids=["masks", "masks and keypoints"])
def test_one_view_at_the_test_size_is_the_plain_model(keypoints):
    cfg = cfg_of(keypoints=keypoints)
    model = model_of(cfg)
    batch = [image_of(64, 96), image_of(64, 80, seed=1)]  # also several images in one batch
    for ours, image in zip(detect(MaskRCNNWithTTA(cfg, model), *batch), batch, strict=True):
        assert_same(ours, *detect(model, image))


def test_one_view_of_an_image_that_is_resized():
    """The original goes in, see `make_tta_config`; the plain model gets it resized."""
    cfg = cfg_of()
    model = model_of(cfg)
    original = image_of(96, 128)
    array = original["image"].permute(1, 2, 0).numpy()
    resized = ResizeShortestEdge(64, 96).get_transform(array).apply_image(array)
    plain = {**original, "image": torch.from_numpy(resized.transpose(2, 0, 1).copy())}
    assert_same(*detect(MaskRCNNWithTTA(cfg, model), original), *detect(model, plain))


@pytest.mark.parametrize("flip", [False, True])
def test_the_views_are_those_of_detectron2(flip):
    cfg = cfg_of(sizes=(40, 64), flip=flip)
    image = {**image_of(64, 96), "height": 128, "width": 192, "file_name": "x.png"}
    ours = MaskRCNNWithTTA(cfg, model_of(cfg)).tta_mapper(image)
    theirs = DatasetMapperTTA(cfg)(image)
    assert len(ours) == len(theirs) == 2 * (1 + flip)
    for mine, view in zip(ours, theirs, strict=True):
        assert mine.keys() == view.keys()
        assert torch.equal(mine["image"], view["image"])
        corners = np.array([[3.0, 5.0], [100.0, 90.0]])
        expected = view["transforms"].apply_coords(corners.copy())
        assert (mine["transforms"].apply_coords(corners.copy()) == expected).all()


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_no_side_of_a_view_becomes_0(size):
    cfg = cfg_of(sizes=(40, 64), flip=True)
    (found,) = detect(MaskRCNNWithTTA(cfg, model_of(cfg)), image_of(*size))
    assert found.image_size == size


def test_the_test_loader_of_tta_does_not_resize():
    cfg = cfg_of()
    assert make_tta_config(cfg).INPUT.MIN_SIZE_TEST == 0
    assert cfg.INPUT.MIN_SIZE_TEST == 64


def test_a_mirrored_image_gives_the_mirrored_result(people):
    """Image and mirror image make the same set of views, so the results mirror each other."""
    cfg = cfg_of(sizes=(64,), flip=True, keypoints=True, datasets=(people,))
    wrapper = MaskRCNNWithTTA(cfg, model_of(cfg))
    image = image_of(64, 96)
    mirror = {**image, "image": image["image"].flip(dims=[2])}
    straight, mirrored = detect(wrapper, image, mirror)
    assert len(straight) == len(mirrored) > 3
    assert torch.equal(straight.pred_classes, mirrored.pred_classes)
    boxes = mirrored.pred_boxes.tensor[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1])
    boxes += torch.tensor([96.0, 0, 96, 0])
    assert torch.allclose(straight.pred_boxes.tensor, boxes, atol=1e-2)
    differing = straight.pred_masks != mirrored.pred_masks.flip(dims=[2])
    assert differing.float().mean() < 0.01
    keypoints = mirrored.pred_keypoints[:, MIRROR] * torch.tensor([-1.0, 1, 1])
    keypoints += torch.tensor([96.0, 0, 0])
    # Decoding rounds to a cell of about a pixel, to the left in one and to the right in the other.
    error = (straight.pred_keypoints - keypoints)[:, :, :2].abs().amax(dim=2)
    assert (error < 1.5).float().mean() > 0.9
    unswapped = (straight.pred_keypoints - keypoints[:, MIRROR])[:, 1:, :2].abs().amax(dim=2)
    assert (unswapped < 1.5).float().mean() < 0.5  # the test can tell left from right


def test_heatmaps_are_turned_back_and_averaged(people):
    cfg = cfg_of(flip=True, keypoints=True, datasets=(people,))
    wrapper = MaskRCNNWithTTA(cfg, model_of(cfg))
    upright = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4)
    seen = torch.zeros_like(upright)
    for k in range(3):  # what a camera behind a mirror sees
        for column in range(4):
            seen[:, MIRROR[k], :, 3 - column] = upright[:, k, :, column] + 10
    outputs = [SimpleNamespace(pred_keypoint_heatmaps=m) for m in (upright, seen)]
    tfms = [TransformList([]), TransformList([HFlipTransform(96)])]
    assert torch.equal(wrapper._reduce_heatmaps(outputs, tfms), upright + 5)


def test_more_views_change_the_result_and_find_boxes_of_all_views():
    plain, many = cfg_of(), cfg_of(sizes=(48, 64), flip=True)
    model, image = model_of(plain), image_of(64, 96)
    one, several = (detect(MaskRCNNWithTTA(cfg, model), image)[0] for cfg in (plain, many))
    assert len(several) > 3
    assert not torch.equal(one.scores[:3], several.scores[:3])
    assert several.scores.max() >= one.scores.max() - 1e-5  # the plain view is among them


def test_masks_are_pasted_with_the_models_threshold():
    cfg = cfg_of()
    model, image = model_of(cfg), image_of(64, 96)
    areas = []
    for threshold in (None, 0.5, 0.9):
        if threshold is not None:
            model.mask_threshold = threshold
        (found,) = detect(MaskRCNNWithTTA(cfg, model), image)
        areas.append(int(found.pred_masks.sum()))
    assert areas[0] == areas[1] > areas[2]


@pytest.mark.parametrize("size", [(64, 96), (128, 192)], ids=["as is", "resized"])
def test_stored_proposals_move_with_the_image(size):
    """One view with the RPN's own proposals is the plain model; flipped ones still fit."""
    cfg = cfg_of()
    joint = model_of(cfg)
    image = image_of(64, 96, size=size)
    boxes = torch.tensor([[5.0, 6, 40, 50], [20, 10, 60, 44], [50, 5, 90, 60], [2, 30, 30, 62]])
    proposals = Instances(
        (64, 96), proposal_boxes=Boxes(boxes), objectness_logits=torch.arange(4.0)
    )
    stored = cfg_of()
    stored.MODEL.LOAD_PROPOSALS = True
    stored.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    model = build_model(stored).eval()
    model.load_state_dict(joint.state_dict(), strict=False)
    image["proposals"] = proposals
    wrapper = MaskRCNNWithTTA(stored, model)
    if size == (64, 96):
        assert_same(*detect(wrapper, image), *detect(model, image))
    wrapper = MaskRCNNWithTTA(cfg_of(sizes=(32, 64), flip=True), model)
    moved, _ = wrapper._get_augmented_inputs(image)
    assert torch.equal(proposals.proposal_boxes.tensor, boxes)  # the input is as it was
    assert len(moved) == 4
    for view, scale, flipped in zip(moved, (0.5, 0.5, 1, 1), (0, 1, 0, 1), strict=True):
        expected = boxes * scale
        if flipped:
            width = 96 * scale
            expected = torch.stack(
                [width - expected[:, 2], expected[:, 1], width - expected[:, 0], expected[:, 3]], 1
            )
        found = view["proposals"]
        assert found.image_size == tuple(view["image"].shape[1:])
        assert torch.allclose(found.proposal_boxes.tensor, expected, atol=1e-3)


def test_nothing_found(people):
    cfg = cfg_of(flip=True, keypoints=True, datasets=(people,))
    model = model_of(cfg)
    model.roi_heads.box_predictor.test_score_thresh = 1.1
    (found,) = detect(MaskRCNNWithTTA(cfg, model), image_of(64, 96))
    assert len(found) == 0
    assert found.pred_masks.shape == (0, 64, 96)
    assert found.pred_keypoints.shape == (0, 3, 3)


def test_under_autocast(people):
    cfg = cfg_of(flip=True, keypoints=True, datasets=(people,))
    cfg.SOLVER.AMP.ENABLED = cfg.MASK_RCNN_EXT.AMP_INFERENCE = True
    model = model_of(cfg)
    with inference_autocast(cfg):
        (found,) = detect(MaskRCNNWithTTA(cfg, model), image_of(64, 96))
    assert len(found) > 3
    assert found.pred_keypoints.dtype == torch.float32
    assert torch.isfinite(found.pred_keypoints).all()


def test_evaluating_leaves_the_model_in_its_mode():
    cfg = cfg_of()
    for training in (False, True):
        model = model_of(cfg).train(training)
        with inference_context(MaskRCNNWithTTA(cfg, model)):
            assert not model.training
        assert model.training is training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"MODEL.META_ARCHITECTURE": "RetinaNet"}, "RetinaNet has no test-time augmentation"),
        ({"TEST.AUG.MIN_SIZES": ()}, "MIN_SIZES is empty"),
        ({"MODEL.KEYPOINT_ON": True}, "keypoint_flip_map"),
    ],
    ids=["meta-architecture", "no scale", "left and right"],
)
def test_mistakes_are_found_before_evaluation(changes, message):
    cfg = cfg_of(flip=True, datasets=("occluded_shapes_val",))
    require_tta(cfg)
    for key, value in changes.items():
        cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=message):
        require_tta(cfg)
    cfg.TEST.AUG.ENABLED = False
    require_tta(cfg)


def test_keypoint_count_that_contradicts_the_data(people):
    cfg = cfg_of(flip=True, keypoints=True, datasets=(people,))
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 17
    with pytest.raises(UserError, match=r"17, but data set tta_people has 3 keypoints\. Evaluate"):
        require_tta(cfg)


def test_results_are_added_to_the_plain_results():
    one = add_tta_results({"bbox": {"AP": 1.0}}, {"bbox": {"AP": 2.0}}, num_datasets=1)
    assert one == {"bbox": {"AP": 1.0}, "bbox_TTA": {"AP": 2.0}}
    two = add_tta_results(
        {"a": {"bbox": {"AP": 1.0}}, "b": {}}, {"a": {"bbox": {"AP": 2.0}}, "b": {}}, num_datasets=2
    )
    assert two == {"a": {"bbox": {"AP": 1.0}, "bbox_TTA": {"AP": 2.0}}, "b": {}}
    assert np.isfinite(two["a"]["bbox_TTA"]["AP"])
