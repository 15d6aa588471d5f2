"""Run what needs a GPU: the tests marked gpu, the benchmark against detectron2, and a training.

python projects/reproduction/run_gpu.py [--parts tests benchmark training] [--data DIR]

Each part ends within about nine minutes. The next call does what is left then: a part of the
benchmark that is in the results is not run again as long as the code stays the same, and the
training is resumed from its checkpoint. The training is Mask R-CNN with a ResNet-50 FPN, from
scratch, in mixed precision.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from reproduction.gpu.markdown import GPU
from reproduction.gpu.parts import (
    BENCHMARKS,
    BenchmarkStep,
    add_results,
    begin_results,
    plan_training,
    run_tests,
)

from mask_rcnn_ext.checkpoint.description import get_versions
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import require_writable
from mask_rcnn_ext.steps import run_step

PARTS = ("tests", "benchmark", "training")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    layout = "annotations_train.json, annotations_val.json and images/"
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help=f"train on {layout} (default: drawn shapes)"
    )
    parser.add_argument("--output", type=Path, default=Path("output/gpu"), metavar="DIR")
    parser.add_argument("--results", type=Path, default=Path(GPU), metavar="FILE")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: cuda")
    minutes = "of the benchmark and of the training in one call (default: 8)"
    parser.add_argument("--minutes", type=float, default=8.0, metavar="N", help=minutes)
    return parser.parse_args(argv)


def run_gpu(args: argparse.Namespace) -> int:
    """Do what the command line asks for; return 1 if a test failed or something is left to do."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no CUDA device here. --device cpu tries the script itself")
    folder, seconds = args.output.absolute(), 60 * args.minutes
    require_writable(folder)
    gpu = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    begin_results(args.results, {"device": gpu, "versions": get_versions()})
    left = []
    if "tests" in args.parts:
        counts = run_tests(folder)
        add_results(args.results, {"tests": counts})
        left += ["tests that failed"] * bool(counts["failed"])
    if "benchmark" in args.parts:
        steps = [BenchmarkStep(name, args.device, args.results, folder) for name in BENCHMARKS]
        began = time.monotonic()
        for step in steps:
            if time.monotonic() - began <= seconds:
                run_step(step)
        left += [step.title for step in steps if step.state() != "done"]
    if "training" in args.parts:
        data = args.data and args.data.absolute()
        training = plan_training(folder / "training", data, args.device, seconds, gpu)
        run_step(training)
        if results := training.results():
            named = {**results, "data": "drawn shapes" if data is None else data.name}
            add_results(args.results, {"training": named})
        else:
            left.append("the rest of the training")
    print(args.results)
    for each in left:
        print(f"left: {each}")  # for the next call
    return int(bool(left))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run_gpu(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
