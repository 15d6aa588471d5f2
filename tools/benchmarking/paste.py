"""Pasting masks into their image and encoding them as COCO's RLE.

The masks are smooth blobs of 28 x 28 probabilities. Their boxes have sides of 3 % to 60 % of the
image's shorter side, small ones more often, as in COCO. The baseline is detectron2's
`paste_masks_in_image`, then pycocotools' `encode`, as in `instances_to_coco_json`.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from detectron2.layers import paste_masks_in_image
from pycocotools import mask as mask_util
from torch import Tensor
from torch.nn import functional as F

from mask_rcnn_ext.layers.packed_masks import PackedMasks

from .parts import Part, compare_rows
from .rounds import take_turns, time_into

__all__ = ["BASELINE", "OURS", "make_inputs", "run"]

BASELINE, OURS = "detectron2 and pycocotools", "PackedMasks"
CASES = [  # detections, height, width
    *((number, 800, 1333) for number in (10, 100, 500, 2000)),
    *((100, height, width) for height, width in [(400, 667), (1600, 2667), (3000, 4000)]),
    (2000, 3000, 4000),
]
MOST_BYTES = 4e9  # of the baseline's masks
THRESHOLD = 0.5

Rles = list[dict[str, Any]]


def make_inputs(number: int, height: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return probabilities (N, 28, 28) and boxes (N, 4), XYXY_ABS, inside the image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 1.5 * torch.randn(number, 1, 5, 5, generator=generator)
    at = torch.linspace(-1, 1, 28) ** 2
    logits = F.interpolate(coarse, size=(28, 28), mode="bicubic")[:, 0] + 4 * (1 - at - at[:, None])
    sides = 0.03 * 20 ** torch.rand(number, 2, generator=generator) * min(height, width)
    low = torch.rand(number, 2, generator=generator) * (torch.tensor([width, height]) - sides)
    return logits.sigmoid(), torch.cat([low, low + sides], dim=1)


def encode_stock(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Rles:
    """Paste with detectron2 and encode with pycocotools."""
    masks = paste_masks_in_image(probs, boxes, size, THRESHOLD).cpu().numpy()
    return [mask_util.encode(np.array(m[:, :, None], order="F", dtype="uint8"))[0] for m in masks]


def encode_packed(probs: Tensor, boxes: Tensor, size: tuple[int, int]) -> Rles:
    """Paste and encode with this package."""
    return PackedMasks.paste(probs, boxes, size, THRESHOLD).encode()


def run(args: argparse.Namespace) -> Part:
    """Time all cases."""
    part = Part("Pasting and encoding masks", {"rounds": args.rounds, "seed": args.seed})
    for number, height, width in CASES:
        probs, boxes = make_inputs(number, height, width, args.seed)
        functions: dict[str, Callable[..., Rles]] = {BASELINE: encode_stock, OURS: encode_packed}
        if number * height * width > MOST_BYTES:
            del functions[BASELINE]
        outputs: dict[str, Rles] = {}
        size = (height, width)
        contenders = {
            name: partial(time_into, outputs, name, partial(function, probs, boxes, size))
            for name, function in functions.items()
        }
        times = take_turns(contenders, args.rounds)
        rows = compare_rows(f"{number} masks, {height} x {width}", times, next(iter(functions)))
        if BASELINE in outputs:
            rows[1].output = "equal" if outputs[OURS] == outputs[BASELINE] else "DIFFERENT"
        else:
            gigabytes = number * height * width / 1e9
            rows[0].verdict = f"alone: detectron2's masks are {gigabytes:.0f} GB"
        part.rows += rows
    return part
