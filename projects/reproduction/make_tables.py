"""Write configs/README.md and the generated tables of README.md and docs/, or check them.

python projects/reproduction/make_tables.py [--check]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reproduction.markdown import COMMAND
from reproduction.pages.write import stale_pages, write_pages

from mask_rcnn_ext.engine.launch import run_as_command

_REPO = Path(__file__).resolve().parents[2]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog="They come from mask_rcnn_ext/paper, mask_rcnn_ext/config_keys.py and results/.",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="write nothing; exit with 1 when one is stale",
    )
    parser.add_argument(
        "--root", type=Path, default=_REPO, metavar="DIR", help="checkout (this one)"
    )
    return parser.parse_args(argv)


def make_tables(args: argparse.Namespace) -> int:
    """Do what the command line asks for; return the exit code."""
    if not args.check:
        for name in write_pages(args.root):
            print(f"written: {name}")
        return 0
    stale = stale_pages(args.root)
    for name in stale:
        print(f"stale: {name}; run: {COMMAND}", file=sys.stderr)
    return 1 if stale else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: make_tables(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
