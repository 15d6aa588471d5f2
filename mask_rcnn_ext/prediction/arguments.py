"""Reads the options of tools/predict.py for outputs, classes, scores and tiles."""

import argparse
from typing import Any

from ..errors import UserError, nearest, require_range
from .filters import MEASURES, MaskOverlap, parse_names, parse_thresholds
from .folder import OUTPUTS
from .tiles import Tiling

__all__ = ["check_numbers", "choose_outputs", "read_filters", "read_tiling"]


def choose_outputs(args: argparse.Namespace) -> list[str]:
    """Return the names in `OUTPUTS` of the outputs to write.

    Raises:
        UserError: `--write` has another name.
    """
    names = parse_names(args.write)
    for name in names:
        if name not in OUTPUTS:
            raise UserError(
                f"--write {name}: expected names of {', '.join(OUTPUTS)}{nearest(name, OUTPUTS)}"
            )
    left_out = {"pictures"} if args.no_pictures else set()
    return [name for name in OUTPUTS if name in {"coco", *names} - left_out]


def check_numbers(args: argparse.Namespace, *, videos: bool) -> None:
    """Check `--processes`, `--batch-size` and `--every`.

    Args:
        args: the command line.
        videos: whether a video is among the inputs.

    Raises:
        UserError: a number is out of range, or `--every` is given without a video.
    """
    require_range("--processes", args.processes, 1)
    require_range("--batch-size", args.batch_size, 1)
    if args.every is not None and not videos:
        raise UserError("--every needs a video or a camera, and the inputs are images only")
    if args.every is not None:
        require_range("--every", args.every, 1)


def read_filters(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `InstanceFilter`, which checks the names of classes.

    Raises:
        UserError: an option cannot be read, or is out of range.
    """
    filters: dict[str, Any] = {}
    if args.classes is not None:
        filters["classes"] = parse_names(args.classes)
    thresholds = parse_thresholds(args.score_threshold)
    if isinstance(thresholds, dict):
        filters["thresholds"] = thresholds
    if args.mask_overlap is not None:
        each, measure = not args.overlap_all_classes, args.overlap_measure or MEASURES[0]
        filters["mask_overlap"] = MaskOverlap(args.mask_overlap, measure, each)
    elif args.overlap_measure is not None or args.overlap_all_classes:
        raise UserError("--overlap-measure and --overlap-all-classes need --mask-overlap")
    return filters


def read_tiling(args: argparse.Namespace) -> Tiling | None:
    """Return the tiling of large images; None if they are not cut.

    Raises:
        UserError: `--tile` is no number, or `--tile-overlap` is given without it.
    """
    if args.tile is None:
        if args.tile_overlap is not None:
            raise UserError("--tile-overlap needs --tile")
        return None
    if args.tile != "auto" and not (args.tile.isdecimal() and int(args.tile)):
        raise UserError(f"--tile: expected a number of pixels or auto, got {args.tile}")
    return Tiling(0 if args.tile == "auto" else int(args.tile), args.tile_overlap)
