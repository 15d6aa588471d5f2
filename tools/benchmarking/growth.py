"""How the time of Mask R-CNN grows with images in a batch, detections, image size and classes.

One of them changes at a time, and the others stay at the values of `DEFAULTS`. `inference` has the
model and the contenders. Images go in as pixels, and results come out in COCO's format.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.evaluation.packed import convert_to_coco

from .inference import load_models, make_image, time_case
from .machine import require_device
from .parts import Part, TimedCase

__all__ = ["AXES", "make_stock", "run"]

DEFAULTS = {"images": 1, "detections": 40, "size": 544, "classes": 80}
AXES = {
    "images": (1, 2, 4, 8),
    "detections": (10, 100, 500, 2000),
    "size": (400, 800, 1200, 1600),  # pixels of the shorter side; the longer one is 4/3 of it
    "classes": (1, 80, 1203),
}


def run(args: argparse.Namespace) -> Part:
    """Time the cases of each axis."""
    require_device(args.device)
    options = {"device": args.device, "rounds": args.rounds, "seed": args.seed, **DEFAULTS}
    part = Part("Growth of the time of a prediction", options)
    for axis in args.axes:
        for value in AXES[axis]:
            print(f"{axis} {value} ...", file=sys.stderr, flush=True)  # all takes half an hour
            part.rows += _time_value(args, axis, value)
    return part


def _time_value(args: argparse.Namespace, axis: str, value: int) -> list[TimedCase]:
    values = {**DEFAULTS, axis: value}
    side = values["size"]
    words = {
        **vars(args), "size": [side, side * 4 // 3], "detections": values["detections"],
        "classes": values["classes"], "engine": [], "int8": False,
    }  # fmt: skip
    options, count = argparse.Namespace(**words), values["images"]
    images = [make_image(*words["size"], args.seed + number) for number in range(count)]

    def find(predictor: Predictor) -> list[dict[str, Any]]:
        found = predictor.stream_packed(images)
        return [one for n, each in enumerate(found) for one in convert_to_coco(each, n)]

    with load_models(options, images[0], make_stock, images) as (stock, ours):
        contenders = {level: partial(find, predictor) for level, predictor in ours.items()}
        return time_case(f"{axis} {value}", contenders, args.rounds, _compare_counts, stock.time)


def make_stock(cfg: CfgNode, images: list[Any]) -> Callable[[Any], list[dict[str, Any]]]:
    """Return a function that predicts a batch with detectron2, for `Remote`."""
    model = DefaultPredictor(cfg).model

    def call(_: Any) -> list[dict[str, Any]]:
        inputs = []
        for image in images:
            pixels = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
            inputs.append({"image": pixels, "height": image.shape[0], "width": image.shape[1]})
        with torch.no_grad():
            outputs = model(inputs)
        found = [output["instances"].to("cpu") for output in outputs]
        return [one for n, each in enumerate(found) for one in instances_to_coco_json(each, n)]

    return call


def _compare_counts(found: list[Any], expected: list[Any]) -> str:
    """Return the number of equal results; the lists are long, so the first difference decides."""
    if found == expected:
        return f"{len(found)} equal"
    return f"{len(found)} and {len(expected)} found"
