"""Measure how often the axis excess finds lines that exist, and lines that do not.

python projects/reproduction/measure_axis_rates.py
"""

import argparse
import sys
from collections.abc import Sequence

from reproduction.fcis.axis_rates import (
    MASK_SIZES,
    ROI_SIZES,
    Kinds,
    make_binary_kinds,
    make_file_kinds,
    make_soft_kinds,
    measure_rates,
)

from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.files import write_json


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    results = "results/axis_rates.json"
    help_results = f"json to write (default: {results})"
    parser.add_argument("--results", default=results, metavar="FILE", help=help_results)
    for option, text in (("--masks", "masks of each kind"), ("--sets", "sets of 30 masks each")):
        help_text = f"{text} (default: 200)"
        parser.add_argument(option, type=int, default=200, metavar="N", help=help_text)
    args = parser.parse_args(argv)

    def measure() -> None:
        rows = []
        drawn: list[tuple[int | None, Kinds]] = [
            (size, make_binary_kinds(size)) for size in MASK_SIZES
        ]
        drawn.append((None, make_soft_kinds()))
        for size in ROI_SIZES:
            for with_rois in (False, True):
                drawn.append((size, make_file_kinds(size, with_rois=with_rois)))
        for size, kinds in drawn:
            for rate in measure_rates(kinds, masks=args.masks, sets=args.sets):
                rows.append({"size": size, **rate})
                print(
                    f"{size or '':>4} {rate['kind']:36} excess {rate['excess']:.2f}, "
                    f"found {rate['found']:.0f} %",
                    flush=True,
                )
        write_json(args.results, {"masks": args.masks, "sets": args.sets, "seed": 0, "rates": rows})
        print(args.results)

    return run_as_command(measure)


if __name__ == "__main__":
    sys.exit(main())
