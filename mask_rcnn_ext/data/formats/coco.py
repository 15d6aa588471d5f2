"""COCO json, through which all conversions go."""

import json
from pathlib import Path

from ...files import atomic_open
from ..coco_json import inspect_coco_json, raise_faults
from ..findings import IssueCounter
from .dataset import IMAGES_ELSEWHERE, Dataset

__all__ = ["read_coco", "write_coco"]


def read_coco(source: Path, images: Path | None, notes: IssueCounter) -> Dataset:
    """Read a json, with the checks and corrections of a training; the log names the changes.

    The images are in the folder of the json, or in `images`.
    """
    root = str(images or source.parent)
    file = inspect_coco_json(str(source), root, masks=False, allow_empty=True)
    if images is None and file.faults and "" in file.image_paths:
        file.faults[0] += f". {IMAGES_ELSEWHERE}"
    raise_faults(file.faults)
    return Dataset({"": file.content}, root)


def write_coco(dataset: Dataset, output: Path, notes: IssueCounter) -> None:
    """Write a json, or a folder with `train.json` and `val.json` of a data set with splits."""
    for split, content in dataset.splits.items():
        path = output / f"{split}.json" if split else output
        with atomic_open(path, "w") as file:
            json.dump(content, file)
