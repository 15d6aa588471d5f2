"""An OpenVINO file at the level "fastest": bfloat16, but not for coordinates and scores."""

import xml.etree.ElementTree as ElementTree
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_model import picture

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.modeling import exported, speed
from mask_rcnn_ext.modeling.exported import (
    get_openvino_core,
    load_exported,
    read_exported_config,
)
from mask_rcnn_ext.modeling.openvino_precision import mark_float32_layers
from mask_rcnn_ext.modeling.precision import computes_bfloat16
from mask_rcnn_ext.prediction.folder import FolderJob

pytest.importorskip("onnx", reason='needs pip install "mask_rcnn_ext[onnx]"')
openvino = pytest.importorskip("openvino", reason='needs pip install "mask_rcnn_ext[openvino]"')
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries


def test_bfloat16_is_for_products_and_not_for_boxes_and_scores(openvino_path):
    marked = mark_float32_layers(openvino_path.read_bytes())
    layers = ElementTree.fromstring(marked).findall("./layers/layer")
    kinds: dict[bool, Counter] = {True: Counter(), False: Counter()}
    for layer in layers:
        kinds[layer.find("./rt_info/attribute[@name='precise']") is not None][
            layer.get("type")
        ] += 1
    products = {"Convolution", "ConvolutionBackpropData", "MatMul", "ROIAlign"}
    assert products <= kinds[False].keys()
    assert not products & kinds[True].keys()
    assert {"NonMaxSuppression", "TopK", "Exp", "SoftMax"} <= kinds[True].keys()
    assert not {"NonMaxSuppression", "TopK", "Exp", "SoftMax"} & kinds[False].keys()
    assert kinds[False]["ReLU"] > 10 * kinds[True]["ReLU"]
    weights = np.fromfile(openvino_path.with_suffix(".bin"), np.uint8)
    tensor = openvino.Tensor(weights)
    model = get_openvino_core().read_model(marked, tensor)
    assert [node.get_type_name() for node in model.get_ops()].count("ROIAlign") > 0


@pytest.mark.skipif(not computes_bfloat16(), reason="this CPU does not compute in bfloat16")
def test_fastest_runs_an_openvino_file_in_bfloat16(openvino_path):
    image = picture(50, 90, 5)
    expected, found = (Predictor(openvino_path, speed=s)(image) for s in ("exact", "fastest"))
    assert len(found) == len(expected) > 0
    assert not torch.equal(found.scores, expected.scores)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=0.02)
    boxes = expected.pred_boxes.tensor
    torch.testing.assert_close(found.pred_boxes.tensor, boxes, rtol=0, atol=0.5)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool", "ROIPool"),
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIWarpAve", "ROIWarpAve"),
        ("MODEL.META_ARCHITECTURE", "MaskRCNNExtFCIS", "FCIS"),
    ],
)
def test_a_model_whose_boxes_would_move_runs_in_float32(
    key, value, said, openvino_path, monkeypatch, caplog
):
    monkeypatch.setattr(speed, "computes_bfloat16", lambda: True)
    monkeypatch.setattr(exported, "_require_same", lambda *_: None)
    cfg = read_exported_config(openvino_path)
    cfg.MASK_RCNN_EXT.SPEED = "fastest"
    assert load_exported(cfg)[1].network.bfloat16
    cfg.merge_from_list([key, value])
    assert not load_exported(cfg)[1].network.bfloat16
    assert f"an export with {said} runs in float32" in caplog.text


def test_a_folder_predicted_in_bfloat16_is_not_continued_in_float32(openvino_path, monkeypatch):
    job = FolderJob(None, [], "unused", outputs=("coco",))
    for computes in (True, False):
        monkeypatch.setattr(speed, "computes_bfloat16", lambda answer=computes: answer)
        exact, fastest = (
            job.describe(Predictor(openvino_path, speed=s)) for s in ("exact", "fastest")
        )
        assert (exact != fastest) == computes


def test_without_bfloat16_fastest_is_float32(openvino_path, monkeypatch):
    monkeypatch.setattr(speed, "computes_bfloat16", lambda: False)
    image = picture(50, 90, 5)
    expected, found = (Predictor(openvino_path, speed=s)(image) for s in ("exact", "fastest"))
    assert len(found) > 0
    assert torch.equal(found.scores, expected.scores)
