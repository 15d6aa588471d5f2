"""A step of training of Mask R-CNN with a ResNet-50 FPN: detectron2, and our ways to train.

Each contender takes whole steps (forward, backward, optimizer) on the same batch, from the same
weights and with the same random numbers. The learning rate is so small that the losses stay as they
are. The output compares the losses of the last step.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.structures import Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from mask_rcnn_ext.engine.loop import build_loop
from mask_rcnn_ext.errors import require_range
from mask_rcnn_ext.model_zoo import get_config
from mask_rcnn_ext.modeling.precision import get_amp_dtype, prepare_model

from .inference import CONFIG, make_image, time_case
from .machine import require_device
from .parts import Part
from .remote import Remote

__all__ = ["make_batch", "make_ours", "make_stock", "run"]

_CORNERS = 16  # of a polygon, which is an ellipse
_CONTENDERS: dict[str, dict[str, Any]] = {
    "mask_rcnn_ext": {},
    "channels_last, gathered": {
        "MASK_RCNN_EXT.CHANNELS_LAST": True,
        "MASK_RCNN_EXT.GATHERED_ROI_ALIGN": True,
        "MASK_RCNN_EXT.GATHERED_MASK_PREDICTOR": True,
    },
}
_MIXED = "the same in mixed precision"

Batch = list[dict[str, Any]]
Step = Callable[..., dict[str, float]]


def make_batch(args: argparse.Namespace) -> Batch:
    """Return images with ellipses, as a mapper returns them."""
    rng, batch = np.random.default_rng(args.seed), []
    height, width = args.size
    for number in range(args.images):
        sides = 0.05 * 10 ** rng.random((args.objects, 2)) * min(args.size)
        low = rng.random((args.objects, 2)) * ([width, height] - sides)
        angles = 2 * np.pi * np.arange(_CORNERS) / _CORNERS
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        outlines = low[:, None] + sides[:, None] * (circle + 1) / 2
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.as_tensor(np.hstack([low, low + sides])).float())
        instances.gt_classes = torch.as_tensor(rng.integers(0, args.classes, args.objects))
        instances.gt_masks = PolygonMasks([[outline.ravel()] for outline in outlines])
        pixels = make_image(height, width, args.seed + number).transpose(2, 0, 1).copy()
        batch.append({"image": torch.as_tensor(pixels), "instances": instances})
    return batch


def _finish_config(cfg: CfgNode, args: argparse.Namespace) -> CfgNode:
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = args.device, ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = args.classes
    cfg.SOLVER.BASE_LR = 1e-8
    return cfg


def make_stock(options: Sequence[argparse.Namespace], amp: bool) -> Step:
    """Return a function that takes a step with detectron2's loop, for `Remote`.

    Args:
        options: the options of the batches, which the steps take in turn; the first ones are also
            those of the model.
        amp: train in mixed precision.

    Returns:
        A function that returns the losses of a step.
    """
    cfg = _finish_config(model_zoo.get_config(CONFIG), options[0])
    torch.manual_seed(options[0].seed)
    model = build_model(cfg).train()
    kind = AMPTrainer if amp else SimpleTrainer
    loop = kind(model, _repeat_batches(options), build_optimizer(cfg, model))
    return partial(_take_step, loop, options[0].seed)


def make_ours(options: Sequence[argparse.Namespace], keys: Mapping[str, Any]) -> Step | None:
    """Return the same with our loop; None if mixed precision is slower on this processor."""
    cfg = _finish_config(get_config(CONFIG), options[0])
    for key, value in keys.items():
        cfg.merge_from_list([key, str(value)])
    if cfg.SOLVER.AMP.ENABLED and get_amp_dtype(cfg) is None:
        return None
    torch.manual_seed(options[0].seed)
    model = prepare_model(cfg, build_model(cfg).train())
    loop = build_loop(cfg, model, _repeat_batches(options), build_optimizer(cfg, model))
    return partial(_take_step, loop, options[0].seed)


def _repeat_batches(options: Sequence[argparse.Namespace]) -> Iterator[Batch]:
    return itertools.cycle([make_batch(each) for each in options])  # all are made before a step


def _take_step(loop: SimpleTrainer, seed: int, _: Any = None) -> dict[str, float]:
    torch.manual_seed(seed)
    with EventStorage() as storage:
        loop.run_step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return {key: value for key, (value, _) in storage.latest().items() if "loss" in key}


def _compare_losses(found: Mapping[str, float], expected: Mapping[str, float]) -> str:
    if found == expected:
        return f"{len(found)} losses equal"
    apart = max(abs(found[name] - value) / abs(value) for name, value in expected.items())
    return f"losses within {100 * apart:.1g} %"


def run(args: argparse.Namespace) -> Part:
    """Time the steps and compare the losses."""
    require_device(args.device)
    for name in ("objects", "classes", "images"):
        require_range(f"--{name}", getattr(args, name), 1)
    require_range("--size", min(args.size), 1)
    contenders: dict[str, Step] = {}
    if args.device == "cuda":
        contenders["detectron2, mixed precision"] = make_stock([args], True)
    mixed = {**_CONTENDERS["channels_last, gathered"], "SOLVER.AMP.ENABLED": True}
    for name, keys in {**_CONTENDERS, _MIXED: mixed}.items():
        if (step := make_ours([args], keys)) is not None:
            contenders[name] = step
    height, width = args.size
    part = Part(
        "A training step of Mask R-CNN, ResNet-50 FPN",
        {
            "device": args.device, "rounds": args.rounds, "seed": args.seed, "images": args.images,
            "size": f"{height} x {width}", "objects": args.objects, "classes": args.classes,
        },
    )  # fmt: skip
    case = f"{args.images} x {height} x {width}"
    with Remote(make_stock, [args], False) as stock:
        part.rows = time_case(case, contenders, args.rounds, _compare_losses, stock.time)
    return part
