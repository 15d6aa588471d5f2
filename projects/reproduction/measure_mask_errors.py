"""Measure the masks of trained models in the boxes of the annotations, by kind of object.

python projects/reproduction/measure_mask_errors.py output/mask_rcnn_tiny_FPN output/demo
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import mask_rcnn_ext  # noqa: F401 - first: it keeps PyTorch from warning about detectron2's import

# isort: split
from reproduction.mask_errors import measure_run

from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import write_json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folders of trainings")
    results = "results/mask_errors.json"
    help_results = f"json to write (default: {results})"
    parser.add_argument("--results", default=results, metavar="FILE", help=help_results)
    args = parser.parse_args(argv)

    def measure() -> None:
        runs = {}
        for folder in args.folders:
            runs[folder.name] = measured = measure_run(folder)
            print(folder.name)
            for row in measured["kinds"] + measured["classes"]:
                print(
                    f"  {row['name']:22} {row['objects']:4} objects, IoU {row['iou']:.1f}, "
                    f"bound {row['bound']:.1f}",
                    flush=True,
                )
        write_json(args.results, runs)
        print(args.results)

    return run_as_command(measure)


if __name__ == "__main__":
    sys.exit(main())
