"""The option that limits the size of images.

The scripts import this before `--help` ends, so nothing slow may be imported at the top.
"""

import argparse

__all__ = ["add_pixel_limit"]


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
