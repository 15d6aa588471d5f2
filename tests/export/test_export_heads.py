"""Exports of heads whose number of instances a trace could keep."""

import pytest
import torch
from support import SMALL, TINY_CONFIG
from tiny_model import picture

from mask_rcnn_ext import Predictor, load_config
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.export import export_model as exporting
from mask_rcnn_ext.export.export_model import export_model
from mask_rcnn_ext.modeling.building import build_model

pytest.importorskip("onnx", reason='needs pip install "mask_rcnn_ext[onnx]"')
pytest.importorskip("onnxruntime", reason='needs pip install "mask_rcnn_ext[onnx]"')
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries


@pytest.mark.parametrize("argmax", [False, True])
def test_softmax_masks_of_any_number(argmax, images, tmp_path):
    cfg = load_config(TINY_CONFIG, [*SMALL, "MODEL.DEVICE", "cpu", "INPUT.MAX_SIZE_TEST", "96"])
    head = cfg.MODEL.ROI_MASK_HEAD
    head.NAME, head.LOSS, head.SOFTMAX_ARGMAX = "MaskRCNNFCNHead", "softmax", argmax
    head.CLS_AGNOSTIC_MASK = False  # with two channels, both readings of softmax are the same
    cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 3, 0.255
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.01)
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.1)
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    path = export_model(cfg, tmp_path / "out", images)
    model, exported = Predictor(cfg), Predictor(path)
    counts = set()
    for image in (picture(50, 90, 5), picture(97, 61, 6), *images):
        expected, found = model(image), exported(image)
        counts.add(len(expected))
        # A score of random weights may lie at the threshold. `export_model` compares the rest.
        assert abs(len(found) - len(expected)) <= 2
        assert len(found.pred_masks) == len(found)
    assert len(counts) > 1, "of different numbers"


def test_an_export_that_cannot_run_is_told(cfg, images, tmp_path, monkeypatch):
    find = exporting._find

    def fail(predictor, image):
        if type(predictor.model).__name__ == "ExportedMaskRCNN":
            raise RuntimeError("Exception from node.cpp:794:\nTotal length of splits: 82\n\n")
        return find(predictor, image)

    monkeypatch.setattr(exporting, "_find", fail)
    with pytest.raises(UserError, match=r"cannot run on .*0\.png: Total length of splits"):
        export_model(cfg, tmp_path / "out", images)
    assert not [*tmp_path.iterdir()]
