"""Make report.html, analysis.json and predictions.png of a run, in its folder.

python tools/make_report.py output/demo
"""

import argparse
import logging
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from command_line.early import check_report, stop_at_mistakes


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", metavar="RUN_DIR", help="OUTPUT_DIR of a training")
    parser.add_argument("--num-images", type=int, default=12, help="images to draw (default: 12)")
    parser.add_argument(
        "--score-threshold",
        type=float,
        help="predictions with a lower score are not drawn; they count neither in the "
        "confusion matrix nor for the worst images (default: the score with the best F1)",
    )
    return parser


if __name__ == "__main__":
    # --help and simple mistakes end here, before the imports below, which take seconds.
    stop_at_mistakes(build_parser().parse_args(), check_report)

from detectron2.config import CfgNode

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.catalog import require_datasets
from mask_rcnn_ext.data.pixel_limit import set_pixel_limit
from mask_rcnn_ext.engine.data_of_run import register_data_of
from mask_rcnn_ext.engine.interruption import raise_signals
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.errors import require_range
from mask_rcnn_ext.files import read_json
from mask_rcnn_ext.report.run_data import read_run
from mask_rcnn_ext.report.run_page import write_report


def find_data(cfg: CfgNode, clean_dir: str) -> tuple[list[str], list[str], list[str], list[str]]:
    """Return the run's training and test sets that can be read, and a sentence on each other one.

    The last list has the warnings of the check of a user's own data.

    Args:
        cfg: the config of the run. A user's own data, which it names by files, is registered again.
        clean_dir: folder for cleaned copies of own data; needed until the report is written.
    """
    notes: list[str] = []
    warnings: list[str] = []
    data = cfg.MASK_RCNN_EXT.DATA
    set_pixel_limit(data.MAX_IMAGE_PIXELS)
    if data.TRAIN_JSON or data.VAL_JSON:
        try:
            own = register_data_of(cfg, clean_dir, same_classes=True)
        except UserError as error:
            return [], [], [f"The run's data cannot be read any more: {error}."], []
        warnings = list(own.warnings)
        train, test = [own.train_name], [own.val_name]
        if not own.val_name:
            notes.append("No validation data was given.")
    else:
        train, test = list(cfg.DATASETS.TRAIN), list(cfg.DATASETS.TEST)
        if not test:
            notes.append("The config names no test set (DATASETS.TEST is empty).")
    usable: list[list[str]] = []
    for names in (train, test):
        usable.append([])
        for name in filter(None, names):
            try:
                require_datasets([name])
            except UserError as error:
                notes.append(f"Data set {name} left out: {str(error).splitlines()[0]}")
            else:
                usable[-1].append(name)
    return usable[0], usable[1], list(dict.fromkeys(notes)), warnings


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    args = build_parser().parse_args(argv)
    require_range("--num-images", args.num_images, 1)
    if args.score_threshold is not None:
        require_range("--score-threshold", args.score_threshold, 0, 1)
    return args


def make_report(args: argparse.Namespace) -> None:
    """Write the report that the command line asks for, and print its files."""
    run = read_run(args.run)
    with raise_signals(), tempfile.TemporaryDirectory() as clean_dir:
        train, test, notes, warnings = find_data(run.config, clean_dir)
        written = write_report(
            args.run,
            train_names=train,
            test_names=test,
            num_images=args.num_images,
            score_threshold=args.score_threshold,
            notes=notes,
            data_warnings=warnings,
        )
    print(*written, sep="\n")
    for path in written:
        if path.name == "analysis.json":
            print(describe_threshold(path))


def describe_threshold(path: Path) -> str:
    """Return the score threshold of an analysis, and how to predict with it."""
    best = read_json(path)["best"]
    if best["threshold"] is None:
        return "No score threshold is best: no detection is right."
    shares = ", ".join(f"{name} {best[name]:.2f}" for name in ("f1", "precision", "recall"))
    return (
        f"Best score threshold: {best['threshold']:.3g} ({shares}). To predict with it: "
        f"--score-threshold {shlex.quote(str(path))}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: make_report(parse_args(argv)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    sys.exit(main())
