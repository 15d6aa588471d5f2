"""The options that name a data set by its files, and the limit for large images.

The scripts import this before `--help` ends, so nothing slow may be imported at the top.
"""

import argparse

__all__ = ["add_own_data", "add_pixel_limit"]


def add_own_data(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add `--train-json`, `--train-images`, `--val-json` and `--val-images`."""
    for split, purpose in (("train", "train"), ("val", "evaluate")):
        parser.add_argument(
            f"--{split}-json", default="", metavar="FILE", help=f"annotations to {purpose} on"
        )
        parser.add_argument(
            f"--{split}-images", default="", metavar="DIR", help="folder of their images"
        )


def add_pixel_limit(parser: argparse.ArgumentParser) -> None:
    """Add `--max-image-pixels`, which `set_pixel_limit` takes, for scripts that read no config."""
    parser.add_argument(
        "--max-image-pixels",
        type=int,
        default=0,
        metavar="N",
        help="the largest image that is read, as MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS (default: "
        "Pillow's limit, 178,956,970 pixels)",
    )
