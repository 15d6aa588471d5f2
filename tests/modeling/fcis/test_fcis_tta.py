"""FCIS with several scales and flips: one view is the plain model, more are what a loop gives."""

import numpy as np
import pytest
import torch
from detectron2.data.transforms import ResizeTransform
from detectron2.evaluation import inference_context
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from reference.fcis_tta import looped_tta
from small_runs import read_predictions, read_results
from support import run_train_net, write_coco
from tiny_fcis import FCIS_CONFIG, FCIS_SMALL, FixedProposals, fcis_cfg, fcis_model, image_of
from tiny_model import detect, tiny_cfg, tiny_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mask_rcnn_ext import UserError
from mask_rcnn_ext.modeling.fcis import FCIS
from mask_rcnn_ext.modeling.fcis import tta as fcis_tta
from mask_rcnn_ext.modeling.fcis.tta import FCISWithTTA, build_tta_model, choose_scales
from mask_rcnn_ext.modeling.precision import inference_autocast
from mask_rcnn_ext.modeling.test_time_augmentation import MaskRCNNWithTTA, require_tta


def cfg_of(*overrides: str, sizes=(64,), flip=False, amp=False):
    tta = ["TEST.AUG.ENABLED", "True", "TEST.AUG.FLIP", str(flip)]
    tta += ["TEST.AUG.MIN_SIZES", str(tuple(sizes)), "TEST.AUG.MAX_SIZE", "144"]
    return fcis_cfg(*tta, *overrides, amp=amp)


def assert_equal(ours: Instances, plain: Instances) -> None:
    assert set(ours.get_fields()) == set(plain.get_fields())
    assert len(ours) == len(plain) > 3
    assert ours.image_size == plain.image_size
    assert torch.equal(ours.pred_boxes.tensor, plain.pred_boxes.tensor)
    for field in ("scores", "pred_classes", "pred_masks"):
        assert torch.equal(ours.get(field), plain.get(field)), field


BOXES = [
    [5, 6, 25, 22], [20, 10, 60, 44], [50, 5, 90, 60], [2, 30, 30, 62], [70, 40, 80, 50],
    [0, 0, 96, 64], [33, 17, 52, 40],
]  # fmt: skip


def rois_seen(wrapper, image, monkeypatch) -> Instances:
    """Return the RoIs of all passes, which then vote."""
    seen = []
    vote = wrapper.model.detect
    monkeypatch.setattr(
        wrapper.model, "detect", lambda rois, *a, **k: seen.append(rois) or vote(rois, *a, **k)
    )
    detect(wrapper, image)
    return seen[0]


def test_one_view_at_the_test_size_is_the_plain_model():
    cfg = cfg_of("TEST.AUG.MAX_SIZE", "96")
    model = fcis_model(cfg)
    images = [image_of(64, 96), image_of(64, 80, seed=1)]
    for ours, image in zip(detect(FCISWithTTA(cfg, model), *images), images, strict=True):
        assert_equal(ours, detect(model, image)[0])


@pytest.mark.parametrize("source", ["image", "file"])
def test_one_view_of_an_image_that_is_resized(source, tmp_path):
    """The original goes in, see `make_tta_config`; the plain model gets it resized."""
    cfg = cfg_of("TEST.AUG.MAX_SIZE", "96")
    model = fcis_model(cfg)
    original = image_of(96, 152)
    array = original["image"].permute(1, 2, 0).numpy()
    resized = ResizeTransform(96, 152, 61, 96, Image.BILINEAR).apply_image(array)
    plain = {**original, "image": torch.from_numpy(resized.transpose(2, 0, 1).copy())}
    if source == "file":
        Image.fromarray(array[:, :, ::-1]).save(tmp_path / "x.png")
        original = {"file_name": str(tmp_path / "x.png")}
    assert_equal(*detect(FCISWithTTA(cfg, model), original), *detect(model, plain))


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_no_side_of_a_view_becomes_0(size):
    cfg = cfg_of("TEST.AUG.MAX_SIZE", "96")
    image = {"image": torch.rand(3, *size) * 255}
    (found,) = detect(FCISWithTTA(cfg, fcis_model(cfg)), image)
    assert found.image_size == size


