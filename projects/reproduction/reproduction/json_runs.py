"""Training runs on files in COCO's format, and the files of one class that they read."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from mask_rcnn_ext.config import load_config
from mask_rcnn_ext.errors import UserError, require_range
from mask_rcnn_ext.files import file_sha256, read_json, write_json

from .training_runs import FILLED_IN, TrainingRun

__all__ = ["FILES", "JsonRun", "sample_images", "select_images", "write_class"]

FILES = ("train_json", "train_images", "val_json", "val_images")
_OWN_DATA = (  # keys that own data fill in; the checksums of the files represent them
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "INPUT.MASK_FORMAT",
    "MODEL.ROI_HEADS.NUM_CLASSES",
    *(f"MASK_RCNN_EXT.DATA.{name.upper()}" for name in FILES),
)


@dataclass(frozen=True)
class JsonRun(TrainingRun):
    """One training on json files.

    Attributes:
        files: their paths and the folders of their images, in the order of `FILES`. Empty: the data
            sets that the config names.
    """

    files: tuple[str, ...] = field(default=(), repr=False)

    @property
    def filled_in(self) -> tuple[str, ...]:
        """See `TrainingRun`."""
        return (*FILLED_IN, *_OWN_DATA)

    def find_other_inputs(self) -> dict[str, Any]:
        """Return the checksums of the annotations."""
        pairs = self._name_files()
        return {name: file_sha256(path) for name, path in pairs if name.endswith("json")}

    def _name_files(self) -> list[tuple[str, str]]:
        return list(zip(FILES, self.files, strict=True)) if self.files else []

    def options(self) -> Mapping[str, Any]:
        """Return the keys that differ from the variant's yaml, with their values."""
        return {}

    def config(self) -> CfgNode:
        """See `TrainingRun`."""
        return load_config(self.config_file, self.words())

    def words(self) -> list[str]:
        """Return the options as words of a command line."""
        return [word for key, value in self.options().items() for word in (key, str(value))]

    def command(self, resume: bool) -> list[str]:
        """See `TrainingRun`."""
        script, *words = super().command(resume)
        flags = [(f"--{name.replace('_', '-')}", path) for name, path in self._name_files()]
        return [script, *(word for flag in flags for word in flag), *words, *self.words()]


def write_class(
    root: str | Path,
    name: str,
    folder: str,
    category: str,
    longest: int,
    *,
    kind: str = "",
    most: int = 0,
) -> tuple[str, ...]:
    """Write the annotations of one class to `<root>/data/<name>_train.json` and `_val.json`.

    Args:
        root: the folder of the runs.
        name: the name of the data set.
        folder: has `annotations_train.json`, `annotations_val.json` and `images/`.
        category: see `select_images`.
        longest: see `select_images`.
        kind: see `select_images`.
        most: this many training images, at random with seed 0; 0: all of them.

    Returns:
        The paths and the folders of the images, in the order of `FILES`.

    Raises:
        UserError: a file is missing or has no such class.
    """
    images, paths = str(Path(folder, "images")), []
    for split in ("train", "val"):
        source = Path(folder, f"annotations_{split}.json")
        path = Path(root, "data", f"{name}_{split}.json")
        content = select_images(read_json(source), category, longest, kind)
        if most and split == "train":
            content = sample_images(content, most)
        write_json(path, content)
        paths += [str(path), images]
    return tuple(paths)


def sample_images(content: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a data set in COCO's format with `number` of its images, at random with seed 0.

    Raises:
        UserError: it has fewer images.
    """
    images = sorted(content["images"], key=lambda image: str(image["id"]))
    require_range("images of the data set", len(images), number)
    kept = {image["id"] for image in random.Random(0).sample(images, number)}
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in kept],
        "annotations": [a for a in content["annotations"] if a["image_id"] in kept],
    }


def select_images(
    content: dict[str, Any], category: str, longest: int, kind: str = ""
) -> dict[str, Any]:
    """Return COCO annotations of one class, and only the images with objects of it.

    Args:
        content: a data set in COCO's format.
        category: the name of the class.
        longest: the longest side of an image that is kept, in pixels.
        kind: keep only images with this `kind`, a key that dsb2018's images have; "": all.

    Raises:
        UserError: there is no such class.
    """
    categories = [entry for entry in content["categories"] if entry["name"] == category]
    if not categories:
        raise UserError(f"the annotations have no class {category!r}")
    found = [a for a in content["annotations"] if a["category_id"] == categories[0]["id"]]
    with_objects = {a["image_id"] for a in found}
    images = [
        image
        for image in content["images"]
        if image["id"] in with_objects
        and max(image["width"], image["height"]) <= longest
        and (not kind or image.get("kind") == kind)
    ]
    kept = {image["id"] for image in images}
    return {
        "images": images,
        "annotations": [a for a in found if a["image_id"] in kept],
        "categories": categories,
    }
