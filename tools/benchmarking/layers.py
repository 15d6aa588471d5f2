"""The position-sensitive RoI layers of FCIS at the scale of COCO.

The input has 300 RoIs, 81 classes (162 maps of 7 x 7 bins, 7938 channels) and maps of 38 x 63
cells, as an image of 600 x 1000 pixels has at stride 16. The baseline is torchvision's
`PSRoIAlign`, which pools the same channels into 7 x 7 cells; the layers of FCIS fill 21 x 21.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torchvision.ops import PSRoIAlign

from mask_rcnn_ext.layers import PSROIAlign, PSROIPool

from .machine import require_device
from .parts import Part, compare_rows
from .rounds import Times, take_turns

__all__ = ["BASELINE", "make_inputs", "run"]

NUM_ROIS, NUM_MAPS, BINS, POOLED = 300, 162, 7, 21
HEIGHT, WIDTH, STRIDE = 38, 63, 16
BASELINE = "torchvision PSRoIAlign, 7 x 7"


def make_inputs(device: str, seed: int) -> tuple[Tensor, Tensor]:
    """Return random maps (1, 7938, 38, 63) and 300 RoIs with sides of 20 to 400 pixels."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(1, NUM_MAPS * BINS**2, HEIGHT, WIDTH, generator=generator)
    limits = torch.tensor([WIDTH * STRIDE, HEIGHT * STRIDE]).float()
    centres = torch.rand(NUM_ROIS, 2, generator=generator) * limits
    halves = 10 * 20 ** torch.rand(NUM_ROIS, 2, generator=generator)
    low, high = (centres - halves).clamp(min=0), torch.minimum(centres + halves, limits)
    rois = torch.cat([torch.zeros(NUM_ROIS, 1), low, high], dim=1)
    return maps.to(device).requires_grad_(), rois.to(device)


def time_once(layer: Callable[[Tensor, Tensor], Tensor], maps: Tensor, rois: Tensor) -> Times:
    """Return the seconds of one forward pass and of its backward pass."""
    wait = torch.cuda.synchronize if maps.is_cuda else lambda: None
    wait()
    start = time.perf_counter()
    pooled = layer(maps, rois)
    wait()
    middle = time.perf_counter()
    pooled.sum().backward()
    wait()
    maps.grad = None
    return {"forward": middle - start, "backward": time.perf_counter() - middle}


def run(args: argparse.Namespace) -> Part:
    """Time the layers."""
    require_device(args.device)
    sizes = f"{NUM_ROIS} RoIs, {NUM_MAPS} maps, {HEIGHT} x {WIDTH} cells"
    part = Part(
        "Position-sensitive RoI layers",
        {"device": args.device, "rounds": args.rounds, "seed": args.seed, "input": sizes},
    )
    maps, rois = make_inputs(args.device, args.seed)
    layers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        BASELINE: PSRoIAlign(BINS, 1 / STRIDE, 2),
        "PSROIPool, 21 x 21": PSROIPool(BINS, POOLED, 1 / STRIDE),
        "PSROIAlign, 21 x 21": PSROIAlign(BINS, POOLED, 1 / STRIDE, 2),
    }
    contenders = {name: partial(time_once, layer, maps, rois) for name, layer in layers.items()}
    part.rows = compare_rows("", take_turns(contenders, args.rounds), BASELINE)
    return part
