"""What each level of speed guarantees, on every meta-architecture."""

import copy
import pickle

import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.layers import Conv2d
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY, build_model
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.utils import logger as detectron2_logger
from support import SMALL, TINY_CONFIG
from tiny_fcis import fcis_cfg, fcis_model, image_of
from tiny_model import detect, picture, tiny_cfg
from tiny_rcnn import record, small_cfg, small_model
from torch import nn

from mask_rcnn_ext import Predictor, UserError, load_config
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.layers.gathered_roi_align import GatheredROIAlign
from mask_rcnn_ext.layers.threaded_roi_layer import ThreadedROILayer
from mask_rcnn_ext.modeling import onednn_products, precision, speed
from mask_rcnn_ext.modeling.precision import inference_autocast, prepare_model
from mask_rcnn_ext.modeling.speed import prepare_for_inference, resolve_speed


class OwnMaskHead(MaskRCNNConvUpsampleHead):
    """A head of another project: it halves the logits of all classes."""

    def layers(self, x):
        logits = super().layers(x)
        assert logits.shape[1] == 3
        return logits / 2


@pytest.fixture(autouse=True)
def with_own_head():
    ROI_MASK_HEAD_REGISTRY._obj_map["OwnMaskHead"] = OwnMaskHead
    detectron2_logger._LOG_COUNTER.clear()
    yield
    del ROI_MASK_HEAD_REGISTRY._obj_map["OwnMaskHead"]


@pytest.fixture(params=[True, False], ids=["with bfloat16", "without"])
def has_bfloat16(request, monkeypatch):
    for module in (precision, speed):
        monkeypatch.setattr(module, "computes_bfloat16", lambda: request.param)
    return request.param


def liven(model: nn.Module) -> nn.Module:
    """Give the norms statistics, and the last layers outputs that differ from box to box."""
    generator = torch.Generator().manual_seed(4)
    for name, module in model.named_modules():
        if isinstance(module, Conv2d) and hasattr(module.norm, "running_var"):
            module.norm.running_mean.normal_(0, 0.1, generator=generator)
            module.norm.running_var.uniform_(0.8, 1.25, generator=generator)
        if name.endswith(("cls_score", "mask_head.predictor")):
            module.weight.data.normal_(0, 0.3, generator=generator)
    return model.eval()


def build(cfg):
    torch.manual_seed(0)
    return liven(prepare_model(cfg, build_model(cfg.clone())))


def fpn(**keys):
    cfg = tiny_cfg(3)
    cfg.merge_from_list([item for pair in keys.items() for item in pair])
    return cfg, build(cfg), image_of(64, 96)


def c4():
    tiny = ["MASK_RCNN_EXT.CHANNELS_LAST", "False", "SOLVER.AMP.ENABLED", "False"]
    cfg = load_config(
        TINY_CONFIG,
        [
            *SMALL, *tiny, "MODEL.DEVICE", "cpu",
            "MODEL.BACKBONE.NAME", "mask_rcnn_ext_tiny_resnet_backbone",
            "MODEL.RESNETS.OUT_FEATURES", "['res4']",
            "MODEL.ANCHOR_GENERATOR.SIZES", "[[16, 32, 64]]",
            "MODEL.RPN.IN_FEATURES", "['res4']", "MODEL.ROI_HEADS.IN_FEATURES", "['res4']",
            "MODEL.ROI_HEADS.NAME", "MaskRCNNTinyRes5ROIHeads",
            "MODEL.ROI_BOX_HEAD.NAME", "", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", "7",
            "MODEL.ROI_HEADS.NUM_CLASSES", "3", "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", "False",
            "MODEL.ROI_MASK_HEAD.NUM_CONV", "0", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0",
            "TEST.DETECTIONS_PER_IMAGE", "10", "MODEL.META_ARCHITECTURE", "MaskRCNN",
            "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNFCNHead",
        ],
    )  # fmt: skip
    return cfg, build(cfg), image_of(64, 96)


def cascade():
    heads = {"MODEL.ROI_HEADS.NAME": "CascadeROIHeads"}
    return fpn(**heads, **{"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": True})


