"""Reads the options of tools/predict.py for the model, outputs, classes, scores and tiles.

What needs PyTorch is imported in the functions: `tools/command_line/light.py` imports this module
alone, to find mistakes at once.
"""

import argparse
import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, nearest, require_range
from ..files import read_json
from ..model_files import is_checkpoint, is_exported

if TYPE_CHECKING:
    from .tiles import Tiling

__all__ = [
    "check_numbers",
    "choose_model",
    "choose_outputs",
    "parse_names",
    "parse_thresholds",
    "read_filters",
    "read_tiling",
]

_OTHERS = {"": 0.5}  # the threshold of classes that --score-threshold does not name


def _is_model(name: str) -> bool:
    """Return whether a name is that of a trained or an exported model."""
    return is_checkpoint(name) or is_exported(name)


def choose_model(args: argparse.Namespace) -> str:
    """Return the config, or the model that contains it, which is removed from `args.inputs`.

    Raises:
        UserError: no model is given, or more than one, or no image.
    """
    named = args.config_file or args.weights
    model = named or args.inputs.pop(0)
    if not (named or _is_model(model)):
        inside = Path(model, "model_final.pth")
        hint = f". Did you mean {inside}?" if inside.is_file() else ""
        if later := [path for path in args.inputs if _is_model(path)]:
            raise UserError(f"expected the model first: {later[0]} stands after {model}")
        raise UserError(
            f"no model given: expected a file such as model_final.pth before {model}, or "
            f"--config-file and --weights{hint}"
        )
    if not args.inputs:
        raise UserError(f"no images given: name images or folders after {model}")
    for path in filter(_is_model, args.inputs):
        raise UserError(
            f"{path} is a model, not an image. Give one model: first, without --config-file and "
            "--weights, or as --weights"
        )
    return model


def choose_outputs(args: argparse.Namespace) -> list[str]:
    """Return the names in `OUTPUTS` of the outputs to write.

    Raises:
        UserError: `--write` has another name.
    """
    from .folder import OUTPUTS

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
    from .filters import MEASURES, MaskOverlap

    filters: dict[str, Any] = {}
    if args.classes is not None:
        filters["classes"] = parse_names(args.classes)
        if not filters["classes"]:
            raise UserError("--classes: expected names such as cat,dog, got none")
    thresholds = parse_thresholds(args.score_threshold)
    if isinstance(thresholds, dict):
        filters["thresholds"] = thresholds
    if args.mask_overlap is not None:
        each, measure = not args.overlap_all_classes, args.overlap_measure or MEASURES[0]
        filters["mask_overlap"] = MaskOverlap(args.mask_overlap, measure, each)
    elif args.overlap_measure is not None or args.overlap_all_classes:
        raise UserError("--overlap-measure and --overlap-all-classes need --mask-overlap")
    return filters


def read_tiling(args: argparse.Namespace) -> "Tiling | None":
    """Return the tiling of large images; None if they are not cut.

    Raises:
        UserError: `--tile` is no number, or `--tile-overlap` is given without it.
    """
    from .tiles import Tiling

    if args.tile is None:
        if args.tile_overlap is not None:
            raise UserError("--tile-overlap needs --tile")
        return None
    if args.tile != "auto" and not (args.tile.isdecimal() and int(args.tile)):
        raise UserError(f"--tile: expected a number of pixels or auto, got {args.tile}")
    return Tiling(0 if args.tile == "auto" else int(args.tile), args.tile_overlap)


def parse_names(text: str) -> list[str]:
    """Return the names in a text such as "cat,dog"; a name with a comma needs double quotes.

    Raises:
        UserError: `text` is no line of names.
    """
    try:
        return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), ())]
    except csv.Error as error:
        raise UserError(f"expected names such as cat,dog in one line, got {text!r}") from error


def parse_thresholds(text: str) -> float | dict[str, float]:
    """Return the thresholds of `--score-threshold`.

    Args:
        text: a number; or "cat=0.4,dog=0.6", in which a number without a name is for all other
            classes, 0.5 by default; or the path of a json with `thresholds`, a score for each name.

    Returns:
        The number, or a score for each name; "" stands for all other classes.

    Raises:
        UserError: `text` is something else, or a score is not in [0, 1].
    """
    if text.lower().endswith(".json"):
        content = read_json(text, "Give a file with `thresholds`, a score for each class name")
        found = content.get("thresholds") if isinstance(content, dict) else None
        if not isinstance(found, dict) or not found:
            raise UserError(f"{text}: expected `thresholds`, a score for each class name")
        # A class without a score, for example because nothing of it was found, has null there.
        given = {name: score for name, score in found.items() if score is not None}
        return _OTHERS | {name: _to_score(score, text) for name, score in given.items()}
    pairs = [part.rpartition("=")[::2] for part in parse_names(text) or [""]]
    scores = {name.strip(): _to_score(score, "--score-threshold") for name, score in pairs}
    return scores[""] if list(scores) == [""] else _OTHERS | scores


def _to_score(value: object, source: str | os.PathLike[str]) -> float:
    try:
        score = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        score = float("nan")
    if not 0 <= score <= 1:
        raise UserError(
            f"{source}: expected a score from 0 to 1, got {value!r}. Write 0.4, or "
            "cat=0.4,dog=0.6, or give a json with `thresholds`"
        )
    return score
