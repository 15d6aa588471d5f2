"""Check a data set more closely than training does, and write a page of its findings.

    python tools/check_dataset.py --train-json F --train-images D --val-json F --val-images D
    python tools/check_dataset.py --dataset occluded_shapes_train occluded_shapes_val

Exit code: 0 if training accepts the data, 1 if it does not, 2 if the command is wrong.
"""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command_line.data import add_pixel_limit
from command_line.early import stop_at_mistakes
from command_line.light import import_light


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    import_light("engine.arguments").add_own_data(parser)
    parser.add_argument(
        "--split",
        type=float,
        metavar="F",
        help="without --val-json: check the two parts into which a training with this --split "
        "divides the images; with --output, they stay in DIR",
    )
    parser.add_argument(
        "--group-by",
        default="",
        metavar="RULE",
        help="images that stay together in the split, as in a training",
    )
    parser.add_argument(
        "--dataset",
        nargs="+",
        default=[],
        metavar="NAME",
        help="in place of the files: one or two data sets in detectron2's catalog, training first",
    )
    parser.add_argument(
        "--boxes",
        action="store_true",
        help="objects need no masks, as for a model with MODEL.MASK_ON False",
    )
    parser.add_argument(
        "--channels",
        type=int,
        default=0,
        metavar="N",
        help="images have N channels or more than 8 bits, as for MASK_RCNN_EXT.DATA.IMAGE_CHANNELS",
    )
    add_pixel_limit(parser)
    parser.add_argument(
        "--output", metavar="DIR", help="folder for data_check.html and data_check.txt"
    )
    parser.add_argument(
        "--fix",
        nargs="+",
        default=[],
        metavar="OUT.json",
        help="write a corrected json (one name for train, one for val); the input stays as it is",
    )
    return parser


if __name__ == "__main__":
    # --help and simple mistakes end here, before the imports below, which take seconds.
    _args = build_parser().parse_args()
    stop_at_mistakes(_args, folder=_args.output)

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.catalog import find_truth, require_datasets
from mask_rcnn_ext.data.data_check import check_dataset
from mask_rcnn_ext.data.fixed_json import require_fixable_names, write_fixed_jsons
from mask_rcnn_ext.data.own_data import inspect_own_data, split_own_data
from mask_rcnn_ext.data.pixel_limit import set_pixel_limit
from mask_rcnn_ext.data.split import require_split
from mask_rcnn_ext.engine.interruption import raise_signals
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.errors import count_noun
from mask_rcnn_ext.files import atomic_open, writable_folder
from mask_rcnn_ext.report.check_page import describe_check, write_check_page


def find_pairs(args: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Return "train" and "val" -> (json, folder of the images), "" where there is none.

    Raises:
        UserError: data sets and files are both given; or a data set is unknown, not on disk, or has
            no COCO json.
    """
    files = [args.train_json, args.train_images, args.val_json, args.val_images]
    if not args.dataset:
        return {"train": (files[0], files[1]), "val": (files[2], files[3])}
    if any(files) or len(args.dataset) > 2:
        raise UserError("expected the options for files, or --dataset with one or two names")
    require_datasets(args.dataset)
    found = [find_truth(name) for name in args.dataset]
    return {"train": found[0], "val": found[1] if len(found) > 1 else ("", "")}


def split_pair(
    args: argparse.Namespace, pairs: dict[str, tuple[str, str]], kinds: dict[str, Any], folder: str
) -> dict[str, tuple[str, str]]:
    """Return the parts of the training data, written to `folder`, or `pairs` if it has faults.

    Raises:
        UserError: `--split` does not fit the other options, or the data cannot be split so.
    """
    if args.fix or args.dataset or pairs["val"] != ("", ""):
        raise UserError(
            "--split divides the images of --train-json: leave out --val-json, --val-images, "
            "--dataset and --fix"
        )
    if inspect_own_data(pairs, **kinds).faults:  # the check says which
        return pairs
    parts = split_own_data(*pairs["train"], args.split, folder, group_by=args.group_by, **kinds)
    return {split: (path, pairs["train"][1]) for split, path in zip(pairs, parts, strict=True)}


def run(args: argparse.Namespace) -> int:
    """Check the data set, write the files asked for, and return the exit code."""
    pairs = find_pairs(args)
    given = {split: pair[0] for split, pair in pairs.items() if pair[0]}
    outputs = dict(zip(given, args.fix, strict=False))
    if args.fix:
        if len(args.fix) != len(given):
            raise UserError(f"--fix: expected {len(given)} file names, got {len(args.fix)}")
        require_fixable_names(outputs, given)
    if args.channels < 0:
        raise UserError(f"--channels: expected a number of channels, got {args.channels}")
    require_split(args.split, args.group_by)
    set_pixel_limit(args.max_image_pixels)
    with raise_signals(), contextlib.ExitStack() as stack:
        if args.output:
            stack.enter_context(writable_folder(args.output))
        temporary = "" if args.output else stack.enter_context(tempfile.TemporaryDirectory())
        if args.split is not None:
            kinds = {"masks": not args.boxes, "channels": args.channels}
            pairs = split_pair(args, pairs, kinds, args.output or temporary)
        return check_pairs(args, pairs, outputs, temporary)


def check_pairs(
    args: argparse.Namespace,
    pairs: dict[str, tuple[str, str]],
    outputs: dict[str, str],
    temporary: str,
) -> int:
    """Print the findings, write the page and the corrected jsons, and return the exit code.

    Args:
        args: the command line.
        pairs: see `find_pairs`.
        outputs: "train" or "val" -> the corrected json to write.
        temporary: a folder that is not named in the text, since it is removed at the end.
    """
    kinds = {"masks": not args.boxes, "channels": args.channels}
    check = check_dataset(*pairs["train"], *pairs["val"], **kinds, progress=sys.stderr.isatty())
    text = describe_check(check)
    if temporary:
        text = text.replace(os.path.join(temporary, ""), "")
    print(text)
    if args.output:
        page = Path(args.output, "data_check.html")
        write_check_page(check, page)
        with atomic_open(page.with_suffix(".txt"), "w") as file:
            file.write(text + "\n")
        print(page)
    if args.fix:
        for split, changes in write_fixed_jsons(check, outputs).items():
            print(f"{outputs[split]}: {count_noun(changes.total, 'change')}")
            for kind, ids in changes.issues.items():
                print(f"  {len(ids):>7,} x {kind} (first: {ids[0]})")
        fixed = {split: (outputs[split], pairs[split][1]) for split in outputs}
        left = inspect_own_data(fixed, **kinds)
        for sentence in [*left.faults, *left.warnings]:
            print(f"left as it is: {sentence}")
        return int(bool(left.faults))
    return int(check.count("error") > 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: run(build_parser().parse_args(argv)))


if __name__ == "__main__":
    # What the checks warn of is in their findings.
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s: %(message)s")
    sys.exit(main())
