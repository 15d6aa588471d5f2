"""Tells the files of earlier predictions in a folder from a user's, which are never replaced.

`images.json` of the earlier prediction names its images and its outputs. `parts` names the files of
predictions that are not finished. What neither names is a user's.
"""

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from ..errors import UserError, name_some
from ..files import read_json
from ..run_files import find_free_folder, move
from .coco_results import ANNOTATIONS, IMAGES, RESULTS
from .image_files import ImageFile
from .image_outputs import name_outputs
from .parts import find_begun, is_inside

__all__ = ["find_own_files", "list_targets", "require_free_targets", "set_aside_stale"]

logger = logging.getLogger(__name__)


def find_own_files(output: str | os.PathLike[str]) -> set[str]:
    """Return the files, relative to the folder, that earlier predictions have written there."""
    folder = Path(output)
    return _find_finished(folder) | find_begun(folder)


def list_targets(files: Iterable[ImageFile], outputs: Collection[str]) -> Iterator[str]:
    """Yield the files, relative to the folder, that a prediction writes.

    Args:
        files: the images of the prediction.
        outputs: the names of its outputs, see `folder.OUTPUTS`.
    """
    return _list_targets((file.name for file in files), outputs)


def set_aside_stale(
    output: Path, written: Iterable[ImageFile], outputs: Collection[str], unfinished: Iterable[str]
) -> list[tuple[Path, Path]]:
    """Move files that only an earlier prediction has written to `output/earlier_runs/N`.

    The results of the new prediction are about to replace `images.json`, which names the images of
    the earlier one. Their pictures, label images and so on move, unless the new prediction has
    written them again. A `coco_annotations.json` that it does not write moves, too. A file that
    no earlier prediction names stays, since it may be a user's.

    Args:
        output: the folder of the results.
        written: the images whose files the new prediction has written.
        outputs: the names of its outputs, see `folder.OUTPUTS`.
        unfinished: files, relative to the folder, of predictions that were not finished.

    Returns:
        Each old path with its new one, for `run_files.move_back`.

    Raises:
        UserError: the files cannot be moved; then none was.
    """
    stale = (_find_finished(output) | set(unfinished)) - set(list_targets(written, outputs))
    found = sorted(path for name in stale if os.path.isfile(path := output / name))
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


def require_free_targets(
    output: Path, outputs: Collection[str], files: Sequence[ImageFile]
) -> None:
    """Check that a prediction replaces no file except those of earlier predictions.

    Args:
        output: the folder of the results.
        outputs: the names of the outputs, see `folder.OUTPUTS`.
        files: the images to predict.

    Raises:
        UserError: an input is a file that a prediction into this folder writes or has written, so
            that it would be replaced or moved; or a file would be replaced that no prediction has
            written; or two inputs would have the same file.
    """
    targets, own = list(list_targets(files, outputs)), find_own_files(output)
    _require_other_inputs(output.resolve(), own.union(targets), files)
    _require_two_files(outputs, files)
    foreign = [path for path in targets if path not in own and os.path.lexists(output / path)]
    if foreign:
        raise UserError(
            f"{output}: the prediction would replace files that no prediction has written: "
            f"{name_some(foreign)}. Move them away, or give another --output"
        )


def _require_other_inputs(output: Path, own: Collection[str], files: Iterable[ImageFile]) -> None:
    resolve = cache(Path.resolve)
    real = {resolve(file.path.parent) / file.path.name for file in files}
    for path in sorted(path for path in real if output in path.parents):
        if path.relative_to(output).as_posix() in own:
            raise UserError(
                f"{path} is among the files that predictions write into {output}: give another "
                "--output"
            )


def _require_two_files(outputs: Collection[str], files: Iterable[ImageFile]) -> None:
    names: dict[str, str] = {}
    for file in files:
        for path in name_outputs(file.name, outputs).values():
            if (other := names.setdefault(path, file.name)) != file.name:
                raise UserError(
                    f"{other} and {file.name} would have the same file {path}: rename one of them, "
                    "or predict them into two folders"
                )


def _find_finished(output: Path) -> set[str]:
    """Return the files of the prediction whose results are in a folder; none without results."""
    # The file may be another program's; ours has the outputs in `info`.
    with suppress(UserError, KeyError, TypeError):
        content = read_json(output / IMAGES)
        outputs = [str(name) for name in content["info"]["outputs"]]
        return set(_list_targets((str(image["file_name"]) for image in content["images"]), outputs))
    return set()


def _list_targets(names: Iterable[str], outputs: Collection[str]) -> Iterator[str]:
    yield from (RESULTS, IMAGES)
    if "polygons" in outputs:
        yield ANNOTATIONS
    for name in names:
        yield from filter(is_inside, name_outputs(name, outputs).values())
