"""Compare the speed of the position-sensitive RoI layers of FCIS at the scale of COCO.

    python tools/benchmark.py

The input has 300 RoIs, 81 classes (162 maps of 7 x 7 bins, 7938 channels) and maps of 38 x 63
cells, as an image of 600 x 1000 pixels has at stride 16. The baseline is torchvision's
`ps_roi_align`, which pools the same channels into 7 x 7 cells; the layers of FCIS fill 21 x 21. The
layers take turns, and a ratio compares the medians of one run.
"""

import argparse
import logging
import statistics
import sys
import time
from collections.abc import Callable, Sequence


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: 0)")
    return parser


if __name__ == "__main__":
    build_parser().parse_args()  # --help ends here, before the imports below, which take seconds

import torch
from tabulate import tabulate
from torch import Tensor
from torchvision.ops import PSRoIAlign

from mask_rcnn_ext import UserError
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.layers import PSROIAlign, PSROIPool

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


def time_once(layer: Callable[[Tensor, Tensor], Tensor], maps: Tensor, rois: Tensor) -> list[float]:
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
    return [middle - start, time.perf_counter() - middle]


def benchmark(args: argparse.Namespace) -> None:
    """Time the layers and print the table."""
    if args.repeats < 1:
        raise UserError(f"--repeats: expected 1 or more, got {args.repeats}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here; use cpu")
    maps, rois = make_inputs(args.device, args.seed)
    layers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        BASELINE: PSRoIAlign(BINS, 1 / STRIDE, 2),
        "PSROIPool, 21 x 21": PSROIPool(BINS, POOLED, 1 / STRIDE),
        "PSROIAlign, 21 x 21": PSROIAlign(BINS, POOLED, 1 / STRIDE, 2),
    }
    times: dict[str, list[list[float]]] = {name: [] for name in layers}
    for repeat in range(args.repeats + 1):
        for name, layer in layers.items():
            seconds = time_once(layer, maps, rois)
            if repeat:  # the first round warms up
                times[name].append(seconds)
    medians = {
        name: [statistics.median(part) for part in zip(*found, strict=True)]
        for name, found in times.items()
    }
    rows = [
        [name, *seconds, *(s / y for s, y in zip(seconds, medians[BASELINE], strict=True))]
        for name, seconds in medians.items()
    ]
    headers = ["layer", "forward, s", "backward, s", "forward, ratio", "backward, ratio"]
    print(tabulate(rows, headers=headers, floatfmt=".2f"))
    where = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(
        f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}, seed {args.seed}"
    )
    print(f"medians of {args.repeats}; {NUM_ROIS} RoIs, {NUM_MAPS} maps, {HEIGHT} x {WIDTH} cells")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: `sys.argv`) and return the exit code."""
    args = build_parser().parse_args(argv)
    return run_as_command(lambda: benchmark(args))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    sys.exit(main())
