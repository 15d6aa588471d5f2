"""Exported models find what eager ones find, on images of other sizes than the traced one."""

import pytest
import torch
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import build_model
from detectron2.structures import Boxes
from tiny_fcis import FCIS_CONFIG, FCIS_SMALL
from tiny_model import tiny_cfg
from torch import nn

from mask_rcnn_ext import load_config

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit")
LEAST = 24  # least side of a proposal: the smallest image has none
SIZES = [(96, 64), (33, 47), (8, 8)]


def image(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator).float()


def fcis(*overrides):
    cfg = load_config(FCIS_CONFIG, [*FCIS_SMALL, *overrides])
    cfg.MODEL.DEVICE, cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = "cpu", LEAST
    torch.manual_seed(0)
    model = build_model(cfg)
    for layer in (model.roi_heads.conv_new, model.roi_heads.score_maps):
        nn.init.normal_(layer.weight, std=0.5)  # scores and masks differ from RoI to RoI
    return model


def mask_rcnn(box_layer, mask_layer):
    cfg = tiny_cfg()
    model = cfg.MODEL
    model.META_ARCHITECTURE, model.ROI_HEADS.NAME = "MaskRCNN", "MaskRCNNROIHeads"
    model.ROI_MASK_HEAD.NAME, model.ROI_MASK_HEAD.PASTE_THRESH = "MaskRCNNFCNHead", 0.4
    model.ROI_BOX_HEAD.POOLER_TYPE, model.ROI_MASK_HEAD.POOLER_TYPE = box_layer, mask_layer
    model.PROPOSAL_GENERATOR.MIN_SIZE = LEAST
    torch.manual_seed(0)
    built = build_model(cfg)
    nn.init.normal_(built.roi_heads.box_predictor.cls_score.weight, std=0.01)
    nn.init.normal_(built.roi_heads.mask_head.predictor.weight, std=0.5)
    return built


ALIGN = ["MODEL.FCIS.POOLER_TYPE", "PSROIAlign", "MODEL.FCIS.MASK_VOTING", "False"]


@pytest.mark.parametrize(
    ("build", "postprocess"),
    [
        pytest.param(fcis, True, id="FCIS"),
        pytest.param(fcis, False, id="RoIs of FCIS"),
        pytest.param(lambda: fcis(*ALIGN), True, id="FCIS with PSROIAlign and without voting"),
        pytest.param(lambda: mask_rcnn("ROIAlignMax", "ROIWarpMax"), True, id="Mask R-CNN"),
        pytest.param(lambda: mask_rcnn("ROIWarpAve", "ROIAlign"), True, id="Mask R-CNN, RoIWarp"),
    ],
)
def test_traced_on_one_image_it_runs_on_any(build, postprocess):
    model = build().eval()

    def run(model, pixels):
        found = model.inference([{"image": pixels}], do_postprocess=postprocess)[0]
        return found["instances"] if postprocess else found

    adapter = TracingAdapter(model, image(64, 80, seed=1), run).eval()
    traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
    counts = set()
    for size in SIZES:
        pixels = image(*size, seed=2)
        with torch.no_grad():
            expected = run(model, pixels)
        found = adapter.outputs_schema(traced(pixels))
        assert tuple(found.image_size) == size
        for name, value in expected.get_fields().items():
            values = [getattr(v, "tensor", v) for v in (found.get(name), value)]
            torch.testing.assert_close(*values, rtol=0, atol=1e-6)
        counts.add(len(expected))
    assert 0 in counts
    assert len(counts) > 1


FIELDS = {
    **dict.fromkeys(["proposal_boxes", "pred_boxes"], Boxes),
    **dict.fromkeys(["objectness_logits", "scores", "pred_classes", "pred_masks"], torch.Tensor),
}


def test_scripted_heads_with_every_roi_layer_of_ours():
    """As detectron2's `StandardROIHeads`; the mask head and the meta-architecture are stock."""
    cfg = tiny_cfg()
    model = cfg.MODEL
    model.ROI_HEADS.NAME = "MaskRCNNROIHeads"
    model.ROI_BOX_HEAD.POOLER_TYPE, model.ROI_MASK_HEAD.POOLER_TYPE = "ROIAlignMax", "ROIWarpAve"
    torch.manual_seed(0)
    eager = build_model(cfg).eval()
    scripted = scripting_with_instances(eager, FIELDS)
    for size in SIZES[:2]:
        inputs = [{"image": image(*size, seed=2)}]
        with torch.no_grad():
            expected = eager.inference(inputs, do_postprocess=False)[0]
            found = scripted.inference(inputs, do_postprocess=False)[0]
        assert len(expected)
        torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        torch.testing.assert_close(found.pred_masks, expected.pred_masks)
