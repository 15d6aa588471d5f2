"""Measure how often the axis excess finds lines that exist, and lines that do not.

python projects/reproduction/measure_axis_rates.py
"""

import argparse
import sys
from collections.abc import Sequence

from reproduction.fcis.axis_rates import (
    ROI_SIZES,
    SIZES,
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
    parser.add_argument("--results", default="results/axis_rates.json", metavar="FILE")
    parser.add_argument("--masks", type=int, default=200, metavar="N", help="masks of each kind")
    parser.add_argument("--sets", type=int, default=200, metavar="N", help="sets of 30 masks each")
    args = parser.parse_args(argv)

    def measure() -> None:
        rows = []
        drawn: list[tuple[int | None, Kinds]] = [(size, make_binary_kinds(size)) for size in SIZES]
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
