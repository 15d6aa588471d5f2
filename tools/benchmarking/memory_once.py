"""Predicts or trains on images of many sizes; prints the time, peak memory and results as json.

`benchmarking.memory` starts it as a process: CONTENDER CASE IMAGES SEED FOLDER.
"""

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import DefaultPredictor

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.config import complete_config

from .inference import BASELINE, make_config, make_image, make_weights
from .processes import find_peak
from .rounds import time_call
from .training import make_ours, make_stock

__all__ = ["CASES", "CONTENDERS", "list_options", "run_once", "write_weights"]

CASES = {"prediction": (480, 1000), "training": (640, 1000)}  # shortest and longest side, in pixels
CONTENDERS = (BASELINE, "REUSE_MEMORY False", "REUSE_MEMORY True")


def list_options(case: str, images: int, seed: int) -> Iterator[argparse.Namespace]:
    """Yield the options of `inference` and `training` for each image: the sizes differ."""
    sides = np.random.default_rng(seed).integers(*CASES[case], (images, 2))
    fixed = {"device": "cpu", "classes": 80, "detections": 100, "images": 1, "objects": 10}
    for number, size in enumerate(sides.tolist()):
        yield argparse.Namespace(**fixed, size=size, seed=seed + number)


def write_weights(seed: int, folder: Path) -> None:
    """Write `weights.pth`, random weights for the predictions of all contenders."""
    options = next(list_options("prediction", 1, seed))
    image = make_image(*options.size, options.seed)
    weights = make_weights(make_config(options), image, seed)
    torch.save({"model": weights}, folder / "weights.pth")


def run_once(contender: str, case: str, images: int, seed: int, folder: Path) -> dict[str, Any]:
    """Predict, or train a step, on each image.

    Returns:
        `seconds`, without the making of the model and of the images; `peak_mb`; a hash of the
        `results`: of the instances, or of the losses.
    """
    start = _start_prediction if case == "prediction" else _start_training
    steps = start(contender, list(list_options(case, images, seed)), folder)
    seconds, hashes = 0.0, hashlib.sha256()
    for step in steps:
        spent, found = time_call(step)
        seconds += spent
        hashes.update(found)
    return {"seconds": seconds, "peak_mb": find_peak() / 1e6, "results": hashes.hexdigest()}


def _start_prediction(
    contender: str, options: list[argparse.Namespace], folder: Path
) -> Iterator[Callable[[], bytes]]:
    cfg = make_config(options[0])
    cfg.MODEL.WEIGHTS = str(folder / "weights.pth")
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 800, 1333  # detectron2's
    kind: Any = DefaultPredictor
    if contender != BASELINE:
        cfg, kind = complete_config(cfg), Predictor
        cfg.MASK_RCNN_EXT.REUSE_MEMORY = contender.endswith("True")
    predict = kind(cfg)

    def find(pixels: Any) -> bytes:
        found = predict(pixels)
        found = found["instances"] if contender == BASELINE else found
        masks = np.packbits(found.pred_masks.numpy())
        tensors = found.pred_boxes.tensor, found.scores, found.pred_classes
        return b"".join(each.numpy().tobytes() for each in tensors) + masks.tobytes()

    for each in options:
        pixels = make_image(*each.size, each.seed)
        yield lambda pixels=pixels: find(pixels)  # type: ignore[misc]


def _start_training(
    contender: str, options: list[argparse.Namespace], folder: Path
) -> Iterator[Callable[[], bytes]]:
    if contender == BASELINE:
        step: Any = make_stock(options, False)
    else:
        step = make_ours(options, {"MASK_RCNN_EXT.REUSE_MEMORY": contender.endswith("True")})
    return itertools.repeat(lambda: json.dumps(step()).encode(), len(options))


if __name__ == "__main__":
    name, case, images, seed, folder = sys.argv[1:]
    print(json.dumps(run_once(name, case, int(images), int(seed), Path(folder))))
