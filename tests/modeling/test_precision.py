"""Mixed precision: the precision that was asked for is used, and boxes stay in float32."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from faithful import batch
from support import SMALL, TINY_CONFIG
from tiny_model import detect

from mask_rcnn_ext import UserError, load_config
from mask_rcnn_ext.modeling import precision
from mask_rcnn_ext.modeling.precision import (
    choose_device,
    get_amp_dtype,
    inference_autocast,
    prepare_model,
)


@pytest.fixture(autouse=True)
def with_bfloat16(monkeypatch):
    """Use bfloat16 on every CPU: these tests are about numbers, not about speed."""
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: True)


def config(*overrides: str):
    return load_config(TINY_CONFIG, [*SMALL, "MODEL.DEVICE", "cpu", *overrides])


@pytest.mark.parametrize(
    ("device", "name", "expected"),
    [
        ("cpu", "auto", torch.bfloat16),
        ("cuda", "auto", torch.float16),
        ("cuda", "bfloat16", torch.bfloat16),
    ],
)
def test_dtype_by_device(device, name, expected):
    cfg = config("MODEL.DEVICE", device, "MASK_RCNN_EXT.AMP_DTYPE", name)
    assert get_amp_dtype(cfg) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 vpclmulqdq\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        (None, False),
    ],
    ids=["AVX-512", "AMX", "Arm", "no bfloat16", "not Linux"],
)
def test_a_cpu_without_bfloat16_computes_in_float32(monkeypatch, text, expected):
    """PyTorch imitates bfloat16 there, in twice to three times the time of float32."""

    def read_text(path, encoding):
        assert str(path) == "/proc/cpuinfo"
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.undo()
    precision.computes_bfloat16.cache_clear()
    monkeypatch.setattr(precision.Path, "read_text", read_text)
    try:
        found = precision.computes_bfloat16()
    finally:
        monkeypatch.undo()
        precision.computes_bfloat16.cache_clear()
    assert found is expected
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: found)
    assert get_amp_dtype(config()) is (torch.bfloat16 if expected else None)
    assert get_amp_dtype(config("MASK_RCNN_EXT.AMP_DTYPE", "bfloat16")) is torch.bfloat16
    assert get_amp_dtype(config("MODEL.DEVICE", "cuda")) is torch.float16


def test_off_by_default_and_unknown_names_are_refused():
    assert get_amp_dtype(config("SOLVER.AMP.ENABLED", "False")) is None
    with pytest.raises(UserError, match="'half'"):
        get_amp_dtype(config("MASK_RCNN_EXT.AMP_DTYPE", "half"))
    with pytest.raises(UserError, match="use bfloat16"):
        get_amp_dtype(config("MASK_RCNN_EXT.AMP_DTYPE", "float16"))


def test_boxes_reach_the_roi_layers_in_float32():
    """bfloat16 has 8 bits: a corner at 130.4 would be pooled at 130."""
    cfg = config()
    torch.manual_seed(0)
    model = prepare_model(cfg, build_model(cfg)).eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    seen, convolved = [], []
    for pooler in (model.roi_heads.box_pooler, model.roi_heads.mask_pooler):
        for layer in pooler.level_poolers:
            layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    model.roi_heads.mask_head.mask_fcn1.register_forward_hook(
        lambda _, inputs, output: convolved.append(output.dtype)
    )
    with inference_autocast(cfg):
        image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
        (instances,) = detect(model, {"image": image, "height": 64, "width": 96})
    assert instances.scores.dtype == torch.float32
    assert not torch.equal(instances.scores, instances.scores.bfloat16().float())
    assert len(seen) == 2
    for features, boxes in seen:
        assert features.dtype == boxes.dtype == torch.float32
        assert not torch.equal(boxes, boxes.bfloat16().float()), "these boxes cannot show rounding"
    assert convolved == [torch.bfloat16], "the heads still run in bfloat16"


def test_keypoints_are_decoded_from_float32_heatmaps():
    overrides = ["MODEL.KEYPOINT_ON", "True", "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)"]
    cfg = config(*overrides, "MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION", "14")
    head = prepare_model(cfg, build_model(cfg)).roi_heads.keypoint_head
    with torch.no_grad(), inference_autocast(cfg):
        heatmaps = head.layers(torch.randn(1, 16, 14, 14))
    assert heatmaps.dtype == torch.float32


@pytest.mark.parametrize("key", ["CHANNELS_LAST", "GATHERED_ROI_ALIGN"])
def test_keypoints_are_trained_in_every_memory_format(key):
    losses = []
    for value in ("False", "True"):
        cfg = config("SOLVER.AMP.ENABLED", "False", "MASK_RCNN_EXT.CHANNELS_LAST", "False")
        cfg.merge_from_list([f"MASK_RCNN_EXT.{key}", value, "MODEL.KEYPOINT_ON", "True"])
        cfg.merge_from_list(["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)"])
        torch.manual_seed(0)
        model = prepare_model(cfg, build_model(cfg))
        torch.manual_seed(1)
        with EventStorage():
            losses.append(model(batch(classes=(1, 2), keypoints=17))["loss_keypoint"])
        losses[-1].backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("samples", ["0", "2"])
def test_gathered_roi_align_changes_rounding_only(samples):
    keys = [f"MODEL.{head}.POOLER_SAMPLING_RATIO" for head in ("ROI_BOX_HEAD", "ROI_MASK_HEAD")]
    overrides = [*(item for key in keys for item in (key, samples)), "SOLVER.AMP.ENABLED", "False"]
    layers, losses = [], []
    for gathered in ("False", "True"):
        cfg = config(*overrides, "MASK_RCNN_EXT.GATHERED_ROI_ALIGN", gathered)
        torch.manual_seed(0)
        model = prepare_model(cfg, build_model(cfg))
        layers.append({type(m).__name__ for m in model.modules() if "ROIAlign" in type(m).__name__})
        torch.manual_seed(1)
        with EventStorage():
            losses.append(model(batch(classes=(1, 2))))
        sum(losses[-1].values()).backward()
    assert layers == [{"ROIAlign"}, {"GatheredROIAlign"}]
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, rtol=1e-4, atol=1e-5)


def test_channels_last():
    weight = prepare_model(config(), build_model(config())).backbone.bottom_up.res3[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    cfg = config("MASK_RCNN_EXT.CHANNELS_LAST", "False")
    weight = prepare_model(cfg, build_model(cfg)).backbone.bottom_up.res3[0].conv1.weight
    assert weight.is_contiguous()


def test_devices(monkeypatch):
    cfg = config("MODEL.DEVICE", "cuda", "MASK_RCNN_EXT.AMP_DTYPE", "float16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    choose_device(cfg)
    assert (cfg.MODEL.DEVICE, cfg.MASK_RCNN_EXT.AMP_DTYPE) == ("cpu", "auto")
    with pytest.raises(UserError, match="no CUDA device"):
        choose_device(cfg, "cuda")
    with pytest.raises(UserError, match="expected 'cpu'"):
        choose_device(cfg, "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    choose_device(cfg, "cuda:1")
    assert cfg.MODEL.DEVICE == "cuda:1"
    with pytest.raises(UserError, match="there are 2"):
        choose_device(cfg, "cuda:2")
