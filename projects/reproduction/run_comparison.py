"""Train the small Mask R-CNN and the small FCIS, and compare them where objects overlap.

python projects/reproduction/run_comparison.py --seeds 3
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.command_line import make_parser, prepare_process, print_files
from reproduction.fcis.answers import describe_loss
from reproduction.fcis.page import make_comparison, write_comparison_page
from reproduction.fcis.results import collect, measure_runs
from reproduction.fcis.runs import MODELS, ComparisonRun, compare_fcis_configs, plan_steps
from reproduction.report import Report
from reproduction.training_runs import TrainingProgress, plan_runs, require_complete, train_all

from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.errors import require_range
from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.report.comparison_gallery import draw_gallery
from mask_rcnn_ext.report.comparison_page import print_comparison
from mask_rcnn_ext.report.json_records import to_json

_GALLERY = 12  # pictures on the page


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, folder="compare", name="fcis_comparison", seeds=3)
    help_text = "number of processes that measure (default: 1)"
    parser.add_argument("--processes", type=int, default=1, metavar="N", help=help_text)
    args = parser.parse_args(argv)
    require_range("--processes", args.processes, 1)
    return args


def run_comparison(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    runs = plan_runs(ComparisonRun, args.output, MODELS, args.seeds)
    steps, progress = plan_steps(runs), TrainingProgress(runs)
    if args.list:
        print(progress.table())
        return
    compare_fcis_configs()  # refuses an unfair comparison before anything is trained
    if not args.only_report:
        print(progress.summary())
        train_all(steps, progress)
    require_complete(steps)
    files = [Path(args.output) / "comparison.html", Path(args.results)]
    Report(__file__, files, runs, lambda: report(args, runs)).update(always=args.only_report)


def report(args: argparse.Namespace, runs: Sequence[ComparisonRun]) -> None:
    """Measure the runs; write results, page and picture; print the answers."""
    measured = measure_runs(runs, args.processes)
    results = collect(runs, measured)
    drawn, problems = draw_gallery(
        measured.truth,
        measured.images,
        measured.detections,
        (measured.records[0][0], measured.records[1][0]),
        _GALLERY,
    )
    write_json(args.results, to_json(results))
    first = f"The pictures are from seed {runs[0].seed}."
    several = "Matched objects and pairs are counted over all trainings."
    notes = [*([first, several] if args.seeds > 1 else []), *problems]
    files = [[str(run.predictions) for run in runs if run.variant == v] for v in MODELS]
    comparison = make_comparison(results, files, notes)
    pages = write_comparison_page(args.output, results, comparison, drawn)
    print_comparison(comparison)
    print(describe_loss(results))
    print_files(args, pages)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run_comparison(parse_args(argv)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
