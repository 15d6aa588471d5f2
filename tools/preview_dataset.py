"""Draw a sheet of images of a data set with its masks, and count its classes.

    python tools/preview_dataset.py --dataset occluded_shapes_train
    python tools/preview_dataset.py --json annotations.json --images folder
    python tools/preview_dataset.py --augmented --config-file F --dataset NAME KEY VALUE ...

--dataset takes any data set in detectron2's catalog: ours or detectron2's. --augmented draws the
images as training with a config sees them: several draws of each, after the image itself.
"""

import argparse
import logging
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from command_line.data import add_pixel_limit
from command_line.early import stop_at_mistakes


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", metavar="NAME", help="a data set in detectron2's catalog")
    parser.add_argument("--json", metavar="F", help="COCO-format annotations, with --images")
    parser.add_argument("--images", metavar="D", help="folder of the images of --json")
    parser.add_argument(
        "--boxes",
        action="store_true",
        help="also show objects of --json without masks, as a model without masks takes them",
    )
    parser.add_argument(
        "--channels",
        type=int,
        default=0,
        metavar="N",
        help="images of --json have N channels or more than 8 bits; the first three are shown",
    )
    add_pixel_limit(parser)
    parser.add_argument("--output", metavar="PNG", help="default: preview_NAME.png")
    parser.add_argument("--num", type=int, help="images to draw (default: 24; with --augmented, 4)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the choice of images (default: 0)"
    )
    parser.add_argument("--columns", type=int, default=6, help="images in a row (default: 6)")
    parser.add_argument(
        "--size", type=int, default=240, help="longer side of an image, pixels (default: 240)"
    )
    training = parser.add_argument_group("as the model sees them in training")
    training.add_argument(
        "--augmented",
        action="store_true",
        help="draw each image, followed by augmented versions of it",
    )
    training.add_argument(
        "--config-file",
        metavar="FILE",
        help="the config of the training, or the name of one of ours; without it, detectron2's "
        "defaults with masks",
    )
    training.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys, as for a training; they come last",
    )
    return parser


if __name__ == "__main__":
    # --help and simple mistakes end here, before the imports below, which take seconds.
    stop_at_mistakes(build_parser().parse_args())

# The package comes before detectron2: it keeps PyTorch from warning about detectron2's import.
from mask_rcnn_ext import UserError
from mask_rcnn_ext.config import load_config
from mask_rcnn_ext.config_files import find_config_file
from mask_rcnn_ext.data.bands import read_picture
from mask_rcnn_ext.data.catalog import require_datasets
from mask_rcnn_ext.data.own_data import register_own_data
from mask_rcnn_ext.data.pixel_limit import set_pixel_limit
from mask_rcnn_ext.data.pixel_statistics import fill_pixel_statistics, require_channels
from mask_rcnn_ext.engine.interruption import raise_signals
from mask_rcnn_ext.engine.launch import run_as_command
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.errors import count_noun, require_range
from mask_rcnn_ext.report.drawing.pictures import draw_instances, save_png
from mask_rcnn_ext.report.drawing.sheets import make_tile_sheet, resize_picture
from mask_rcnn_ext.report.instances import (
    DatasetSummary,
    count_instances,
    decode_ground_truth,
)
from mask_rcnn_ext.report.samples import draw_sample

# isort: split
import numpy as np
import numpy.typing as npt
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

_MAX_SIDE = 1280  # pixels; larger images and their masks are shrunk before they are drawn
_MOST_PIXELS = 200_000_000  # of a sheet
LABELS_AT_MOST = 25  # objects in an image; names on more would hide it


def draw_record(
    record: dict[str, Any], class_names: Sequence[str], size: int
) -> npt.NDArray[np.uint8]:
    """Return the image of a record with its instances drawn, its longer side `size` pixels.

    Raises:
        UserError: the image cannot be read or does not fit its annotations.
    """
    image = read_picture(record)
    height, width = image.shape[:2]
    shrink = min(1.0, max(size, _MAX_SIDE) / max(height, width))
    image = resize_picture(image, *(max(1, round(side * shrink)) for side in (width, height)))
    shown = decode_ground_truth(record, height, width, shrink)
    few = len(shown.classes) <= LABELS_AT_MOST and len(class_names) > 1
    return draw_instances(
        image,
        shown.masks,
        shown.boxes if shown.masks is None else None,
        [class_names[i] if few else "" for i in shown.classes],
        size / max(image.shape[:2]),
    )


def require_size(tiles: int, size: int) -> None:
    """Check that the pixels of a sheet fit into memory.

    Raises:
        UserError: there are too many.
    """
    if tiles * size**2 > _MOST_PIXELS:
        raise UserError(
            f"the sheet would have {count_noun(tiles, 'picture')} of {size:,} x {size:,} pixels, "
            f"more than {_MOST_PIXELS:,} pixels in all: lower --size or --num"
        )


