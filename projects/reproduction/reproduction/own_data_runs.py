"""Training runs on COCO files of the user's disk, each one a yaml and options over it."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

from detectron2.config import CfgNode

from mask_rcnn_ext.config import load_config
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import file_sha256

from .training_runs import FILLED_IN, TrainingRun

__all__ = ["FILES", "OwnDataRun", "select_images"]

FILES = ("train_json", "train_images", "val_json", "val_images")
_OWN_DATA = (  # keys that own data fill in; the checksums of the files stand for them
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "INPUT.MASK_FORMAT",
    "MODEL.ROI_HEADS.NUM_CLASSES",
    *(f"MASK_RCNN_EXT.DATA.{name.upper()}" for name in FILES),
)


@dataclass(frozen=True)
class OwnDataRun(TrainingRun):
    """One training on own data.

    Attributes:
        files: the paths of the data, in the order of `FILES`.
    """

    files: tuple[str, ...] = field(default=(), repr=False)

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Keys of the config and their values, over those of the yaml."""

    @property
    def filled_in(self) -> tuple[str, ...]:
        """See `TrainingRun`."""
        return (*FILLED_IN, *_OWN_DATA)

    @property
    def _words(self) -> list[str]:
        return [word for key, value in self.options.items() for word in (key, str(value))]

    def config(self) -> CfgNode:
        """See `TrainingRun`."""
        return load_config(self.config_file, self._words)

    def inputs(self) -> dict[str, Any]:
        """Return the checksums of the annotations."""
        pairs = zip(FILES, self.files, strict=True)
        return {name: file_sha256(path) for name, path in pairs if name.endswith("json")}

    def command(self, resume: bool) -> list[str]:
        """See `TrainingRun`."""
        script, *options = super().command(resume)
        flags = zip((f"--{name.replace('_', '-')}" for name in FILES), self.files, strict=True)
        return [script, *(word for flag in flags for word in flag), *options, *self._words]


def select_images(content: dict[str, Any], category: str, longest: int) -> dict[str, Any]:
    """Return COCO annotations of one class, and only the images with objects of it.

    Args:
        content: a data set in COCO's format.
        category: the name of the class.
        longest: the longest side of an image that is kept, in pixels.

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
        if image["id"] in with_objects and max(image["width"], image["height"]) <= longest
    ]
    kept = {image["id"] for image in images}
    return {
        "images": images,
        "annotations": [a for a in found if a["image_id"] in kept],
        "categories": categories,
    }
