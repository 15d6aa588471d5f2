"""`occluded_shapes` with 1 or 6 channels instead of 3, as an example of such data."""

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_rcnn_ext import UserError
from mask_rcnn_ext.data.images import read_bgr
from mask_rcnn_ext.files import atomic_open

from .channels import register_channels

__all__ = ["CHANNELS", "convert", "register_shapes", "write_shapes"]

CHANNELS = (1, 6)
SPLITS = ("train", "val")


def _folder(channels: int, split: str) -> Path:
    root = os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))
    return Path(root, f"occluded_shapes_{channels}ch", split)


def register_shapes() -> None:
    """Register `occluded_shapes_{1,6}ch_{train,val}`; `write_shapes` writes their files."""
    for channels in CHANNELS:
        for split in SPLITS:
            folder = _folder(channels, split)
            name = f"occluded_shapes_{channels}ch_{split}"
            if name not in DatasetCatalog:
                register_channels(name, str(folder / "annotations.json"), str(folder))


def write_shapes(channels: int) -> None:
    """Write `occluded_shapes_{channels}ch_{train,val}`, except splits that are complete.

    Raises:
        UserError: `channels` is not 1 or 6, or a file cannot be written.
    """
    _require_known(channels)  # before a data set is drawn
    for split in SPLITS:
        name = f"occluded_shapes_{split}"
        DatasetCatalog.get(name)  # draws the data set at first use
        metadata = MetadataCatalog.get(name)
        convert(metadata.json_file, metadata.image_root, _folder(channels, split), channels)


def convert(json_file: str, image_root: str, folder: Path, channels: int) -> None:
    """Copy COCO-format data with its images as `.npy` files of other channels.

    One channel is the mean of the three. Six channels are the three in BGR order and the size of
    their gradients, which represent the additional bands of a real sensor.

    Args:
        json_file: the annotations.
        image_root: the folder of the images.
        folder: the folder for the `.npy` files, (H, W, `channels`) uint8, and `annotations.json`.
            The json is written last; if it exists, nothing is done.
        channels: 1 or 6.

    Raises:
        UserError: `channels` is not 1 or 6, or a file cannot be read or written.
    """
    _require_known(channels)
    if (folder / "annotations.json").is_file():
        return
    coco = json.loads(Path(json_file).read_text(encoding="utf-8"))
    for image in coco["images"]:
        source = Path(image_root, image["file_name"])
        pixels = _with_channels(read_bgr(source), channels)
        image["file_name"] = str(Path(image["file_name"]).with_suffix(".npy"))
        with atomic_open(folder / image["file_name"], durable=False) as file:
            np.save(file, pixels)
    with atomic_open(folder / "annotations.json", "w") as file:
        json.dump(coco, file)


def _require_known(channels: int) -> None:
    if channels not in CHANNELS:
        raise UserError(f"channels: expected 1 or 6, got {channels}")


def _with_channels(image: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    """Turn (H, W, 3) BGR into (H, W, `channels`)."""
    if channels == 1:
        return image.mean(axis=2, keepdims=True).round().astype(np.uint8)
    vertical, horizontal = np.gradient(image.astype(np.float32), axis=(0, 1))
    edges = np.hypot(vertical, horizontal).clip(0, 255).round().astype(np.uint8)
    return np.concatenate([image, edges], axis=2)
