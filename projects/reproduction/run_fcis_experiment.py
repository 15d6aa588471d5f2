"""Train Mask R-CNN and FCIS with k = 7, 3 and 1 on nested shapes, and measure the parts' errors.

python projects/reproduction/run_fcis_experiment.py --seeds 3
python projects/reproduction/run_fcis_experiment.py --photographs --dsb2018 DIR --coco DIR

The second command trains on photographs of nuclei instead. It also counts the pairs in COCO's
photographs that could show the effect.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.command_line import make_parser, prepare_process
from reproduction.fcis.change_measurement import CHANGED, ChangeMeasurement, collect_changes
from reproduction.fcis.change_tables import describe_changes
from reproduction.fcis.experiment import Measurement, NestedRun, collect, plan_experiment
from reproduction.fcis.experiment_page import name_places, write_experiment
from reproduction.fcis.experiment_results import ExperimentResults, PhotographResults
from reproduction.fcis.nested_pairs import draw_pairs
from reproduction.fcis.photographs import (
    PhotographMeasurement,
    collect_photographs,
    plan_photographs,
)
from reproduction.fcis.photographs_markdown import PHOTOGRAPHS, describe_photographs
from reproduction.fcis.predictions import judge_predictions, summarize_predictions
from reproduction.report import Report
from reproduction.training_runs import train_as_asked

from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.report.json_records import from_json
from mask_rcnn_ext.steps import run_step

_PAIRS = 2  # of each class on the page


def run_experiment(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    runs = plan_experiment(args.output, args.seeds)
    if not train_as_asked(args, runs):
        return
    for run in runs:
        run_step(Measurement(run))
        if run.variant in CHANGED:
            run_step(ChangeMeasurement(run))
    page, picture = Path(args.output) / "fcis_experiment.html", Path(args.picture)
    files = [page, Path(args.results), picture, name_places(picture)]
    Report(__file__, files, runs, lambda: report(args, runs)).update(always=args.only_report)


def report(args: argparse.Namespace, runs: Sequence[NestedRun]) -> None:
    """Write results, page and pictures; print which predictions came true."""
    content = {**collect(runs), "changes": collect_changes(runs)}
    (dataset,) = runs[0].config().DATASETS.TEST
    pairs = draw_pairs(runs, dataset, _PAIRS)
    write_json(args.results, content)
    results = from_json(ExperimentResults, content)
    page = Path(args.output) / "fcis_experiment.html"
    written = write_experiment(page, args.picture, results, pairs)
    told = [*summarize_predictions(judge_predictions(results)), *describe_changes(results)]
    print(*told, args.results, *written, sep="\n")


def run_photographs(args: argparse.Namespace) -> None:
    """Do the same on photographs."""
    runs = plan_photographs(args.output, args.dsb2018, args.seeds)
    if not train_as_asked(args, runs):
        return
    for run in runs:
        run_step(PhotographMeasurement(run))
    content = collect_photographs(runs, args.coco)
    write_json(args.results, content)
    told = describe_photographs(from_json(PhotographResults, content))
    print(*told, args.results, sep="\n")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, folder="nested", name="fcis_experiment", seeds=3)
    group = parser.add_argument_group("photographs")
    help_text = f"train on nuclei instead, in output/photographs, with results in {PHOTOGRAPHS}"
    group.add_argument("--photographs", action="store_true", help=help_text)
    layout = "a folder with annotations_train.json, annotations_val.json and images/"
    for option, what in (("--dsb2018", "the nuclei"), ("--coco", "photographs of COCO")):
        group.add_argument(option, metavar="DIR", help=f"{what}: {layout}")
    args = parser.parse_args(argv)
    if bool(args.dsb2018 and args.coco) != args.photographs:
        parser.error("expected --photographs, --dsb2018 DIR and --coco DIR together")
    if args.photographs:
        parser.set_defaults(output="output/photographs", results=PHOTOGRAPHS)
        args = parser.parse_args(argv)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    args = parse_args(argv)
    run = run_photographs if args.photographs else run_experiment
    return run_as_command(lambda: run(args))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
