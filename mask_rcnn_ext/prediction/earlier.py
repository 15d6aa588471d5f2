"""Moves the files of an earlier prediction aside, so that no old file contradicts new results."""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..run_files import EARLIER, find_free_folder, move, remove_empty
from .image_outputs import name_outputs
from .parts import list_predicted, remove_parts

__all__ = ["VIDEOS", "find_prediction_files", "remove_unused", "set_aside_prediction"]

logger = logging.getLogger(__name__)

VIDEOS = "videos"  # the folder of videos with masks and of their tracks
_RESULTS = ("coco_instances_results.json", "images.json", "coco_annotations.json")
_TRACKS = ".tracks.json"


def find_prediction_files(output: Path) -> list[Path]:
    """Return the files that predictions have written into a folder, sorted by name.

    A file counts only if the results, or the parts of an unfinished prediction, name its image. So
    a folder such as `pictures` may hold files of a user, too.
    """
    parts = list_predicted(output)
    found = {path for path in parts if parts[path]}
    names = {name for part in parts.values() for name in part}
    if (output / _RESULTS[0]).is_file():
        names |= _read_names(output / _RESULTS[1])
        found |= {output / name for name in _RESULTS}
    inside = (
        name for name in names if ".." not in Path(name).parts and not Path(name).is_absolute()
    )
    found |= {output / path for name in inside for path in name_outputs(name)}
    found |= set(_find_videos(output / VIDEOS))
    return sorted(path for path in found if path.is_file())


def _read_names(path: Path) -> set[str]:
    # not ours, or not there
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        return {str(image["file_name"]) for image in json.loads(path.read_text())["images"]}
    return set()


def _find_videos(folder: Path) -> Iterator[Path]:
    for tracks in folder.rglob(f"*{_TRACKS}"):
        video = tracks.with_name(tracks.name.removesuffix(_TRACKS))
        yield from (tracks, video if video.suffix == ".mp4" else Path(f"{video}.mp4"))


def set_aside_prediction(output: Path, inputs: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Move the files of an earlier prediction to `output/earlier_runs/N`, with the next free N.

    Args:
        output: the folder of the results.
        inputs: the files that are about to be predicted.

    Returns:
        Each old path with its new one, for `run_files.move_back`.

    Raises:
        UserError: an input is one of these files, or they cannot be moved; nothing was moved.
    """
    found = find_prediction_files(output)
    old = {path.absolute() for path in found}
    for path in inputs:
        if path.absolute() in old:
            raise UserError(
                f"{path} was written by an earlier prediction into {output}: give another --output"
            )
    if not found:
        return []
    target = find_free_folder(output)
    moved = move(found, output, target)
    logger.info(
        "%s held an earlier prediction. Its files are now in %s/%s.", output, EARLIER, target.name
    )
    return moved


def remove_unused(output: Path) -> None:
    """Remove what a prediction has made before its first image or frame was done."""
    if not any(list_predicted(output).values()):
        remove_parts(output)
    remove_empty([output / VIDEOS])
