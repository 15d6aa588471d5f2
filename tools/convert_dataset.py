"""Convert a data set between COCO json and the formats of labelling tools, and split it.

    python tools/convert_dataset.py export --to coco all.json
    python tools/convert_dataset.py export.json --images photos --split 0.8 data
    python tools/convert_dataset.py all.json --images photos --to yolo yolo_data

Without --from, the format of INPUT is guessed where only one is possible. docs/own_data.md lists
the formats and their limits.
"""

import argparse
import logging
import shlex
import sys
from collections import Counter
from collections.abc import Sequence

from command_line.data import add_pixel_limit
from command_line.early import check_conversion, stop_at_mistakes

_FORMATS = (
    "coco",
    "yolo",
    "labelme",
    "voc",
    "cvat",
    "label-studio",
    "id-images",
    "cityscapes",
    "dsb",
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0],
        epilog=f"Formats: {', '.join(_FORMATS)}. The last two are only read.",
    )
    parser.add_argument("input", metavar="INPUT", help="the file or folder to read")
    parser.add_argument("output", metavar="OUTPUT", help="the json or folder to write")
    parser.add_argument(
        "--from", dest="source", metavar="FORMAT", help="format of INPUT (default: guessed)"
    )
    parser.add_argument(
        "--to",
        dest="target",
        default="coco",
        metavar="FORMAT",
        help="format of OUTPUT (default: coco)",
    )
    parser.add_argument(
        "--images", metavar="DIR", help="folder of the images (default: the format's own)"
    )
    parser.add_argument(
        "--split", type=float, metavar="F", help="fraction of the images to train on, such as 0.8"
    )
    parser.add_argument(
        "--group-by",
        default="",
        metavar="RULE",
        help="images that stay together: a key of the image entries, or a regular expression",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")
    add_pixel_limit(parser)
    return parser


if __name__ == "__main__":
    # --help and simple mistakes end here, before the imports below, which take seconds.
    stop_at_mistakes(build_parser().parse_args(), lambda args: check_conversion(args, _FORMATS))

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.coco_json import list_classes
from mask_rcnn_ext.data.findings import IssueCounter
from mask_rcnn_ext.data.formats import Dataset, guess_format, read_dataset, write_dataset
from mask_rcnn_ext.data.pixel_limit import set_pixel_limit
from mask_rcnn_ext.data.split import require_split, split_coco
from mask_rcnn_ext.engine.interruption import raise_signals
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.errors import count_noun, refuse_no_folder


def convert(args: argparse.Namespace) -> None:
    """Read, split and write the data set of a command line; print its counts and the files."""
    if args.output == "":
        refuse_no_folder("OUTPUT", "a file or a folder")
    if args.images == "":
        refuse_no_folder("--images")
    require_split(args.split, args.group_by)
    set_pixel_limit(args.max_image_pixels)
    source = args.source or guess_format(args.input)
    if not args.source:
        print(f"{args.input}: read as {source}")
    notes = IssueCounter()
    dataset = read_dataset(args.input, source, args.images, notes)
    if args.split is not None:
        if list(dataset.splits) != [""]:
            raise UserError(
                f"--split: {args.input} has splits already: {', '.join(dataset.splits)}"
            )
        train, val = split_coco(
            dataset.splits[""], args.split, group_by=args.group_by, seed=args.seed
        )
        dataset = Dataset({"train": train, "val": val}, dataset.image_root)
    with raise_signals():
        written = write_dataset(dataset, args.target, args.output, notes)
    _print_counts(dataset)
    for kind, found in notes.issues.items():
        print(f"  {len(found)} x {kind} (first: {found[0]})")
    for path in written:
        print(f"written: {path}")
    if args.target == "coco":
        splits = {key or "train": str(p) for key, p in zip(dataset.splits, written, strict=True)}
        words = ["mask-rcnn-ext", "train"]
        for split in ("train", "val"):
            if split in splits:
                words += [f"--{split}-json", splits[split]]
                words += [f"--{split}-images", dataset.image_root]
        if "train" in splits:
            print(shlex.join(words))


def _print_counts(dataset: Dataset) -> None:
    for split, content in dataset.splits.items():
        crowds = sum(a["iscrowd"] for a in content["annotations"])
        also = f" and {count_noun(crowds, 'crowd region')}" if crowds else ""
        title = f"{split}: " if split else ""
        images = count_noun(len(content["images"]), "image")
        objects = count_noun(len(content["annotations"]) - crowds, "object")
        print(f"{title}{images}, {objects}{also}")
        counts = Counter(a["category_id"] for a in content["annotations"] if not a["iscrowd"])
        for category, name in list_classes(content).items():
            print(f"  {name}: {counts[category]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: convert(build_parser().parse_args(argv)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    sys.exit(main())
