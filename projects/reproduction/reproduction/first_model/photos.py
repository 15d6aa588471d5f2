"""The folder to start with: photos, a json of one class, new photos, and a video."""

from pathlib import Path
from shutil import copyfile
from typing import Any

import cv2

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import read_json, write_json

from ..json_runs import select_images

__all__ = ["CATEGORY", "CLIP", "JSON", "NEW_PHOTOS", "PHOTOS", "make_folder"]

CATEGORY = "person"
PHOTOS, JSON, NEW_PHOTOS, CLIP = "photos", "photos.json", "new_photos", "clip.mp4"

_LAYOUT = "Give --coco a folder with annotations_train.json, annotations_val.json and images/"
_LONGEST = 640  # pixels; no photo is larger
FRAMES, _FPS = 60, 12.0
_LARGE = 0.02  # share of the photo that a large person covers at least


def make_folder(source: str | Path, folder: Path) -> dict[str, Any]:
    """Write the photos that show persons, their json, new photos and a video into a folder.

    Three of every eight validation photos become the new photos. They are in no json, so no
    training and no choice of a setting uses them.

    Args:
        source: has `annotations_train.json`, `annotations_val.json` and `images/`.
        folder: to write to.

    Returns:
        The numbers of photos and persons, the photo of the video, and the credits of the new
        photos.

    Raises:
        UserError: a file is missing, or there are too few photos.
    """
    train, val = (
        select_images(
            read_json(Path(source, f"annotations_{split}.json"), _LAYOUT), CATEGORY, _LONGEST
        )
        for split in ("train", "val")
    )
    number = len(val["images"]) * 3 // 8
    if not number:
        raise UserError(
            f"{source}: expected 3 or more validation photos with a {CATEGORY}, found "
            f"{len(val['images'])}"
        )
    known, new = val["images"][:-number], val["images"][-number:]
    images = [*train["images"], *known]
    ids = {image["id"] for image in images}
    found = [a for a in (*train["annotations"], *val["annotations"]) if a["image_id"] in ids]
    _copy(Path(source, "images"), images, folder / PHOTOS)
    _copy(Path(source, "images"), new, folder / NEW_PHOTOS)
    content = {"images": images, "annotations": found, "categories": train["categories"]}
    write_json(folder / JSON, content)
    scene, persons = _choose_scene(new, val["annotations"])
    _pan(folder / NEW_PHOTOS / scene, folder / CLIP)
    return {
        "photos": len(images),
        "objects": sum(not a.get("iscrowd") for a in found),
        "new_photos": len(new),
        "clip": {"photo": scene, "persons": persons, "frames": FRAMES, "fps": _FPS},
        "credits": {image["file_name"]: image.get("flickr_url", "") for image in new},
    }


def _copy(source: Path, images: list[dict[str, Any]], target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for image in images:
        try:
            copyfile(source / image["file_name"], target / image["file_name"])
        except OSError as error:
            raise UserError(f"cannot copy {source / image['file_name']}: {error}") from error


def _choose_scene(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> tuple[str, int]:
    """Return the first photo with the most large persons, and their number."""

    def count(image: dict[str, Any]) -> int:
        least = _LARGE * image["width"] * image["height"]
        return sum(
            a["image_id"] == image["id"] and not a.get("iscrowd") and a["area"] >= least
            for a in annotations
        )

    scene = max(images, key=count)
    return scene["file_name"], count(scene)


def _pan(photo: Path, clip: Path) -> None:
    """Write a video in which a window of two thirds of the width moves over a photo."""
    pixels = cv2.imread(str(photo))
    if pixels is None:
        raise UserError(f"{photo}: cannot be read as an image")
    height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] * 2 // 3 // 2 * 2  # even, for MPEG-4
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), _FPS, (width, height))
    for number in range(FRAMES):
        left = round(number / (FRAMES - 1) * (pixels.shape[1] - width))
        writer.write(pixels[:height, left : left + width])
    writer.release()
