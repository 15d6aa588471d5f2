"""The options and the last steps that the scripts which train and compare runs share."""

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mask_rcnn_ext.files import atomic_open

__all__ = ["make_parser", "prepare_process", "print_files"]


def make_parser(
    doc: str | None, *, folder: str, name: str, seeds: int, picture: str | None = "--picture"
) -> argparse.ArgumentParser:
    """Return a parser with the options of all scripts.

    Args:
        doc: the docstring of the script, whose first line describes it.
        folder: the folder in `output/`.
        name: the name of the files in `results/` and `docs/images/`.
        seeds: the default number of seeds.
        picture: the option of the picture; None if there is none.
    """
    parser = argparse.ArgumentParser(
        description=(doc or "").splitlines()[0],
        epilog="Finished runs are skipped. An interrupted run continues. A run starts again if its "
        "config or inputs have changed. Runs are started one at a time.",
    )
    number = f"trainings of each variant (default: {seeds})"
    parser.add_argument("--seeds", type=int, default=seeds, metavar="N", help=number)
    for option, metavar, default, text in (
        ("--output", "DIR", f"output/{folder}", "folder of the runs and the page"),
        ("--results", "FILE", f"results/{name}.json", "json to write"),
        (picture, "FILE", f"docs/images/{name}.png", "picture to write, for the documentation"),
    ):
        if option is not None:
            shown = f"{text} (default: {default})"
            parser.add_argument(option, default=default, metavar=metavar, help=shown)
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--list", action="store_true", help="print which runs are done, and which are left"
    )
    group.add_argument("--only-report", action="store_true", help="train nothing, write the files")
    return parser


def print_files(args: argparse.Namespace, pages: Sequence[Path]) -> None:
    """Copy the picture among `pages` to `--picture`, then print the paths of all files."""
    written = [Path(args.results), *pages]
    for path in pages:
        if path.suffix == ".png":
            with atomic_open(args.picture) as file:
                file.write(path.read_bytes())
            written.append(Path(args.picture))
    print(*written, sep="\n")


def prepare_process() -> None:
    """Show the log, and make SIGTERM end the training that this process has started."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
