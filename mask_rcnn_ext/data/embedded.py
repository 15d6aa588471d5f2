"""The embedded data sets: drawn from a seed at first use, with the same pixels on every machine.

`occluded_shapes` has the images of the demo, `nested_shapes` the images of the FCIS experiment. The
modules with these names describe the images; a test compares their checksums.

Layout: `$DETECTRON2_DATASETS/NAME/{train,val,test}/{000000.png, ..., annotations.json}`.
"""

import contextlib
import functools
import json
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

from ..errors import UserError
from ..files import read_json_or_none
from ..temporary_files import make_temporary_folder
from . import nested_shapes, occluded_shapes
from .shape_drawing import CLASSES, Canvas, RandomStream, draw_background, render

__all__ = ["EMBEDDED", "EmbeddedDataSet", "register_embedded"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedDataSet:
    """A data set that is drawn.

    Attributes:
        name: the name without the split.
        version: a number that changes with the pixels.
        seed: the seed of all images.
        size: the side of the images in pixels.
        splits: name -> number of images.
        compose: places the shapes of an image, given its random stream, its background and its
            number.
    """

    name: str
    version: str
    seed: int
    size: int
    splits: dict[str, int]
    compose: Callable[[RandomStream, np.ndarray, int], Canvas]

    def info(self, split: str) -> dict[str, Any]:
        """Return the `info` of the annotation file of a split."""
        return {
            "description": f"{self.name} {split}",
            "version": self.version,
            "seed": self.seed,
            "license": "CC0-1.0",
        }

    def draw_image(self, *entropy: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return an image and its annotations, see `render`.

        Args:
            entropy: non-negative integers, the last one is the number of the image. Each
                combination gives another image.
        """
        rng = RandomStream(*entropy)
        background = draw_background(rng)
        return render(rng, background, self.compose(rng, background, entropy[-1]))

    def draw_split(self, split: str, folder: str | os.PathLike[str]) -> None:
        """Draw a split into `folder`, unless this version of the split is already there.

        The folder appears only when it is complete. Several processes may call this at the same
        time: the first to finish wins.

        Raises:
            UserError: the folder cannot be written to.
        """
        folder = Path(folder)
        if self._is_drawn(folder, split):
            return
        logger.info("Drawing %d images of %s into %s ...", self.splits[split], self.name, folder)
        with contextlib.ExitStack() as stack:
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                scratch = stack.enter_context(make_temporary_folder(folder.parent))
            except OSError as error:
                raise UserError(
                    f"cannot write the embedded data set to {folder.parent.absolute()}: {error}. "
                    "Set DETECTRON2_DATASETS to a folder that you can write."
                ) from error
            scratch.chmod(0o755)
            self._write_split(split, scratch)
            if folder.exists() and not self._is_drawn(folder, split):
                # Another version, or damaged, or a user's own folder.
                set_aside = folder.with_name(f"{split}.replaced-{uuid.uuid4().hex[:8]}")
                logger.warning("%s contained other files. They are now in %s.", folder, set_aside)
                with contextlib.suppress(FileNotFoundError):  # another process was faster
                    folder.rename(set_aside)
            try:
                scratch.rename(folder)
            except OSError:
                if not self._is_drawn(folder, split):  # another process was not faster
                    raise

    def _is_drawn(self, folder: Path, split: str) -> bool:
        coco = read_json_or_none(folder / "annotations.json")
        return isinstance(coco, dict) and coco.get("info") == self.info(split)

    def _write_split(self, split: str, folder: Path) -> None:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(self.splits[split]):
            pixels, drawn = self.draw_image(self.seed, list(self.splits).index(split), index)
            name, size = f"{index:06d}.png", {"width": self.size, "height": self.size}
            Image.fromarray(pixels).save(folder / name)
            images.append({"id": index + 1, "file_name": name, **size})
            for number, annotation in enumerate(drawn, len(annotations) + 1):
                annotations.append({"id": number, "image_id": index + 1, **annotation})
        coco = {
            "info": self.info(split),
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        }
        (folder / "annotations.json").write_text(json.dumps(coco))


EMBEDDED = {
    "occluded_shapes": EmbeddedDataSet(
        name="occluded_shapes",
        version="1.0",
        seed=20170320,
        size=occluded_shapes.SIZE,
        splits={"train": 800, "val": 200, "test": 200},
        compose=occluded_shapes.compose,
    ),
    "nested_shapes": EmbeddedDataSet(
        name="nested_shapes",
        version="1.0",
        seed=20161123,
        size=nested_shapes.SIZE,
        splits={"train": 1600, "val": 320, "test": 320},
        compose=nested_shapes.compose,
    ),
}


def register_embedded(root: str) -> None:
    """Register `NAME_{train,val,test}` of each embedded data set under `root` in detectron2.

    A split is drawn when `DatasetCatalog.get` first asks for it.
    """
    for data in EMBEDDED.values():
        for split in data.splits:
            name, folder = f"{data.name}_{split}", os.path.join(root, data.name, split)
            DatasetCatalog.register(name, functools.partial(_load_split, data, split, folder))
            MetadataCatalog.get(name).set(
                json_file=os.path.join(folder, "annotations.json"),
                image_root=folder,
                evaluator_type="coco",
                thing_classes=list(CLASSES),
                thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(CLASSES))},
            )


def _load_split(data: EmbeddedDataSet, split: str, folder: str) -> list[dict[str, Any]]:
    data.draw_split(split, folder)
    json_file = os.path.join(folder, "annotations.json")
    records: list[dict[str, Any]] = load_coco_json(json_file, folder, f"{data.name}_{split}")
    return records