FACTORS = [[1, 1], [2, 2], [2.5, 2.5], [4, 1]]


@pytest.mark.parametrize(
    ("box", "scale"),
    [
        ([3, 4, 227, 228], 0),
        ([10, 20, 110, 120], 1),  # areas 10000, 40000, 62500, 40000; 224 x 224 is 50176
        ([0, 0, 50, 200], 1),  # of the same area
        ([0, 0, 90, 90], 2),  # 90, 180, 225
        ([5, 5, 15, 15], 2),  # 10, 20, 25, 20
        ([0, 0, 400, 300], 0),
        ([0, 0, 128, 128], 1),  # 128, 256, 320, 256
        ([0, 0, 145, 145], 0),  # 29151 and 33924 pixels off; of the sides, 290 is closer than 145
        ([7, 7, 7, 40], 0),  # 0 at every scale
    ],
)
def test_the_scale_is_the_one_with_a_number_of_pixels_closest_to_224_x_224(box, scale):
    assert choose_scales(torch.tensor([box]).float(), torch.tensor(FACTORS)).tolist() == [scale]


def test_of_two_equally_good_scales_the_first():
    factors = torch.tensor([[1.0, 1.0], [1.0, 3.0]])  # half and one and a half of 224 x 224
    box = torch.tensor([[0.0, 0, 128, 196]])
    assert choose_scales(box, factors).tolist() == [0]
    assert choose_scales(box, factors.flip(dims=[0])).tolist() == [0]
    assert choose_scales(box[:0], factors).shape == (0,)


SIZES, BEST = (32, 64, 96), 40.0  # shorter sides of an image of 64 x 96, which is small


@pytest.mark.parametrize("mirror", [False, True], ids=["plain", "mirror"])
def test_each_roi_is_what_a_loop_makes_of_it(mirror, monkeypatch):
    monkeypatch.setattr(fcis_tta, "BEST_SIDE", BEST)
    cfg = cfg_of("MODEL.FCIS.NUM_PASSES_TEST", "3", sizes=SIZES, flip=mirror)
    model, image = fcis_model(cfg), image_of(64, 96)
    # Of 985 pixels, two scales are equally good: the last four boxes are close to that.
    boxes = [*BOXES, *([x, 20, x + w, 52] for x in (10, 40) for w in (30.7, 30.85))]
    model.proposal_generator = FixedProposals(boxes)
    rois = rois_seen(FCISWithTTA(cfg, model), image, monkeypatch)
    with torch.no_grad():
        expected = looped_tta(model, image["image"], boxes, sizes=SIZES, best=BEST, mirror=mirror)
    assert len(rois) == len(expected) == 3 * 11
    boxes = torch.tensor([box for box, _, _ in expected])
    moves = (boxes[11:22] - boxes[:11]).abs().amax(dim=1)
    assert (moves > 0.5).sum() > 5  # the deltas do move them
    assert torch.allclose(rois.proposal_boxes.tensor, boxes, atol=1e-3)
    assert torch.allclose(rois.class_probs, torch.stack([p for _, p, _ in expected]), atol=1e-5)
    assert torch.allclose(rois.roi_masks, torch.stack([m for _, _, m in expected]), atol=1e-5)
    factors = torch.tensor([[s / 64, s / 64] for s in SIZES])
    first, second = (choose_scales(boxes[i : i + 11], factors) for i in (0, 11))
    assert set(first.tolist()) == {0, 1, 2}, "every scale is somebody's"
    assert not torch.equal(first, second), "some RoI changes its scale"


