"""A small Mask R-CNN, and its exports to ONNX and OpenVINO."""

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from support import SMALL, TINY_CONFIG
from tiny_model import picture

from mask_rcnn_ext import load_config
from mask_rcnn_ext.export.export_model import export_model

NAMES = ["Zelle", "細胞", "c"]


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for seed, (height, width) in enumerate([(90, 130), (64, 64), (130, 70)]):
        paths.append(str(folder / f"{seed}.png"))
        Image.fromarray(picture(height, width, seed)).save(paths[-1])
    return paths


@pytest.fixture(scope="session")
def cfg(tmp_path_factory):
    """The config of a small Mask R-CNN that finds something, with its weights."""
    cfg = load_config(TINY_CONFIG, [*SMALL, "MODEL.DEVICE", "cpu", "INPUT.MAX_SIZE_TEST", "96"])
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NUM_CLASSES = "MaskRCNN", 3
    cfg.MODEL.ROI_MASK_HEAD.PASTE_THRESH = 0.4
    # A trace of gathered layers would hold for one image only.
    cfg.MASK_RCNN_EXT.GATHERED_ROI_ALIGN = cfg.MASK_RCNN_EXT.GATHERED_MASK_PREDICTOR = True
    cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = 24  # a very small image has no proposal
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.1
    cfg.TEST.DETECTIONS_PER_IMAGE = 10
    cfg.MASK_RCNN_EXT.CLASS_NAMES, cfg.MASK_RCNN_EXT.CATEGORY_IDS = NAMES, [3, 10, 17]
    cfg.MODEL.WEIGHTS = str(tmp_path_factory.mktemp("run") / "model_final.pth")
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.01)
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.1)
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    return cfg


@pytest.fixture(scope="session")
def onnx_path(cfg, images, tmp_path_factory):
    return export_model(cfg, tmp_path_factory.mktemp("onnx"), images)


@pytest.fixture(scope="session")
def openvino_path(cfg, images, tmp_path_factory):
    pytest.importorskip("openvino", reason='needs pip install "mask_rcnn_ext[openvino]"')
    return export_model(cfg, tmp_path_factory.mktemp("openvino"), images, format="openvino")


@pytest.fixture(params=["onnx", "openvino"])
def path(request):
    return request.getfixturevalue(f"{request.param}_path")
