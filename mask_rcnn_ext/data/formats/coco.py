"""COCO json, through which all conversions go."""

import json
from pathlib import Path

from ...files import atomic_open
from ..coco_json import check_coco_json
from ..findings import IssueCounter
from .dataset import Dataset

__all__ = ["read_coco", "write_coco"]


def read_coco(source: Path, images: Path | None, notes: IssueCounter) -> Dataset:
    """Read a json, with the checks and corrections of a training; the log names the changes.

    Args:
        source: the json.
        images: the folder of the images. Default: the folder of the json.
        notes: not used.

    Raises:
        UserError: see `check_coco_json`.
    """
    root = str(images or source.parent)
    file = check_coco_json(str(source), root, masks=False, allow_empty=True)
    return Dataset({"": file.content}, root)


def write_coco(dataset: Dataset, output: Path, notes: IssueCounter) -> None:
    """Write a json, or `train.json` and `val.json` of a data set with splits.

    Args:
        dataset: what to write.
        output: the json, or the folder of the jsons of the splits.
        notes: not used.
    """
    for split, content in dataset.splits.items():
        path = output / f"{split}.json" if split else output
        with atomic_open(path, "w") as file:
            json.dump(content, file)
