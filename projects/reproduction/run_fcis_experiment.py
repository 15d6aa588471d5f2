"""Train Mask R-CNN and FCIS with k = 7, 3 and 1 on nested shapes, and measure what the parts do.

python projects/reproduction/run_fcis_experiment.py --seeds 3
"""

import argparse
import sys
from collections.abc import Sequence

from reproduction.command_line import make_parser, prepare_process
from reproduction.fcis.experiment import Measurement, collect, plan_experiment
from reproduction.training_runs import train_as_asked

from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.steps import run_step


def run_experiment(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    runs = plan_experiment(args.output, args.seeds)
    if not train_as_asked(args, runs):
        return
    for run in runs:
        run_step(Measurement(run))
    write_json(args.results, collect(runs))
    print(args.results)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    names = {"folder": "nested", "name": "fcis_experiment"}
    parser = make_parser(__doc__, **names, seeds=3, picture=None)
    return run_as_command(lambda: run_experiment(parser.parse_args(argv)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
