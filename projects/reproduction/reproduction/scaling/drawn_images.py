"""Draws small images of boxes and disks, and a COCO json of the first ones."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as mask_util

from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.layers.rle import encode_mask

__all__ = ["CLASSES", "SIDE", "draw_images", "draw_one"]

CLASSES, SIDE = ("box", "disk"), 64  # pixels

_Mask = npt.NDArray[np.bool_]


def draw_one(number: int) -> tuple[npt.NDArray[np.uint8], list[tuple[int, _Mask]]]:
    """Return an image (SIDE, SIDE, 3) uint8 and its one to three objects: class, visible mask."""
    random = np.random.default_rng(number)
    pixels = random.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
    y, x = np.mgrid[:SIDE, :SIDE]
    objects: list[tuple[int, _Mask]] = []
    for _ in range(random.integers(1, 4)):
        kind, radius = int(random.integers(2)), int(random.integers(6, 15))
        cx, cy = random.integers(radius, SIDE - radius, 2)
        across, down = np.abs(x - cx), np.abs(y - cy)
        mask = np.maximum(across, down) < radius if kind == 0 else across**2 + down**2 < radius**2
        pixels[mask] = random.integers(130, 256, 3, dtype=np.uint8)
        objects = [(k, m & ~mask) for k, m in objects] + [(kind, mask)]
    return pixels, [(k, m) for k, m in objects if m.sum() >= 20]


def draw_images(folder: Path, count: int, annotated: int) -> Path:
    """Draw `count` images into `folder/images` and annotate the first ones.

    Existing images are kept.

    Returns:
        The path of the json.
    """
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"images": [], "annotations": []}
    for number in range(count):
        path = images / f"{number:06d}.png"
        if number >= annotated and path.is_file():
            continue
        pixels, objects = draw_one(number)
        Image.fromarray(pixels).save(path)
        if number < annotated:
            _annotate(content, path.name, number + 1, objects)
    content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    write_json(folder / "annotations.json", content)
    return folder / "annotations.json"


def _annotate(
    content: dict[str, Any], name: str, image_id: int, objects: list[tuple[int, _Mask]]
) -> None:
    content["images"].append({"id": image_id, "file_name": name, "width": SIDE, "height": SIDE})
    for kind, mask in objects:
        rle = encode_mask(mask)
        content["annotations"].append(
            {
                "id": len(content["annotations"]) + 1,
                "image_id": image_id,
                "category_id": kind + 1,
                "bbox": mask_util.toBbox(rle).astype(int).tolist(),
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": rle,
            }
        )
