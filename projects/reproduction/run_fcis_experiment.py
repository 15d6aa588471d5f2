"""Train Mask R-CNN and FCIS with k = 7, 3 and 1 on nested shapes, and measure what the parts do.

python projects/reproduction/run_fcis_experiment.py --seeds 3
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.command_line import make_parser, prepare_process
from reproduction.fcis.experiment import Measurement, NestedRun, collect, plan_experiment
from reproduction.fcis.experiment_page import name_places, write_experiment
from reproduction.fcis.experiment_tables import summarize_predictions
from reproduction.fcis.nested_pairs import draw_pairs
from reproduction.fcis.predictions import judge_predictions
from reproduction.report import Report
from reproduction.training_runs import train_as_asked

from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.steps import run_step

_PAIRS = 2  # of each class on the page


def run_experiment(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    runs = plan_experiment(args.output, args.seeds)
    if not train_as_asked(args, runs):
        return
    for run in runs:
        run_step(Measurement(run))
    page, picture = Path(args.output) / "fcis_experiment.html", Path(args.picture)
    files = [page, Path(args.results), picture, name_places(picture)]
    Report(__file__, files, runs, lambda: report(args, runs)).update(always=args.only_report)


def report(args: argparse.Namespace, runs: Sequence[NestedRun]) -> None:
    """Write results, page and pictures; print what came true."""
    content = collect(runs)
    (dataset,) = runs[0].config().DATASETS.TEST
    pairs = draw_pairs(runs, dataset, _PAIRS)
    write_json(args.results, content)
    page = Path(args.output) / "fcis_experiment.html"
    written = write_experiment(page, args.picture, content, pairs)
    for sentence in summarize_predictions(judge_predictions(content)):
        print(sentence)
    for path in (args.results, *written):
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    parser = make_parser(__doc__, folder="nested", name="fcis_experiment", seeds=3)
    return run_as_command(lambda: run_experiment(parser.parse_args(argv)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
