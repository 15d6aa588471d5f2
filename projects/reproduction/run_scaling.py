"""Test on one machine that two nodes train like one, and that kills lose no image.

python projects/reproduction/run_scaling.py [--images 20000] [--kills 3]

1. The same small model is trained on one node with two processes, on two nodes that find each other
   by --dist-url, and on two nodes with torchrun. Nodes are processes of this machine. The weights
   must be equal to the bit.
2. The model predicts on drawn images of 64 x 64 pixels: once without kills, and once with SIGKILLs
   at random moments. After each kill, the same command starts again. The result files must be equal
   to the byte.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.scaling.drawn_images import draw_images
from reproduction.scaling.killed_prediction import Job, predict_with_kills
from reproduction.scaling.markdown import SCALING
from reproduction.scaling.results_file import ScalingResults
from reproduction.scaling.two_nodes import train_on_nodes

from mask_rcnn_ext.checkpoint.description import get_versions
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.report.json_records import to_json

ANNOTATED = 64  # images to train on


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for option, number, text in (
        ("--images", 20000, "images to predict on"),
        ("--kills", 3, "kills of the prediction"),
        ("--seed", 0, "seed of the kills' moments"),
    ):
        help_text = f"{text} (default: {number})"
        parser.add_argument(option, type=int, default=number, metavar="N", help=help_text)
    output = Path("output/scaling")
    help_output = f"folder of the runs (default: {output})"
    parser.add_argument("--output", type=Path, default=output, metavar="DIR", help=help_output)
    help_results = f"json to write (default: {SCALING})"
    parser.add_argument("--results", default=SCALING, metavar="FILE", help=help_results)
    return parser.parse_args(argv)


def run_scaling(args: argparse.Namespace) -> int:
    """Do what the command line asks for; return 1 if something is not equal."""
    if args.images < max(ANNOTATED, 100) or args.kills < 1:
        raise UserError("expected --images 100 or more and --kills 1 or more")
    folder = args.output.absolute()
    annotations = draw_images(folder / "data", args.images, ANNOTATED)
    if len(list((folder / "data/images").iterdir())) != args.images:
        raise UserError(f"{folder / 'data'} contains other images; give another --output")
    training = train_on_nodes(folder, annotations)
    print(f"equal weights: {training.equal}", flush=True)
    job = Job(folder / "one_node/model_final.pth", folder / "data/images")
    prediction = predict_with_kills(folder, job, args.kills, args.seed)
    print(to_json(prediction))
    results = ScalingResults(training, prediction, os.cpu_count(), get_versions())
    write_json(args.results, to_json(results))
    print(args.results)
    good = all(training.equal.values()) and prediction.bytes_equal
    return 0 if good and not (prediction.lost or prediction.doubled) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run_scaling(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