def keypoints():
    return fpn(**{"MODEL.KEYPOINT_ON": True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": (8,)})


def fcis():
    cfg = fcis_cfg()
    return cfg, fcis_model(cfg), image_of(64, 96)


def rcnn():
    boxes = [[4, 4, 40, 40], [20, 10, 90, 60], [0, 0, 30, 64]]
    return small_cfg(), small_model().eval(), record(boxes)


MODELS = {
    "FPN": fpn,
    "C4": c4,
    "cascade": cascade,
    "keypoints": keypoints,
    "head of another project": lambda: fpn(**{"MODEL.ROI_MASK_HEAD.NAME": "OwnMaskHead"}),
    "FCIS": fcis,
    "R-CNN": rcnn,
}


@pytest.mark.parametrize("level", speed.SPEEDS)
@pytest.mark.parametrize("kind", ["FPN", "FCIS"])
def test_a_model_of_every_level_goes_to_another_process(kind, level, monkeypatch):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: True)
    monkeypatch.setattr(speed, "computes_bfloat16", lambda: True)
    cfg, model, image = MODELS[kind]()
    cfg.MASK_RCNN_EXT.SPEED = level
    prepared = prepare_for_inference(cfg, model)
    copied = pickle.loads(pickle.dumps(prepared))
    with inference_autocast(resolve_speed(cfg)):
        (expected,), (found,) = detect(prepared, image), detect(copied, image)
    assert torch.equal(found.scores, expected.scores)


def test_exact_pools_on_all_threads_and_changes_nothing():
    cfg, model, image = fpn(**{"MODEL.RPN.POST_NMS_TOPK_TEST": 100})
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (expected,) = detect(model, image)
        prepared = prepare_for_inference(cfg, model)
        (found,) = detect(prepared, image)
    finally:
        torch.set_num_threads(before)
    layers = [m for m in prepared.modules() if isinstance(m, ThreadedROILayer)]
    assert len(layers) == len(model.roi_heads.box_pooler.level_poolers) * 2
    assert len(found) == len(expected) > 1
    for field, value in expected.get_fields().items():
        other = found.get(field)
        value, other = getattr(value, "tensor", value), getattr(other, "tensor", other)
        assert torch.equal(value, other), field
    # Twice prepared, or faster later: no layer is wrapped twice, all are replaced.
    prepare_for_inference(cfg, prepared)
    assert len([m for m in model.modules() if isinstance(m, ThreadedROILayer)]) == len(layers)
    cfg.MASK_RCNN_EXT.SPEED = "fast"
    fast = prepare_for_inference(cfg, model)
    assert not any(isinstance(m, ThreadedROILayer) for m in fast.modules())
    assert sum(isinstance(m, GatheredROIAlign) for m in fast.modules()) == len(layers)


@pytest.mark.parametrize("name", MODELS)
def test_fast_finds_what_exact_finds(name, monkeypatch):
    # As on a processor with slow products, where the linear layers are not too small.
    monkeypatch.setattr(onednn_products, "has_slow_products", lambda: True)
    monkeypatch.setattr(onednn_products, "_FEWEST", 1)
    cfg, model, image = MODELS[name]()
    before = copy.deepcopy(model.state_dict())
    (expected,) = detect(model, image)
    assert prepare_for_inference(cfg, model) is model, "exact is the default"
    cfg.MASK_RCNN_EXT.SPEED = "fast"
    fast = prepare_for_inference(cfg, model)
    (found,) = detect(fast, image)
    assert len(found) == len(expected) > 1
    assert torch.equal(found.pred_classes, expected.pred_classes)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    boxes = (found.pred_boxes.tensor - expected.pred_boxes.tensor).abs()
    assert boxes.max() < 1e-3
    if name != "R-CNN":
        both = (found.pred_masks & expected.pred_masks).sum((1, 2))
        either = (found.pred_masks | expected.pred_masks).sum((1, 2))
        assert expected.pred_masks.any()
        assert (both >= 0.999 * either).all()
    if name == "keypoints":
        moved = (found.pred_keypoints - expected.pred_keypoints)[:, :, :2].abs()
        assert moved.max() < 1e-2
    assert_fast(fast, name)
    assert not any(type(m) is nn.Linear for m in fast.modules())
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(detect(model, image)[0].scores, expected.scores)


def assert_fast(model, name):
    """Check that every part that a level changes is changed."""
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert all(c.weight.is_contiguous(memory_format=torch.channels_last) for c in convolutions)
    assert not any(type(getattr(c, "norm", None)).__name__ == "BatchNorm2d" for c in convolutions)
    assert not any(type(m).__name__ == "FrozenBatchNorm2d" for m in model.modules())
    layers = {type(m) for m in model.modules() if type(m).__name__.endswith("ROIAlign")}
    if name not in ("FCIS", "R-CNN"):
        assert layers == {GatheredROIAlign}
        predictor = type(model.roi_heads.mask_head.predictor).__name__
        assert predictor == ("Conv2d" if name.startswith("head of") else "_GatheredPredictor")


def test_fastest_is_bfloat16_where_the_cpu_has_it(has_bfloat16, caplog):
    cfg, model, image = fpn()
    cfg.MASK_RCNN_EXT.SPEED = "fastest"
    fastest, resolved = prepare_for_inference(cfg, model), resolve_speed(cfg)
    dtypes = {}
    for part in ("backbone.bottom_up.stem.conv1", "backbone", "roi_heads.mask_head.mask_fcn1"):
        fastest.get_submodule(part).register_forward_hook(
            lambda _m, _i, output, part=part: dtypes.update({part: output})
        )
    with inference_autocast(resolved):
        (found,) = detect(fastest, image)
    used = torch.bfloat16 if has_bfloat16 else torch.float32
    assert dtypes["backbone.bottom_up.stem.conv1"].dtype == used
    assert dtypes["roi_heads.mask_head.mask_fcn1"].dtype == used
    p2 = dtypes["backbone"]["p2"]
    assert p2.dtype == torch.float32  # RoIAlign gathers float32 cells, of all channels at once
    assert p2.is_contiguous(memory_format=torch.channels_last)
    assert found.pred_boxes.tensor.dtype == found.scores.dtype == torch.float32
    assert len(found) == 10
    said = [r.getMessage() for r in caplog.records if "float32 is used" in r.getMessage()]
    assert len(said) == (0 if has_bfloat16 else 1), "once, not for each evaluation"
    cfg.MASK_RCNN_EXT.SPEED = "fast"
    if not has_bfloat16:
        assert torch.equal(detect(prepare_for_inference(cfg, model), image)[0].scores, found.scores)


def test_slow_keys_are_reported_once(has_bfloat16, caplog):
    cfg = tiny_cfg()
    cfg.SOLVER.AMP.ENABLED = cfg.MASK_RCNN_EXT.AMP_INFERENCE = True
    cfg.MASK_RCNN_EXT.AMP_DTYPE = "bfloat16"
    model = nn.Module()
    for _ in range(2):
        assert prepare_for_inference(cfg, model) is model
    advice = "CHANNELS_LAST True" if has_bfloat16 else "slower than float32"
    assert [advice in r.getMessage() for r in caplog.records] == [True]
    caplog.clear()
    cfg.MASK_RCNN_EXT.CHANNELS_LAST, cfg.MASK_RCNN_EXT.AMP_DTYPE = True, "auto"
    detectron2_logger._LOG_COUNTER.clear()
    prepare_for_inference(cfg, model)
    assert not caplog.records


def test_a_level_adds_to_the_keys_and_leaves_the_config():
    cfg = tiny_cfg()
    cfg.MASK_RCNN_EXT.SPEED = "fast"
    cfg.freeze()
    resolved = resolve_speed(cfg)
    assert resolved.is_frozen()
    assert not cfg.MASK_RCNN_EXT.CHANNELS_LAST
    assert resolved.MASK_RCNN_EXT.CHANNELS_LAST
    assert not resolved.MASK_RCNN_EXT.AMP_INFERENCE
    again = resolve_speed(resolved)
    assert again == resolved


def test_an_unknown_level_is_told():
    cfg = tiny_cfg()
    cfg.MASK_RCNN_EXT.SPEED = "fastes"
    with pytest.raises(UserError, match=r"exact, fast or fastest, got 'fastes'.*'fastest'"):
        Trainer.require_ready(cfg)


def test_evaluation_uses_a_copy_at_the_level(monkeypatch):
    """Also in training: the model that is trained keeps its norms and its format."""
    cfg, model, _ = fpn()
    cfg.MASK_RCNN_EXT.SPEED = "fast"
    seen = []

    def take(cls, cfg, packed, evaluators):
        seen.append(packed.model)

    monkeypatch.setattr(DefaultTrainer, "test", classmethod(take))
    Trainer.test(cfg, model.train())
    assert model.training
    assert model.backbone.bottom_up.stem.conv1.norm is not None
    assert seen[0] is not model
    assert_fast(seen[0], "FPN")
    cfg.MASK_RCNN_EXT.SPEED = "exact"
    Trainer.test(cfg, model)
    assert seen[1] is model


def test_predictor_takes_a_level(tmp_path):
    cfg, model, _ = fpn()
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    results = {
        level: Predictor(cfg, tmp_path / "weights.pth", speed=level)
        for level in (None, "exact", "fast")
    }
    found = {level: predictor(picture(48, 64)) for level, predictor in results.items()}
    assert torch.equal(found[None].scores, found["exact"].scores)
    assert len(found["fast"]) == 10
    assert (found["fast"].scores - found["exact"].scores).abs().max() < 1e-4
    assert results["fast"].cfg.MASK_RCNN_EXT.CHANNELS_LAST
    assert_fast(results["fast"].model, "FPN")
    with pytest.raises(UserError, match="got 'quick'"):
        Predictor(cfg, tmp_path / "weights.pth", speed="quick")
