"""The proposals of data sets, stored as detectron2 reads them: what `compute_proposals.py` does.

For each data set the folder gets `<name>.pkl`, in detectron2's format, and `<name>.json`, its
recipe: what the proposals were made with, how many there are, their recall, and how long they took.
While they are computed `<name>.parts` holds what is done.
"""

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode
from tqdm import tqdm

from ..data.catalog import require_datasets
from ..errors import UserError
from ..files import read_json_or_none, require_writable, write_json
from .file import write_proposal_file
from .methods import Method
from .parts import IMAGES_PER_PART, Proposals, compute_parts, read_parts
from .recall import proposal_recall

__all__ = ["compute_proposals", "describe"]

logger = logging.getLogger(__name__)

_SETTINGS = "settings.json"  # in the folder of the parts


def compute_proposals(
    method: Method,
    names: Sequence[str],
    output: str | Path,
    *,
    processes: int = 1,
    overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
    """Compute and store the proposals of data sets; go on where an earlier call was interrupted.

    Proposals that are there, of the same method, settings and images, are left as they are. Images
    are the same when their ids and the names and sizes of their files are; annotations, of which
    the recall is, do not count.

    Args:
        method: what proposes.
        names: of registered data sets.
        output: folder of the files.
        processes: that compute, see `compute_parts`.
        overwrite: replace what was made with other settings, which is an error otherwise.

    Returns:
        Data set -> recipe.

    Raises:
        UserError: a data set is unknown or not there, `output` cannot be written to or holds
            proposals of other settings, or see `compute_parts`.
    """
    names = list(dict.fromkeys(names))
    if processes < 1:
        raise UserError(f"--processes: expected 1 or more, got {processes}")
    require_datasets(names)
    settings, folder = method.settings(), Path(output)
    existed = folder.exists()
    require_writable(folder)
    try:
        return {
            name: _compute(method, settings, name, folder, processes, overwrite) for name in names
        }
    except UserError:
        if not existed:
            with contextlib.suppress(OSError):  # something is done: it stays
                folder.rmdir()
        raise


def describe(name: str, recipe: dict[str, Any]) -> str:
    """Return the recipe of a data set's proposals as one line."""
    recall = recipe["recall"]
    parts = [
        f"{name}: {recipe['images']} images",
        f"{recipe['proposals_per_image']:.1f} proposals and "
        f"{recipe['seconds_per_image']:.3f} s per image",
    ]
    if recall:
        parts.append(
            f"recall {recall['recall_50']:.1f} at IoU 0.5, {recall['recall_70']:.1f} at 0.7, "
            f"{recall['AR']:.1f} on average over 0.5 to 0.95 ({recall['objects']} objects)"
        )
    return ", ".join(parts)


def _compute(
    method: Method,
    settings: dict[str, Any],
    name: str,
    output: Path,
    processes: int,
    overwrite: bool,
) -> dict[str, Any]:
    records: list[dict[str, Any]] = DatasetCatalog.get(name)
    ids = [[record["image_id"], *_file(record["file_name"])] for record in records]
    images = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
    settings = {"data_set": name, **settings, "images": len(records), "images_sha256": images}
    file, note, parts = (output / f"{name}{end}" for end in (".pkl", ".json", ".parts"))
    former = read_json_or_none(str(note))
    if file.is_file() and _difference(former, settings) is None:
        shutil.rmtree(parts, ignore_errors=True)
        logger.info("%s is there already, of these settings.", file)
        return dict(former)
    _begin(file, note, parts, {**settings, "images_per_part": IMAGES_PER_PART}, overwrite)
    try:
        with tqdm(total=len(records), desc=name, unit="image", disable=None) as bar:
            compute_parts(method, records, parts, processes=processes, progress=bar.update)
    except UserError:
        if not any(parts.glob("*.npz")):  # nothing that is worth keeping
            shutil.rmtree(parts, ignore_errors=True)
        raise
    found = read_parts(records, parts)
    write_proposal_file(file, [r["image_id"] for r in records], found.boxes, found.logits)
    recipe = {
        **settings,
        "proposals_per_image": sum(map(len, found.boxes)) / max(len(records), 1),
        "seconds_per_image": found.seconds / max(len(records), 1),
        "recall": _recall(records, found),
    }
    write_json(str(note), recipe)
    shutil.rmtree(parts, ignore_errors=True)
    return recipe


def _file(path: str) -> tuple[str, int]:
    """Return an image's name and its size in bytes, -1 of none: not its place, which may change."""
    return Path(path).name, Path(path).stat().st_size if Path(path).is_file() else -1


def _begin(file: Path, note: Path, parts: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Make the folder of the parts, unless it is there, of these settings.

    Raises:
        UserError: there are parts or proposals of other settings, and they are to stay.
    """
    started = read_json_or_none(str(parts / _SETTINGS))
    if started is not None and _difference(started, settings) is None:
        return
    if not any(parts.glob("*.npz")):
        started = None  # it was interrupted before its first part
    earlier = started if started is not None else read_json_or_none(str(note))
    if not overwrite and (started is not None or file.exists()):
        what = file if file.exists() else parts
        why = _difference(earlier, settings)
        raise UserError(
            f"{what} is there already, {why}. Give another --output, or --overwrite to replace it"
        )
    shutil.rmtree(parts, ignore_errors=True)
    note.unlink(missing_ok=True)  # from here on the file is not vouched for
    write_json(str(parts / _SETTINGS), settings)


def _difference(earlier: Any, settings: dict[str, Any]) -> str | None:
    """Return in which setting `earlier` is another, in words; None: in none."""
    if not isinstance(earlier, dict):
        return "of unknown settings"
    for key, value in settings.items():
        if key not in earlier:
            return f"made without {key}"
        if earlier[key] != value:
            return f"made with {key} {earlier[key]}, now it is {value}"
    return None


def _recall(records: Sequence[dict[str, Any]], found: Proposals) -> dict[str, float] | None:
    """Return the recall, None where no image has an object."""

    def objects(record: dict[str, Any]) -> np.ndarray:
        boxes = [
            BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS)
            for a in record.get("annotations", ())
            if not a.get("iscrowd", 0)
        ]
        return np.array(boxes, dtype=np.float64).reshape(-1, 4)

    pairs = zip(found.boxes, map(objects, records), strict=True)
    recall = proposal_recall(pairs)
    return recall if recall["objects"] else None
