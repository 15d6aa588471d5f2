"""Runs of tools/predict.py with a small model: fixtures, inputs and results."""

import json
from pathlib import Path

import cv2
import predict as tool  # tools/ is on the path
import pytest
import torch
from PIL import Image
from tiny_model import picture, tiny_cfg, tiny_model

__all__ = ["outputs", "predict", "run_folder", "write_image", "write_video"]


def write_image(path: Path, height: int = 60, width: int = 80, **kwargs) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(height, width, seed=sum(path.name.encode()))).save(path, **kwargs)


def write_video(path, number, code):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), 10.0, (80, 60))
    for seed in range(number):
        writer.write(picture(60, 80, seed=seed))
    writer.release()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run's config.yaml and weights, as training on a GPU on somebody's data leaves them."""
    folder = tmp_path_factory.mktemp("run")
    cfg = tiny_cfg(3)
    cfg.MODEL.DEVICE = "cuda"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("somebodys_data",)
    cfg.MASK_RCNN_EXT.CLASS_NAMES = ["cat", "dog", "cow"]
    cfg.MASK_RCNN_EXT.CATEGORY_IDS = [2, 7, 90]
    (folder / "config.yaml").write_text(cfg.dump())
    torch.save({"model": tiny_model(3, seed=1).state_dict()}, folder / "model_final.pth")
    return folder


@pytest.fixture
def predict(run_folder, tmp_path, monkeypatch):
    """Run the tool on inputs; return its exit code. The output goes to tmp_path/out."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def run(*inputs, threshold="0", **options) -> int:
        argv = [str(i) for i in inputs]
        argv += ["--config-file", str(options.pop("config", run_folder / "config.yaml"))]
        argv += ["--weights", str(options.pop("weights", run_folder / "model_final.pth"))]
        argv += ["--output", str(options.pop("output", tmp_path / "out"))]
        argv += ["--score-threshold", threshold, *options.pop("more", [])]
        return tool.main(argv)

    return run


def outputs(tmp_path: Path) -> tuple[list[dict], dict]:
    out = tmp_path / "out"
    results = json.loads((out / "coco_instances_results.json").read_text())
    return results, json.loads((out / "images.json").read_text())