def make_sheet(name: str, args: argparse.Namespace) -> DatasetSummary:
    """Write the sheet of a registered data set to `args.output`; return its counts."""
    records = DatasetCatalog.get(name)
    if not records:
        raise UserError(f"data set {name!r} has no images")
    summary = count_instances(name)
    count = min(args.num or 24, len(records))
    require_size(count, args.size)
    indices = sorted(random.Random(args.seed).sample(range(len(records)), count))
    chosen = [records[index] for index in indices]
    tiles = [draw_record(record, summary.class_names, args.size) for record in chosen]
    titles = []
    for record in chosen:
        count = sum(not a.get("iscrowd", 0) for a in record.get("annotations", []))
        titles.append(f"{record['file_name'].rsplit('/', 1)[-1]} · {count}")
    classes = len(summary.class_names)
    heading = (
        f"{args.json or name}\n{len(chosen)} of {summary.images:,} images, drawn at random "
        f"(seed {args.seed}) · {count_noun(summary.instances, 'object')} of "
        f"{count_noun(classes, 'class')} in all"
    )
    save_png(args.output, make_tile_sheet(tiles, titles, min(args.columns, len(tiles)), heading))
    return summary


def make_augmented_sheet(name: str, cfg: CfgNode, args: argparse.Namespace) -> DatasetSummary:
    """Write the sheet of augmented images to `args.output`; return the counts of the data set.

    Each row has an image and its objects as they are, and then as `Trainer` gives it to the model.
    """
    cfg.DATASETS.TRAIN = (name,)
    summary = count_instances(name)
    fill_pixel_statistics(cfg, DatasetCatalog.get(name))
    data = Trainer.build_train_loader(cfg, args.seed).dataset
    count, draws = min(args.num or 4, len(data)), max(1, args.columns - 1)
    require_size(count * (draws + 1), args.size)
    indices = sorted(random.Random(args.seed).sample(range(len(data)), count))
    tiles, titles = [], []
    for row, index in enumerate(indices):
        record = data.dicts[index]
        tiles.append(draw_record(record, summary.class_names, args.size))
        titles.append(record["file_name"].rsplit("/", 1)[-1])
        for draw in range(draws):
            sample = data[row * draws + draw, index]
            tiles.append(draw_sample(sample, summary.class_names, args.size, cfg.INPUT.FORMAT))
            height, width = sample["instances"].image_size
            titles.append(f"{width} x {height} · {len(sample['instances'])}")
    heading = (
        f"{args.json or name}\nEach row: an image, and {count_noun(draws, 'draw')} of it as "
        f"training sees it: width x height in pixels, number of objects (seed {args.seed})"
    )
    save_png(args.output, make_tile_sheet(tiles, titles, draws + 1, heading))
    return summary


def print_counts(summary: DatasetSummary, output: str) -> None:
    """Print how many images and objects of each class the data set has."""
    print(output)
    crowds = f" and {count_noun(summary.crowds, 'crowd region')}" if summary.crowds else ""
    images, objects = count_noun(summary.images, "image"), count_noun(summary.instances, "object")
    print(f"{images}, {objects}{crowds}")
    width = max((len(name) for name in summary.class_names), default=0)
    for name, count in zip(summary.class_names, summary.per_class, strict=True):
        print(f"  {name:<{width}}  {count:>8,}")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    args = build_parser().parse_args(argv)
    if bool(args.dataset) == bool(args.json) or bool(args.json) != bool(args.images):
        raise UserError("expected either --dataset NAME, or --json F with --images D")
    if (args.config_file or args.opts) and not args.augmented:
        given = f"--config-file {args.config_file}" if args.config_file else " ".join(args.opts)
        raise UserError(f"{given}: only --augmented reads a config; add it")
    if args.output is not None and not args.output.lower().endswith(".png"):
        raise UserError(f"--output: expected a name that ends with .png, got {args.output}")
    for option, least in (("num", 1), ("columns", 1), ("size", 32)):
        value = getattr(args, option)
        if value is not None:
            require_range(f"--{option}", value, least)
    return args


def require_no_input(output: str, name: str, json_file: str | None) -> None:
    """Check that the sheet replaces neither the json nor an image of the data set.

    Raises:
        UserError: it would.
    """
    inputs = [record["file_name"] for record in DatasetCatalog.get(name)]
    inputs += [json_file or MetadataCatalog.get(name).get("json_file", "")]
    if os.path.realpath(output) in map(os.path.realpath, filter(None, inputs)):
        raise UserError(
            f"--output: {output} is a file of the data set, which the sheet would replace. Give "
            "another name"
        )


def preview(args: argparse.Namespace) -> None:
    """Write the sheet that the command line asks for, and print the counts of the data set."""
    args.output = args.output or f"preview_{args.dataset or 'own_data'}.png"
    given = [] if args.config_file else ["MODEL.MASK_ON", str(not args.boxes)]
    config_file = find_config_file(args.config_file) if args.config_file else None
    cfg = load_config(config_file, [*given, *args.opts])
    cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS = args.channels or cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS
    require_channels(cfg, measured=False)
    set_pixel_limit(args.max_image_pixels or cfg.MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS)
    with raise_signals(), tempfile.TemporaryDirectory() as clean_dir:
        name = args.dataset
        if args.json:
            masks = cfg.MODEL.MASK_ON if args.augmented else not args.boxes
            own = register_own_data(
                *(args.json, args.images, "", ""),
                clean_dir=clean_dir,
                masks=masks,
                channels=cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS,
            )
            name, cfg.INPUT.MASK_FORMAT = own.train_name, own.mask_format
        require_datasets([name])
        require_no_input(args.output, name, args.json)
        sheet = make_augmented_sheet(name, cfg, args) if args.augmented else make_sheet(name, args)
        print_counts(sheet, args.output)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    return run_as_command(lambda: preview(parse_args(argv)))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    sys.exit(main())
