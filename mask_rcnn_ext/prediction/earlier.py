"""Moves aside the files of an earlier prediction that would contradict the new results."""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from ..errors import UserError
from ..run_files import find_free_folder, move
from .coco_results import ANNOTATIONS, IMAGES
from .image_files import ImageFile
from .image_outputs import name_outputs
from .parts import PartReader

__all__ = ["require_other_inputs", "set_aside_stale"]

logger = logging.getLogger(__name__)


def set_aside_stale(
    output: Path, written: Iterable[str], outputs: Iterable[str], unfinished: Iterable[str]
) -> list[tuple[Path, Path]]:
    """Move files that only an earlier prediction has written to `output/earlier_runs/N`.

    The results of the new prediction are about to replace `images.json`, which names the images of
    the earlier one. Their pictures, label images and so on move, unless the new prediction has
    written them again. A `coco_annotations.json` that it does not write moves, too. A file that
    no earlier prediction names stays, since it may be a user's.

    Args:
        output: the folder of the results.
        written: the names of the images whose files the new prediction has written.
        outputs: the names of its outputs, see `folder.OUTPUTS`.
        unfinished: the names of images of earlier predictions that were not finished.

    Returns:
        Each old path with its new one, for `run_files.move_back`.

    Raises:
        UserError: the files cannot be moved; then none was.
    """
    names, outputs = _read_names(output) | set(unfinished), set(outputs)
    if not names:
        return []
    kept = {path for name in written for path in _list_paths(name, outputs)}
    stale = {path for name in names for path in _list_paths(name)} - kept
    stale |= {ANNOTATIONS} if "polygons" not in outputs else set()
    found = sorted(path for name in stale if (path := output / name).is_file())
    if not found:
        return []
    target = find_free_folder(output)
    moved = move(found, output, target)
    logger.info(
        "%d file(s) of an earlier prediction are now in %s: this prediction has other images, or "
        "writes other files",
        *(len(moved), target),
    )
    return moved


def require_other_inputs(output: Path, outputs: Iterable[str], files: Iterable[ImageFile]) -> None:
    """Check that no input is a file that a prediction into this folder writes or has written.

    Args:
        output: the folder of the results.
        outputs: the names of the outputs, see `folder.OUTPUTS`.
        files: the images to predict.

    Raises:
        UserError: an input is such a file: it would be replaced or moved.
    """
    output, resolve, outputs = output.resolve(), cache(Path.resolve), set(outputs)
    real = {file: resolve(file.path.parent) / file.path.name for file in files}
    inside = {path for path in real.values() if output in path.parents}
    if not inside:
        return
    earlier = _read_names(output) | PartReader(output, [], "").other_names
    own = {path for name in earlier for path in _list_paths(name)}
    own |= {path for file in real for path in _list_paths(file.name, outputs)}
    for path in sorted(inside):
        if path.relative_to(output).as_posix() in own:
            raise UserError(
                f"{path} is among the files that predictions write into {output}: give another "
                "--output"
            )


def _read_names(output: Path) -> set[str]:
    """Return the names of the images in the results of a folder; none if there are no results."""
    # The file may be another program's.
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        content = json.loads((output / IMAGES).read_text("utf-8"))
        return {str(image["file_name"]) for image in content["images"]}
    return set()


def _list_paths(name: str, outputs: Iterable[str] | None = None) -> Iterator[str]:
    """Yield the files of an image, relative to the folder; of `outputs` only, if they are given."""
    for kind, path in name_outputs(name).items():
        # A name that leads out of the folder is not from here.
        if (outputs is None or kind in outputs) and not os.path.normpath(path).startswith(".."):
            yield path
