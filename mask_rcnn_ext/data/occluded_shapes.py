"""The embedded data set `occluded_shapes`: overlapping outlines, drawn from a seed at first use.

Every image is 160 x 160 pixels and holds 2 to 6 shapes of five classes. Shapes overlap, often with
a shape of the same class or colour, so that only outlines separate the instances; one class has a
hole. An instance that is less than 30 % visible is not drawn. Annotations are the visible parts.

The pixels are the same on every machine, see `shape_drawing`; the tests compare `checksum`. The
difficulty is fixed: it belongs to the version of the data set and is never tuned towards a result.

Layout: `$DETECTRON2_DATASETS/occluded_shapes/{train,val,test}/{000000.png, ..., annotations.json}`.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

from ..errors import UserError
from ..files import read_json_or_none
from .shape_drawing import CLASSES, SIZE, draw_image

__all__ = ["SPLITS", "checksum", "draw_split", "register_occluded_shapes"]

VERSION = "1.0"
SEED = 20170320
SPLITS = {"train": 800, "val": 200, "test": 200}

logger = logging.getLogger(__name__)


def _info(split: str) -> dict[str, Any]:
    return {
        "description": f"occluded_shapes {split}",
        "version": VERSION,
        "seed": SEED,
        "license": "CC0-1.0",
    }


def draw_split(split: str, folder: str | os.PathLike[str]) -> None:
    """Draw a split into `folder`, unless this version of the split is already there.

    The folder appears only when it is complete. Several processes may call this at the same time:
    the first to finish wins.

    Raises:
        UserError: the folder cannot be written to.
    """
    folder = Path(folder)
    if _is_drawn(folder, split):
        return
    logger.info("Drawing %d images of occluded_shapes into %s ...", SPLITS[split], folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{split}-", dir=folder.parent))
    except OSError as error:
        raise UserError(
            f"cannot write the embedded data set to {folder.parent.absolute()}: {error}. "
            "Set DETECTRON2_DATASETS to a folder that you can write."
        ) from error
    try:
        scratch.chmod(0o755)
        _write_split(split, scratch)
        if folder.exists() and not _is_drawn(folder, split):
            # Another version, or damaged, or a user's own folder.
            set_aside = folder.with_name(f"{split}.replaced-{uuid.uuid4().hex[:8]}")
            logger.warning("%s holds something else, which is now in %s.", folder, set_aside)
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                folder.rename(set_aside)
        try:
            scratch.rename(folder)
        except OSError:
            if not _is_drawn(folder, split):  # another process was not faster
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _is_drawn(folder: Path, split: str) -> bool:
    coco = read_json_or_none(folder / "annotations.json")
    return isinstance(coco, dict) and coco.get("info") == _info(split)


def _write_split(split: str, folder: Path) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(SPLITS[split]):
        pixels, drawn = draw_image(SEED, list(SPLITS).index(split), index)
        name = f"{index:06d}.png"
        Image.fromarray(pixels).save(folder / name)
        images.append({"id": index + 1, "file_name": name, "width": SIZE, "height": SIZE})
        for annotation in drawn:
            annotations.append({"id": len(annotations) + 1, "image_id": index + 1, **annotation})
    coco = {
        "info": _info(split),
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }
    (folder / "annotations.json").write_text(json.dumps(coco))


def checksum(folder: str | os.PathLike[str]) -> str:
    """Return the SHA-256 (hex) over the decoded pixels and the annotations of a drawn split.

    PNG bytes are not compared, because encoders compress differently from version to version.
    """
    digest = hashlib.sha256()
    coco = json.loads((Path(folder) / "annotations.json").read_text())
    for image in coco["images"]:
        with Image.open(Path(folder) / image["file_name"]) as picture:
            digest.update(np.asarray(picture.convert("RGB")).tobytes())
    digest.update(json.dumps(coco, sort_keys=True).encode())
    return digest.hexdigest()


def register_occluded_shapes(root: str) -> None:
    """Register `occluded_shapes_{train,val,test}` under `root` in detectron2's catalogs.

    A split is drawn when `DatasetCatalog.get` first asks for it.
    """
    for split in SPLITS:
        name, folder = f"occluded_shapes_{split}", os.path.join(root, "occluded_shapes", split)
        DatasetCatalog.register(name, functools.partial(_load_split, name, split, folder))
        MetadataCatalog.get(name).set(
            json_file=os.path.join(folder, "annotations.json"),
            image_root=folder,
            evaluator_type="coco",
            thing_classes=list(CLASSES),
            thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(CLASSES))},
        )


def _load_split(name: str, split: str, folder: str) -> list[dict[str, Any]]:
    draw_split(split, folder)
    json_file = os.path.join(folder, "annotations.json")
    records: list[dict[str, Any]] = load_coco_json(json_file, folder, name)
    return records
