"""Reading a COCO-format json and the sizes of its image files, and every mistake in them told."""

import contextlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..errors import UserError, name_some, nearest

__all__ = ["HEADERS_CHECKED", "check_image_files", "read_coco_json"]


HEADERS_CHECKED = 2000  # images whose header is compared with the json, evenly spread over the file


_EXIF_ORIENTATION = 0x0112


def read_coco_json(path: str) -> dict[str, Any]:
    """Return the object in a COCO json, whose `images`, `annotations`, `categories` fit each other.

    Raises:
        UserError: the file is missing, unreadable, not json, not COCO format; ids are not unique
            integers, or an annotation is of an image or a category that is not listed.
    """
    try:
        with open(path, encoding="utf-8") as f:
            content = json.load(f)
    except FileNotFoundError:
        folder, name = os.path.split(os.path.abspath(path))
        hint = nearest(name, os.listdir(folder)) if os.path.isdir(folder) else ""
        raise UserError(f"json file not found: {os.path.join(folder, name)}{hint}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: not json: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as json: {error}") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a json object with `images`, `annotations` and `categories`, got a "
            f"{type(content).__name__}"
        )
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            came = "nothing" if key not in content else f"a {type(entries).__name__}"
            raise UserError(
                f"{path}: not COCO format: expected `{key}` to be a list of objects, got {came}; "
                f"the file's keys are {', '.join(map(repr, content)) or 'none'}"
            )
        if not entries and key != "annotations":
            raise UserError(f"{path}: the list `{key}` is empty")
    _require_unique_ids(content["images"], "image", path)
    _require_unique_ids(content["categories"], "category", path)
    given = [a for a in content["annotations"] if type(a.get("id")) is int]
    _require_unique_ids(given, "annotation", path)
    _check_references(content, path)
    return content


def _require_unique_ids(entries: Sequence[dict[str, Any]], kind: str, path: str) -> None:
    ids = [entry.get("id") for entry in entries]
    for i, value in enumerate(ids):
        if type(value) is not int:
            raise UserError(
                f"{path}: {kind} number {i} of the list: expected an integer `id`, got {value!r}"
            )
    twice = [str(value) for value, n in Counter(ids).items() if n > 1]
    if twice:
        raise UserError(f"{path}: {len(twice)} {kind} ids occur more than once: {name_some(twice)}")


def _check_references(content: dict[str, Any], path: str) -> None:
    for key, plural in (("image_id", "images"), ("category_id", "categories")):
        labels = {e["id"]: e.get("file_name") or e.get("name") for e in content[plural]}
        lost = [
            a for a in content["annotations"] if type(a.get(key)) is not int or a[key] not in labels
        ]
        if not lost:
            continue
        value = lost[0].get(key)
        near = (
            min(labels, key=lambda i: abs(i - value)) if type(value) is int else next(iter(labels))
        )
        raise UserError(
            f"{path}: annotation {lost[0].get('id', 'without id')} has {key} {value!r}, which is "
            f"not in `{plural}` ({len(lost)} annotations are like this); the nearest there is "
            f"{near!r} ({labels[near]})"
        )


def check_image_files(images: list[dict[str, Any]], image_root: str, json_file: str) -> list[int]:
    """Check that the images of a COCO json are there and have the size that it gives.

    Folders are listed once instead of asking for each file. The header of `HEADERS_CHECKED` images,
    evenly spread, is compared with the json; a missing or unusable `width` or `height` is filled
    in, in place. The size meant is the one that detectron2 reads: after the file's EXIF
    orientation.

    Args:
        images: the json's `images`; `file_name` may hold sub-folders.
        image_root: the folder of images.
        json_file: the json's path, for messages.

    Returns:
        The ids of the images whose size was filled in.

    Raises:
        UserError: the folder or files are missing, a file is no image, or its size is another.
    """
    if not os.path.isdir(image_root):
        raise UserError(f"image folder not found: {os.path.abspath(image_root)} (for {json_file})")
    paths = []
    for image in images:
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            raise UserError(f"{json_file}: image {image['id']} has no `file_name`")
        paths.append(os.path.join(image_root, image["file_name"]))
    _require_files(paths, image_root, json_file)

    unsized = {i for i, image in enumerate(images) if not _normalise_size(image)}
    step = -(-len(images) // HEADERS_CHECKED)
    unreadable, contradictions = [], []
    for i in sorted(unsized.union(range(0, len(images), step))):
        try:
            width, height, rotated = _read_size(paths[i])
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            unreadable.append(paths[i])
            continue
        given = (images[i].get("width"), images[i].get("height"))
        if i in unsized:
            images[i].update(width=width, height=height)
        elif given != (width, height):
            exif = ", once turned by its EXIF orientation as detectron2 does" if rotated else ""
            contradictions.append(
                f"image {images[i]['id']} ({images[i]['file_name']}) is {given[0]} x {given[1]} in "
                f"the json, the file is {width} x {height}{exif}"
            )
    if unreadable:
        raise UserError(f"{json_file}: not readable as images: {name_some(unreadable)}")
    if contradictions:
        raise UserError(
            f"{json_file}: sizes (width x height, pixels) contradict the files: "
            f"{name_some(contradictions)}. Annotations must be made on the pixels as they are "
            "read; correct the json or the files."
        )
    return [images[i]["id"] for i in sorted(unsized)]


def _require_files(paths: list[str], image_root: str, json_file: str) -> None:
    listed: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set()
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                listed[folder] = {entry.name for entry in entries if entry.is_file()}
        if name not in listed[folder]:
            missing.append(path)
    if missing:
        there = sorted(os.listdir(image_root))[:3]
        raise UserError(
            f"{json_file}: {len(missing)} of {len(paths)} image files are missing: "
            f"{name_some(missing)}. `file_name` is relative to the folder {image_root}, which "
            f"holds {', '.join(there) + ' ...' if there else 'nothing'}"
        )


def _normalise_size(image: dict[str, Any]) -> bool:
    """Tell whether `width` and `height` (pixels) are usable; make whole floats integers."""
    for key in ("width", "height"):
        value = image.get(key)
        if isinstance(value, float) and value.is_integer():
            value = image[key] = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            return False
    return True


def _read_size(path: str) -> tuple[int, int, bool]:
    """Return width and height in pixels after EXIF orientation, and whether it swapped them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large images and odd EXIF blocks: only the header is read
        with Image.open(path) as image:
            width, height = image.size
            # A PNG without EXIF in its header would be decoded whole to look for it at the end.
            has_exif = image.format != "PNG" or "exif" in image.info
            rotated = has_exif and image.getexif().get(_EXIF_ORIENTATION) in (5, 6, 7, 8)
    return (height, width, True) if rotated else (width, height, False)
