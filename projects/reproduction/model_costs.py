"""Count parameters and FLOPs of every model of the paper; write results/model_costs.json.

python projects/reproduction/model_costs.py
python projects/reproduction/model_costs.py mask_rcnn_R50_FPN fcis_R101_C5_dilated
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import mask_rcnn_ext  # noqa: F401 - first: it keeps PyTorch from warning about detectron2's import

# isort: split
from reproduction.costs.count import measure_models
from reproduction.costs.page import COSTS, costs_table
from reproduction.pages.write import write_pages

from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.paper import CONFIGS
from mask_rcnn_ext.report.json_records import to_json

_REPO = Path(__file__).resolve().parents[2]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="Takes about two minutes on a CPU, and neither weights nor data.",
    )
    parser.add_argument(
        "configs",
        nargs="*",
        metavar="CONFIG",
        help="names, ours or of detectron2's zoo: print their figures, write nothing",
    )
    parser.add_argument(
        "--root", type=Path, default=_REPO, metavar="DIR", help="checkout to write to (this one)"
    )
    return parser.parse_args(argv)


def count(args: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    results = measure_models(args.configs or CONFIGS)
    if args.configs:
        print(costs_table(results), end="")
        return
    write_json(args.root / COSTS, to_json(results))
    print(args.root / COSTS)
    for path in write_pages(args.root):
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: count(parse_args(argv)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
