"""Train R-CNN, Fast, Faster and Mask R-CNN, small, on the same data, and set them side by side.

python projects/reproduction/run_lineage.py --output output/lineage
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog
from reproduction.lineage.inference import find_best_proposals, load_model, measure_seconds
from reproduction.lineage.page import write_lineage
from reproduction.lineage.pictures import draw_pictures
from reproduction.lineage.results import collect, require_proposals, write_lineage_results
from reproduction.lineage.runs import (
    LineageRun,
    compare_configs,
    plan,
    proposal_sets,
    require_complete,
)
from reproduction.lineage.tables import HEADER, method_rows, sentences
from reproduction.training_runs import Progress, run_to_the_end, train_all

from mask_rcnn_ext import UserError
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import atomic_open, require_writable
from mask_rcnn_ext.report.run_data import evenly_spread, read_predictions, read_run

logger = logging.getLogger(__name__)

_REPO = Path(__file__).resolve().parents[2]
_IMAGES = 4  # images on the page
_PROPOSALS = 50  # of each method that are drawn on an image


def train_in_subprocess(run: LineageRun, resume: bool) -> int:
    """Make a run; see `run_to_the_end`. Return the exit code."""
    script, *options = run.command(resume)
    command = [sys.executable, str(_REPO / script), *options]
    return run_to_the_end(command, run.folder / "console.txt")


def propose_in_subprocess(folder: Path, names: Sequence[str]) -> int:
    """Compute the proposals for data sets that `folder` has none of; return the exit code.

    Those of other settings, or of another release of OpenCV, are replaced.
    """
    require_writable(folder)
    command = [sys.executable, str(_REPO / "tools/compute_proposals.py"), "selective-search"]
    command += ["--mode", "quality", "--overwrite", "--dataset", *names, "--output", str(folder)]
    command += ["--processes", str(min(len(os.sched_getaffinity(0)), 8))]
    return run_to_the_end(command, folder / "console.txt")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="A run that is done is skipped, an interrupted one goes on, one whose config or "
        "proposals have changed since starts again. Runs are started one at a time.",
    )
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="trainings of each method (default: 1)"
    )
    parser.add_argument(
        "--output", default="output/lineage", metavar="DIR", help="of the runs and the page"
    )
    parser.add_argument(
        "--results", default="results/lineage.json", metavar="FILE", help="json to write"
    )
    parser.add_argument(
        "--picture", default="docs/images/lineage.png", metavar="FILE", help="for a README"
    )
    parser.add_argument(
        "--timed-images", type=int, default=20, metavar="N", help="that are timed (default: 20)"
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--list", action="store_true", help="say what is done and what is left")
    group.add_argument(
        "--only-report", action="store_true", help="make all files from the runs that are there"
    )
    args = parser.parse_args(argv)
    if args.timed_images < 1:
        raise UserError(f"--timed-images: expected 1 or more, got {args.timed_images}")
    return args


def run_lineage(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    runs = plan(args.output, args.seeds)
    if args.list:
        print(Progress(runs).table())
        return
    compare_configs()  # refuses an unfair comparison before anything is computed
    if not args.only_report:
        Progress(runs)  # tells of a folder that holds something else, before anything is computed
        propose(Path(args.output) / "proposals", proposal_sets(runs))
        progress = Progress(runs)  # of the proposals as they are now
        print(progress.summary())
        train_all(progress, train_in_subprocess, lambda: None)
    require_complete(runs)
    report(args, runs)


def propose(folder: Path, names: Sequence[str]) -> None:
    """Compute the proposals that are not there yet.

    Raises:
        UserError: that failed.
    """
    if not names:
        return
    logger.info("proposals for %s ...", ", ".join(names))
    if code := propose_in_subprocess(folder, names):
        raise UserError(
            f"computing the proposals failed (exit code {code}). The file console.txt in {folder} "
            "says why; run the same command again when that is mended"
        )


def report(args: argparse.Namespace, runs: Sequence[LineageRun]) -> None:
    """Measure the runs; write results, page and picture; print the numbers."""
    proposals = require_proposals(runs)
    first = [run for run in runs if run.seed == runs[0].seed]
    logger.info("timing %d methods ...", len(first))
    models = [load_model(run) for run in first]
    results = collect(runs, measure_seconds(models, args.timed_images), proposals)
    test = results.dataset
    indices = evenly_spread(len(DatasetCatalog.get(test)), _IMAGES)
    drawn = {
        loaded.variant: {
            os.path.basename(loaded.inputs[index]["file_name"]): find_best_proposals(
                loaded, index, _PROPOSALS
            )
            for index in indices
        }
        for loaded in models
    }
    found = {run.variant: read_predictions(read_run(run.folder), test) or {} for run in first}
    images, problems = draw_pictures(test, found, drawn, _IMAGES)
    write_lineage_results(args.results, results)
    several = [f"The pictures and the times are of seed {first[0].seed}."] if args.seeds > 1 else []
    written = [Path(args.results), *write_lineage(args.output, results, images, several + problems)]
    if images:
        with atomic_open(args.picture) as file:
            file.write((Path(args.output) / "lineage.png").read_bytes())
        written.append(Path(args.picture))
    for row in method_rows(results):
        print("; ".join(f"{title} {cell}" for title, cell in zip(HEADER, row, strict=True)))
    for sentence in sentences(results):
        print(sentence)
    for path in written:
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run_lineage(parse_args(argv)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # A training must not go on alone when this process is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
