"""Train the small Mask R-CNN and the small FCIS, and compare them where objects overlap.

python projects/reproduction/run_comparison.py --seeds 3
"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.fcis.answers import sentences
from reproduction.fcis.page import make_comparison, write_comparison_page
from reproduction.fcis.results import collect, measure_runs, result_files, write_comparison_results
from reproduction.fcis.runs import (
    ComparisonRun,
    compare_configs,
    evaluate_unvoted,
    plan,
    require_complete,
)
from reproduction.training_runs import Progress, run_to_the_end, train_all, training_options

from mask_rcnn_ext import UserError
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import atomic_open, require_writable
from mask_rcnn_ext.report.comparison_gallery import draw_gallery, rank_images
from mask_rcnn_ext.report.comparison_page import print_comparison

_REPO = Path(__file__).resolve().parents[2]
_GALLERY = 12  # pictures on the page


def train_in_subprocess(run: ComparisonRun, resume: bool) -> int:
    """Run train_net.py for one model and seed; see `run_to_the_end`. Return the exit code."""
    command = [sys.executable, str(_REPO / "train_net.py"), *training_options(run, resume)]
    return run_to_the_end(command, run.folder / "console.txt")


def evaluate_in_subprocess(run: ComparisonRun) -> int:
    """Evaluate a run without mask voting; see `run_to_the_end`. Return the exit code."""
    require_writable(run.unvoted)
    command = [sys.executable, str(_REPO / "train_net.py"), *run.unvoted_options()]
    return run_to_the_end(command, run.unvoted / "console.txt")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="A run that is done is skipped, an interrupted one goes on, one whose config has "
        "changed since starts again. Runs are started one at a time.",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="trainings of each model (default: 3)"
    )
    parser.add_argument(
        "--output", default="output/compare", metavar="DIR", help="of the runs and the page"
    )
    parser.add_argument(
        "--results", default="results/fcis_comparison.json", metavar="FILE", help="json to write"
    )
    parser.add_argument(
        "--picture", default="docs/images/fcis_comparison.png", metavar="FILE", help="for a README"
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="that measure (default: 1)"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--list", action="store_true", help="say what is done and what is left")
    group.add_argument(
        "--only-report", action="store_true", help="make all files from the runs that are there"
    )
    args = parser.parse_args(argv)
    if args.processes < 1:
        raise UserError(f"--processes: expected 1 or more, got {args.processes}")
    return args


def run_comparison(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    runs = plan(args.output, args.seeds)
    progress = Progress(runs)
    if args.list:
        print(progress.table())
        return
    compare_configs()  # refuses an unfair comparison before anything is trained
    if not args.only_report:
        print(progress.summary())

        def evaluate() -> None:
            evaluate_unvoted(runs, evaluate_in_subprocess)

        evaluate()
        train_all(progress, train_in_subprocess, evaluate)
    require_complete(runs)
    report(args, runs)


def report(args: argparse.Namespace, runs: Sequence[ComparisonRun]) -> None:
    """Measure the runs; write results, page and picture; print the answers."""
    measured = measure_runs(runs, args.processes)
    results = collect(runs, measured)
    drawn, problems = draw_gallery(
        measured.truth,
        measured.images,
        measured.detections,
        rank_images(measured.records[0][0], measured.records[1][0]),
        _GALLERY,
    )
    write_comparison_results(args.results, results)
    first = f"The pictures are of seed {runs[0].seed}."
    several = "Matched objects and pairs are counted over all trainings."
    notes = [*([first, several] if args.seeds > 1 else []), *problems]
    comparison = make_comparison(results, result_files(runs), notes)
    pages = write_comparison_page(args.output, results, comparison, drawn)
    written = [Path(args.results), *pages]
    if drawn:
        with atomic_open(args.picture) as file:
            file.write((Path(args.output) / "comparison.png").read_bytes())
        written.append(Path(args.picture))
    print_comparison(comparison)
    for sentence in sentences(results):
        print(sentence)
    for path in written:
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run_comparison(parse_args(argv)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # A training must not go on alone when this process is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