@pytest.mark.parametrize("pooler", ["PSROIPool", "PSROIAlign"])
def test_a_mirrored_image_gives_the_mirrored_result(pooler, monkeypatch):
    """For RoIs that mirror each other: the RPN itself sees the plain image only."""
    monkeypatch.setattr(fcis_tta, "BEST_SIDE", BEST)
    cfg = cfg_of("MODEL.FCIS.POOLER_TYPE", pooler, sizes=(32, 64, 96), flip=True)
    model, image = fcis_model(cfg), image_of(64, 96)
    straight_rois = torch.tensor(BOXES) + 0.3
    mirrored_rois = straight_rois[:, [2, 1, 0, 3]] * torch.tensor([-1.0, 1, -1, 1])
    mirrored_rois += torch.tensor([96.0, 0, 96, 0])
    model.proposal_generator = FixedProposals(straight_rois.tolist())
    (straight,) = detect(FCISWithTTA(cfg, model), image)
    model.proposal_generator = FixedProposals(mirrored_rois.tolist())
    mirror = {**image, "image": image["image"].flip(dims=[2])}
    (mirrored,) = detect(FCISWithTTA(cfg, model), mirror)
    assert len(straight) == len(mirrored) > 3
    assert torch.equal(straight.pred_classes, mirrored.pred_classes)
    assert torch.allclose(straight.scores, mirrored.scores, atol=1e-5)
    turned = mirrored.pred_masks.flip(dims=[2])
    assert straight.pred_masks.sum() > 500
    assert (straight.pred_masks != turned).sum() < 0.01 * straight.pred_masks.sum()
    assert (straight.pred_masks != mirrored.pred_masks).sum() > 0.1 * straight.pred_masks.sum()


def test_zero_deltas_leave_rois_and_result_as_they_are(monkeypatch):
    overrides = {n: cfg_of("MODEL.FCIS.NUM_PASSES_TEST", str(n), flip=True) for n in (1, 2)}
    once, twice = (fcis_model(overrides[n]) for n in (1, 2))
    for model in (once, twice):
        for parameter in model.roi_heads.box_maps.parameters():
            nn.init.zeros_(parameter)
    image = image_of(64, 96)
    one, two = (
        detect(FCISWithTTA(overrides[n], model), image)[0] for n, model in ((1, once), (2, twice))
    )
    assert_equal(two, one)
    rois = rois_seen(FCISWithTTA(overrides[2], twice), image, monkeypatch)
    first, second = (rois[part] for part in (slice(None, 100), slice(100, None)))
    assert len(first) == len(second) > 20
    assert torch.allclose(first.proposal_boxes.tensor, second.proposal_boxes.tensor, atol=1e-4)


def test_no_rois():
    cfg = cfg_of(sizes=(32, 96), flip=True)
    model = fcis_model(cfg)
    model.proposal_generator = FixedProposals([])
    (found,) = detect(FCISWithTTA(cfg, model), image_of(64, 96))
    assert len(found) == 0
    assert found.pred_masks.shape == (0, 64, 96)
    assert found.pred_boxes.tensor.shape == (0, 4)


def test_each_view_is_seen_once_and_only_if_a_roi_needs_it(monkeypatch):
    monkeypatch.setattr(fcis_tta, "BEST_SIDE", BEST)
    cfg = cfg_of("MODEL.FCIS.NUM_PASSES_TEST", "3", sizes=(32, 64, 96, 128), flip=True)
    model = fcis_model(cfg)
    for parameter in model.roi_heads.box_maps.parameters():
        nn.init.zeros_(parameter)
    model.proposal_generator = FixedProposals([[0, 0, 40, 40], [4, 4, 44, 40], [0, 0, 27, 27]])
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    detect(FCISWithTTA(cfg, model), image_of(64, 96))
    assert [tuple(images.shape[2:]) for images in seen] == [(64, 96)] * 2 + [(96, 144)] * 2
    assert torch.equal(seen[0], seen[1].flip(dims=[3]))


def test_scales_of_one_size_are_one():
    """The longer side caps two scales to the same image."""
    cfg = cfg_of("TEST.AUG.MAX_SIZE", "96", sizes=(80, 120))
    model = fcis_model(cfg)
    model.proposal_generator = FixedProposals(BOXES)
    sizes = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))
    assert len(detect(FCISWithTTA(cfg, model), image_of(64, 96))[0]) > 3
    assert len(sizes) == 1


