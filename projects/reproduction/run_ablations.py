"""Train and evaluate small counterparts of the paper's ablations on the embedded data set.

python projects/reproduction/run_ablations.py --rows 2b,2c --seeds 3
"""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.ablations.page import write_ablation_report
from reproduction.ablations.results import AblationResults, read_results, write_ablation_results
from reproduction.ablations.runs import AblationRun, Progress, plan, train_all
from reproduction.ablations.tables import TABLES
from reproduction.training_runs import run_to_the_end, training_options

from mask_rcnn_ext import UserError
from mask_rcnn_ext.engine.launch import run_as_command

_REPO = Path(__file__).resolve().parents[2]


def train_in_subprocess(run: AblationRun, resume: bool) -> int:
    """Run train_net.py for one variant and seed; its output goes to the run's console.txt.

    When this process is interrupted, so is the training, and it has ended when this returns.

    Returns:
        The exit code.
    """
    command = [sys.executable, str(_REPO / "train_net.py"), *training_options(run, resume)]
    return run_to_the_end(command, run.folder / "console.txt")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="A run that is done is skipped, an interrupted one goes on, one whose config has "
        "changed since starts again. Runs are started one at a time, about three minutes each on "
        "two CPU cores.",
    )
    tables = "; ".join(f"{key}: {title}" for key, title in TABLES.items())
    parser.add_argument(
        "--rows",
        default="",
        metavar="A,B",
        help=f"only these tables, all with --seeds seeds ({tables})",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        metavar="N",
        help="seeds of each variant (default: 3; without --rows, tables other than 2b and 2c have "
        "one)",
    )
    parser.add_argument("--output", default="output/ablations", metavar="DIR", help="of the runs")
    parser.add_argument("--results", default="results/ablations.json", metavar="FILE")
    parser.add_argument("--chart", default="docs/images/ablations.png", metavar="FILE")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--list", action="store_true", help="say what is done and what is left")
    group.add_argument(
        "--only-report", action="store_true", help="make page and chart from --results, no runs"
    )
    return parser.parse_args(argv)


def run_ablations(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    tables = [name.strip() for name in args.rows.split(",") if name.strip()]
    runs = plan(args.output, tables, args.seeds)
    progress = Progress(runs)
    if args.list:
        print(progress.table())
        return
    page = Path(args.output) / "ablations.html"
    content = read_results(args.results)
    if args.only_report:
        if content is None:
            raise UserError(f"no results yet: {args.results} is not there. Leave out --only-report")
    else:
        print(progress.summary())
        train_all(progress, train_in_subprocess, lambda: _write(args))
        content = _write(args)
    for path in write_ablation_report(content, page, args.chart):
        print(path)


def _write(args: argparse.Namespace) -> AblationResults:
    return write_ablation_results(args.results, args.output)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run_ablations(parse_args(argv)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # A training must not go on alone when this process is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
