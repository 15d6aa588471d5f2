"""Train Mask R-CNN and FCIS with k = 7, 3 and 1 on nested shapes, and measure what the parts do.

python projects/reproduction/run_fcis_experiment.py --seeds 3
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.command_line import make_parser, prepare_process, print_files
from reproduction.fcis.experiment import Measurement, collect, plan_experiment
from reproduction.training_runs import Progress, require_complete, train_all

from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.steps import run_step


def run_experiment(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    runs = plan_experiment(args.output, args.seeds)
    progress = Progress(runs)
    if args.list:
        print(progress.table())
        return
    if not args.only_report:
        print(progress.summary())
        train_all(runs, progress)
    require_complete(runs)
    for run in runs:
        run_step(Measurement(run))
    write_json(args.results, collect(runs))
    print_files(args, [Path(args.results)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    parser = make_parser(__doc__, folder="nested", name="fcis_experiment", seeds=3)
    return run_as_command(lambda: run_experiment(parser.parse_args(argv)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
