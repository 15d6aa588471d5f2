"""The command line of `tools/benchmark.py`, without slow imports."""

import argparse
from collections.abc import Callable

__all__ = ["build_parser"]


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser; the name of the subcommand becomes `args.benchmark`."""
    parser = argparse.ArgumentParser(description=description)
    found = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    for name, (help_text, add_options) in BENCHMARKS.items():
        one = found.add_parser(name, help=help_text, description=help_text)
        add_options(one)
        one.add_argument("--rounds", type=int, default=5, help="timed rounds (default: 5)")
        one.add_argument("--seed", type=int, default=0, help="seed of the inputs (default: 0)")
        one.add_argument("--output", metavar="FILE", help="json file that gets this part")
    return parser


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Add the options of `layers`."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")


def add_paste(_: argparse.ArgumentParser) -> None:
    """Add the options of `paste`: there are none of its own."""


BENCHMARKS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "layers": ("position-sensitive RoI layers of FCIS, against torchvision's", add_layers),
    "paste": ("masks into their image and to RLE, against detectron2 and pycocotools", add_paste),
}
