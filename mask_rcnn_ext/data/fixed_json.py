"""Writes a corrected copy of a COCO json: mistakes with only one possible correction are fixed."""

import json
import os
from collections.abc import Mapping
from typing import Any

from ..errors import UserError, name_some
from ..files import atomic_open
from .annotations import clean_annotations, find_mask_box
from .coco_json import CocoJson
from .data_check import DataCheck, SplitCheck
from .findings import IssueCounter
from .marked_json import mark_json, require_replaceable

__all__ = ["require_fixable_names", "write_fixed_jsons"]

_MARK = "fixed_by"
_FORM = ("id", "bbox", "area", "segmentation")  # keys in which copies of an annotation may differ


def require_fixable_names(outputs: Mapping[str, str], inputs: Mapping[str, str]) -> None:
    """Raise unless each corrected json has a name that may be written.

    Args:
        outputs: "train" or "val" -> where to write its corrected json.
        inputs: "train" or "val" -> the json that is checked.

    Raises:
        UserError: a name is missing or given twice, is an input, or belongs to another file.
    """
    different = {os.path.realpath(path) for path in outputs.values()}
    if outputs.keys() != inputs.keys() or len(different) != len(inputs):
        raise UserError(
            f"--fix: expected {len(inputs)} different file names, one for each of "
            f"{' and '.join(inputs.values())}, got {name_some(list(outputs.values()))}"
        )
    for path in outputs.values():
        for given in inputs.values():
            if os.path.exists(path) and os.path.exists(given) and os.path.samefile(path, given):
                raise UserError(f"--fix: {path} is the file that is checked; give another name")
        if os.path.isdir(path):
            raise UserError(f"--fix: expected the name of a json, got the folder {path}")
        require_replaceable(path, _MARK, "--fix")


def write_fixed_jsons(check: DataCheck, outputs: Mapping[str, str]) -> dict[str, IssueCounter]:
    """Write a corrected copy of each json of a check.

    A copy has the changes that a training makes when it reads the file (ids, file names, missing
    numbers, ...). In addition, a box that contradicts its mask or is malformed is computed from the
    mask, and an exact copy of an annotation is dropped. Nothing else changes; other malformed
    annotations stay too.

    Args:
        check: the check of the data. It cannot be used again, because its annotations are changed.
        outputs: "train" or "val" -> where to write.

    Returns:
        The changes of each file, by kind.

    Raises:
        UserError: the data has errors; or a file cannot be written, see also
            `require_fixable_names`.
    """
    require_fixable_names(outputs, {s: split.file.path for s, split in check.splits.items()})
    if check.count("error"):
        raise UserError(
            "--fix: nothing is written, because the errors of the check have several possible "
            "corrections. Correct them first"
        )
    changes = {split: _fix(part) for split, part in check.splits.items()}
    for split, path in outputs.items():
        with atomic_open(path, "w") as file:
            json.dump(check.splits[split].file.content, file)
    return changes


def _fix(split: SplitCheck) -> IssueCounter:
    """Correct the content of an inspected json in place; return the changes."""
    file, content = split.file, split.file.content
    changes = IssueCounter({kind: list(ids) for kind, ids in file.completed.issues.items()})
    by_id = {annotation["id"]: annotation for annotation in file.annotations}
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    gone = set()
    for doubt in file.doubts:
        for *originals, last in doubt.groups:
            annotation = by_id[last]
            if doubt.kind == "boxes":
                mask, size = annotation["segmentation"], sizes[annotation["image_id"]]
                annotation["bbox"] = find_mask_box(mask, size)
                changes.add("box that contradicted its mask, taken from the mask", last)
            elif doubt.kind == "copies" and _rest(annotation) == _rest(by_id[originals[0]]):
                gone.add(last)
                changes.add("exact copy of another annotation, dropped", last)
    _correct_boxes(file, split.image_root, changes)
    content["annotations"] = [a for a in file.annotations if a["id"] not in gone]
    mark_json(content, _MARK)
    return changes


def _rest(annotation: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in annotation.items() if key not in _FORM}


def _correct_boxes(file: CocoJson, image_root: str, changes: IssueCounter) -> None:
    """Compute from the mask the box of each annotation that was dropped only because of its box."""
    ids = {i for why, found in file.dropped.issues.items() if why.startswith("box ") for i in found}
    wrong = [a for a in file.annotations if a["id"] in ids and a.get("segmentation")]
    for annotation in wrong:
        annotation["bbox"] = None
        changes.add("malformed box, taken from the mask", annotation["id"])
    folders = (os.path.dirname(os.path.abspath(file.path)), image_root)
    some = {"images": file.content["images"], "annotations": wrong}
    clean_annotations(some, folders, False, True, IssueCounter(), IssueCounter())