def test_stored_proposals_move_to_the_test_size():
    cfg = cfg_of("TEST.AUG.MAX_SIZE", "96")
    model = fcis_model(cfg)
    image = {**image_of(128, 192), "height": 64, "width": 96}
    model.proposal_generator = FixedProposals(BOXES)
    (expected,) = detect(FCISWithTTA(cfg, model), image)
    model.proposal_generator = None
    boxes = Boxes(torch.tensor(BOXES) * 2.0)
    image["proposals"] = Instances((128, 192), proposal_boxes=boxes)
    assert_equal(*detect(FCISWithTTA(cfg, model), image), expected)
    assert torch.equal(boxes.tensor, torch.tensor(BOXES) * 2.0)  # the input is as it was


def test_under_autocast(monkeypatch):
    cfg = cfg_of(sizes=(32, 64, 96), flip=True, amp=True)
    wrapper = FCISWithTTA(cfg, fcis_model(cfg))
    with inference_autocast(cfg):
        rois = rois_seen(wrapper, image_of(64, 96), monkeypatch)
    for tensor in (rois.proposal_boxes.tensor, rois.class_probs, rois.roi_masks):
        assert tensor.dtype == torch.float32
        assert not torch.equal(tensor, tensor.bfloat16().float()), "rounded to bfloat16"


def test_evaluating_leaves_the_model_in_its_mode():
    cfg = cfg_of()
    model = fcis_model(cfg)
    for training in (False, True):
        model.train(training)
        with inference_context(FCISWithTTA(cfg, model)):
            assert not model.training
        assert model.training is training


class OtherName(FCIS):
    """A downstream project's."""


def test_the_augmentation_is_chosen_by_the_models_class():
    cfg, stock = cfg_of(), tiny_cfg(3)
    require_tta(cfg)
    model, mask_rcnn = build_model(cfg), tiny_model(3)
    assert type(build_tta_model(cfg, model)) is FCISWithTTA
    assert type(build_tta_model(stock, mask_rcnn)) is MaskRCNNWithTTA
    for inner, kind in ((model, FCISWithTTA), (mask_rcnn, MaskRCNNWithTTA)):
        wrapped = DistributedDataParallel.__new__(DistributedDataParallel)  # without processes
        nn.Module.__init__(wrapped)
        wrapped.module = inner
        augmented = build_tta_model(cfg if inner is model else stock, wrapped)
        assert type(augmented) is kind
        assert augmented.model is inner
    model.__class__ = OtherName
    assert type(build_tta_model(cfg, model)) is FCISWithTTA
    with pytest.raises(UserError, match="expected an FCIS model, got GeneralizedRCNN"):
        FCISWithTTA(stock, mask_rcnn)
    with pytest.raises(UserError, match=r"got OtherName; use .*FCISWithTTA"):
        MaskRCNNWithTTA(cfg, model)


def test_evaluation_from_the_command_line(tmp_path):
    path, images = write_coco(tmp_path / "val", images=2, size=(90, 60))
    torch.save({"model": fcis_model(fcis_cfg(num_classes=2)).state_dict()}, tmp_path / "model.pth")
    for views, same_view in (("(64,)", True), ("(48, 80)", False)):
        out = tmp_path / views
        code = run_train_net(
            "--config-file", FCIS_CONFIG, "--eval-only",
            "--val-json", str(path), "--val-images", str(images), *FCIS_SMALL,
            "MODEL.WEIGHTS", str(tmp_path / "model.pth"), "OUTPUT_DIR", str(out),
            "MODEL.DEVICE", "cpu", "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", views,
            "TEST.AUG.MAX_SIZE", "96", "TEST.AUG.FLIP", str(not same_view),
        )  # fmt: skip
        assert code == 0
        results = read_results(out)
        assert set(results) == {"bbox", "segm", "bbox_TTA", "segm_TTA", "run"}
        assert np.isfinite(results["segm_TTA"]["AP"])
        plain, augmented = (read_predictions(out, part) for part in ("inference", "inference_TTA"))
        assert len(plain) > 10
        assert {r["image_id"] for r in augmented} == {1, 2}
        assert all(r["segmentation"]["size"] == [60, 90] for r in augmented)
        assert (plain == augmented) is same_view
