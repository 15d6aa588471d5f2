"""Train and evaluate small counterparts of the paper's ablations on the embedded data set.

python projects/reproduction/run_ablations.py --rows 2b,2c --seeds 3
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.ablations.page import write_ablation_report
from reproduction.ablations.results import (
    AblationResults,
    read_ablation_results,
    write_ablation_results,
)
from reproduction.ablations.runs import plan
from reproduction.ablations.tables import TABLES
from reproduction.command_line import make_parser, prepare_process
from reproduction.training_runs import TrainingProgress, train_all

from mask_rcnn_ext import UserError
from mask_rcnn_ext.engine.launch import run_as_command


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = make_parser(__doc__, folder="ablations", name="ablations", seeds=3, picture="--chart")
    tables = "; ".join(f"{key}: {title}" for key, title in TABLES.items())
    parser.add_argument(
        "--rows",
        default="",
        metavar="A,B",
        help="only these tables, all with --seeds seeds; without this option, tables other than 2b "
        f"and 2c have one seed ({tables})",
    )
    return parser.parse_args(argv)


def run_ablations(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    tables = [name.strip() for name in args.rows.split(",") if name.strip()]
    runs = plan(args.output, tables, args.seeds)
    progress = TrainingProgress(runs)
    if args.list:
        print(progress.table())
        return
    content = read_ablation_results(args.results)
    if args.only_report:
        if content is None:
            raise UserError(f"no results yet: there is no {args.results}. Leave out --only-report")
    else:
        print(progress.summary())
        train_all(runs, progress, lambda: _write(args))
        content = _write(args)
    page = Path(args.output) / "ablations.html"
    print(*write_ablation_report(content, page, args.chart), sep="\n")


def _write(args: argparse.Namespace) -> AblationResults:
    return write_ablation_results(args.results, args.output)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run_ablations(parse_args(argv)))


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
