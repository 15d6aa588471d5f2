"""Models on a GPU: what they find there, and one step of training in each precision."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import pairwise_iou
from detectron2.utils.events import EventStorage
from faithful import batch
from tiny_fcis import fcis_cfg, fcis_model, image_of
from tiny_model import detect, tiny_cfg, tiny_model

from mask_rcnn_ext.modeling.precision import prepare_model

OUR_HEADS = {
    "META_ARCHITECTURE": "MaskRCNN",
    "ROI_HEADS.NAME": "MaskRCNNROIHeads",
    "ROI_MASK_HEAD.NAME": "MaskRCNNFCNHead",
}
KINDS = {
    "detectron2's heads": {},
    "our heads": OUR_HEADS,
    "our RoI layers": {**OUR_HEADS, "ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignMax",
                       "ROI_MASK_HEAD.POOLER_TYPE": "ROIWarpAve"},
    "softmax": {**OUR_HEADS, "ROI_MASK_HEAD.LOSS": "softmax"},
    "MLP": {**OUR_HEADS, "ROI_MASK_HEAD.NAME": "MaskRCNNMLPHead"},
    "keypoints": {"KEYPOINT_ON": True, "MASK_ON": False, "ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": 3,
                  "ROI_KEYPOINT_HEAD.CONV_DIMS": [16]},
    "FCIS": None,
}  # fmt: skip


def model_of(kind, *overrides):
    """Return a model on the CPU."""
    if kind == "FCIS":
        return fcis_model(fcis_cfg(*overrides))
    cfg = tiny_cfg(3)
    for key, value in KINDS[kind].items():
        cfg.merge_from_list([f"MODEL.{key}", str(value)])
    cfg.merge_from_list(list(overrides))
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.01)
    return prepare_model(cfg, model)


def check_detections(model, device):
    """Compare what a model finds on `device` with what it finds on the CPU."""
    inputs = [image_of(64, 96, seed=seed) for seed in (1, 2)]
    model.eval()
    places = (model, copy.deepcopy(model).to(device))
    for other, found in zip(*(detect(place, *inputs) for place in places), strict=True):
        found = found.to("cpu")
        assert len(found) == len(other) > 3
        overlap = pairwise_iou(other.pred_boxes, found.pred_boxes)
        overlap[other.pred_classes[:, None] != found.pred_classes] = 0
        best, index = overlap.max(dim=1)
        assert (best > 0.99).float().mean() >= 0.9, "rounding may exchange one for another"
        same = best > 0.99
        pairs = found[index[same]], other[same]
        torch.testing.assert_close(pairs[0].scores, pairs[1].scores, rtol=1e-3, atol=1e-3)
        if other.has("pred_masks"):
            apart = pairs[0].pred_masks != pairs[1].pred_masks
            assert apart.float().mean() < 1e-2


def check_step(model, device, dtype, keypoints):
    """Take gradients on `device`: they are finite, and of the parameters that have some on CPU."""
    grads = []
    for place in ("cpu", device):
        ours = copy.deepcopy(model).to(place).train()
        enabled = dtype != torch.float32 and place != "cpu"  # the CPU's are the reference
        # Without keypoints, NumPy warns in detectron2's metrics.
        for objects in (True,) if keypoints else (True, False):
            cast = torch.autocast(torch.device(place).type, dtype=dtype, enabled=enabled)
            with cast, EventStorage():
                losses = ours(batch(classes=(0, 2), keypoints=3 * keypoints, objects=objects))
            sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())
        named = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
        if dtype != torch.float16:  # without a scaler, small gradients vanish and large ones do not
            assert all(grad.isfinite().all() for grad in named.values())
        grads.append({*named})
    assert grads[0] == grads[1]


@pytest.fixture(autouse=True)
def _whole_float32():
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


# One kind on the CPU: without a GPU, this shows that the tests themselves run.
ON_GPU = [pytest.param(kind, "cuda", marks=pytest.mark.gpu) for kind in KINDS]


@pytest.mark.parametrize(("kind", "device"), [("FCIS", "cpu"), *ON_GPU])
def test_a_model_finds_the_same(kind, device):
    check_detections(model_of(kind), device)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_gathered_parts_find_the_same(device):
    keys = ("GATHERED_ROI_ALIGN", "GATHERED_MASK_PREDICTOR", "CHANNELS_LAST")
    words = [word for key in keys for word in (f"MASK_RCNN_EXT.{key}", "True")]
    check_detections(model_of("our heads", *words), device)


@pytest.mark.parametrize(
    ("kind", "device", "dtype"),
    [
        ("our heads", "cpu", torch.float32),
        *(
            pytest.param(kind, "cuda", dtype, marks=pytest.mark.gpu)
            for kind in KINDS
            for dtype in (torch.float32, torch.bfloat16, torch.float16)
        ),
    ],
)
def test_a_step_gives_the_same_parameters_gradients(kind, device, dtype):
    check_step(model_of(kind), device, dtype, kind == "keypoints")


def test_another_model_would_be_seen():
    model, other = tiny_model(seed=0), tiny_model(seed=1)
    model.__deepcopy__ = lambda _: other
    with pytest.raises(AssertionError):
        check_detections(model, "cpu")
