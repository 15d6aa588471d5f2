"""Train small models of R-CNN, Fast, Faster and Mask R-CNN on the same data, and compare them.

python projects/reproduction/run_lineage.py --output output/lineage
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import mask_rcnn_ext  # noqa: F401 - first: it keeps PyTorch from warning about detectron2's import

# isort: split
from detectron2.data import DatasetCatalog
from reproduction.command_line import make_parser, prepare_process, print_files
from reproduction.lineage.inference import find_best_proposals, load_model, measure_seconds
from reproduction.lineage.page import write_lineage
from reproduction.lineage.pictures import draw_pictures
from reproduction.lineage.results import collect, require_proposals
from reproduction.lineage.runs import LineageRun, compare_configs, methods, proposal_sets
from reproduction.lineage.tables import HEADER, describe_results, make_method_rows
from reproduction.report import Report
from reproduction.training_runs import (
    REPO,
    TrainingProgress,
    plan_runs,
    require_complete,
    train_all,
)

from mask_rcnn_ext import UserError
from mask_rcnn_ext.child_processes import run_command
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.errors import require_range
from mask_rcnn_ext.files import require_writable, write_json
from mask_rcnn_ext.report.json_records import to_json
from mask_rcnn_ext.report.run_data import read_predictions, read_run, spread_evenly

logger = logging.getLogger(__name__)

_IMAGES = 4  # images on the page
_PROPOSALS = 50  # proposals of each method to draw on an image


def propose_in_subprocess(folder: Path, names: Sequence[str]) -> int:
    """Compute the proposals that `folder` does not have yet; return the exit code.

    Proposals with other settings, or from another release of OpenCV, are replaced.
    """
    require_writable(folder)
    command = [sys.executable, str(REPO / "tools/compute_proposals.py"), "selective-search"]
    command += ["--mode", "quality", "--overwrite", "--dataset", *names, "--output", str(folder)]
    command += ["--processes", str(min(len(os.sched_getaffinity(0)), 8))]
    return run_command(command, folder / "console.txt")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, folder="lineage", name="lineage", seeds=1)
    help_text = "number of images to time (default: 20)"
    parser.add_argument("--timed-images", type=int, default=20, metavar="N", help=help_text)
    args = parser.parse_args(argv)
    require_range("--timed-images", args.timed_images, 1)
    return args


def run_lineage(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    variants = [method.variant for method in methods()]
    runs = plan_runs(LineageRun, args.output, variants, args.seeds)
    # This refuses a folder with other files before anything is computed.
    progress = TrainingProgress(runs)
    if args.list:
        print(progress.table())
        return
    compare_configs()  # refuses an unfair comparison before anything is computed
    if not args.only_report:
        propose(Path(args.output) / "proposals", proposal_sets(runs))
        progress = TrainingProgress(runs)  # with the new proposals
        print(progress.summary())
        train_all(runs, progress)
    require_complete(runs)
    files = [Path(args.output) / "lineage.html", Path(args.results)]
    page = Report(__file__, files, runs, lambda: report(args, runs), timed_images=args.timed_images)
    page.update(always=args.only_report)


def propose(folder: Path, names: Sequence[str]) -> None:
    """Compute the proposals that are not there yet.

    Raises:
        UserError: the computation failed.
    """
    if not names:
        return
    logger.info("proposals for %s ...", ", ".join(names))
    if code := propose_in_subprocess(folder, names):
        raise UserError(
            f"computing the proposals failed (exit code {code}). The file console.txt in {folder} "
            "says why; run the same command again when that is fixed"
        )


def report(args: argparse.Namespace, runs: Sequence[LineageRun]) -> None:
    """Measure the runs; write results, page and picture; print the numbers."""
    proposals = require_proposals(runs)
    first = [run for run in runs if run.seed == runs[0].seed]
    logger.info("timing %d methods ...", len(first))
    models = [load_model(run) for run in first]
    results = collect(runs, measure_seconds(models, args.timed_images), proposals)
    test = results.dataset
    indices = spread_evenly(len(DatasetCatalog.get(test)), _IMAGES)
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
    write_json(args.results, to_json(results))
    seed = f"The pictures and the times are from seed {first[0].seed}."
    several = [seed] if args.seeds > 1 else []
    pages = write_lineage(args.output, results, images, several + problems)
    for row in make_method_rows(results):
        print("; ".join(f"{title} {cell}" for title, cell in zip(HEADER, row, strict=True)))
    for sentence in describe_results(results):
        print(sentence)
    print_files(args, pages)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run_lineage(parse_args(argv)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
