"""Reads a COCO-format json and checks it: ids, references, image files, annotations."""

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import UserError, name_some, nearest
from ..files import read_json
from .annotations import IssueCounter, clean_annotations, complete_ids
from .images import read_header

__all__ = [
    "HEADERS_CHECKED",
    "CocoJson",
    "check_coco_json",
    "check_image_files",
    "read_categories",
    "read_coco_json",
]

HEADERS_CHECKED = 2000  # images whose header is compared with the json, evenly spread over the file

logger = logging.getLogger(__name__)


@dataclass
class CocoJson:
    """A checked COCO json.

    Attributes:
        path: the file that was read.
        content: the json object, cleaned so that detectron2 and pycocotools can read all of it.
        changed: `content` differs from the file, so that the file itself cannot be used.
        polygons: every instance that is not a crowd has polygons.
    """

    path: str
    content: dict[str, Any]
    changed: bool
    polygons: bool


def check_coco_json(
    json_file: str,
    image_root: str,
    *,
    strict: bool = False,
    masks: bool = True,
    allow_empty: bool = False,
) -> CocoJson:
    """Read a COCO-format json, check it against its images, and clean its annotations.

    A malformed annotation (degenerate box, empty or wrong mask, no box and no mask) is dropped, and
    a warning counts the dropped annotations by reason. Boxes that stick out of the image are
    clipped; missing `area`, `bbox`, `id`, `iscrowd`, `width` and `height` are filled in; `ignore`
    becomes `iscrowd`. The log also counts these changes.

    Args:
        json_file: path of the json.
        image_root: folder of the images.
        strict: raise an error for a malformed annotation instead of dropping it.
        masks: treat an instance without a segmentation as malformed. If off, it is kept, and a
            missing `area` is the area of its box.
        allow_empty: accept a file without annotations, as validation data may be.

    Returns:
        The checked file.

    Raises:
        UserError: the file is not COCO format, or contradicts itself or the images; images are
            missing; no instance is left; or, with `strict`, an annotation is malformed.
    """
    content = read_coco_json(json_file)
    read_categories(content, json_file)
    completed, dropped = IssueCounter(), IssueCounter()
    for image_id in check_image_files(content["images"], image_root, json_file):
        completed.add("image size read from the file", image_id)
    complete_ids(content["annotations"], completed)
    total = len(content["annotations"])
    folders = (os.path.dirname(os.path.abspath(json_file)), image_root)
    kept, missing = clean_annotations(content, folders, strict, masks, completed, dropped)
    if missing:
        raise UserError(
            f"{json_file}: {len(missing)} mask files are missing: {name_some(missing)}; "
            f"looked for in {folders[0]} and {folders[1]}"
        )
    malformed = f"{dropped.total} of {total} annotations: {dropped}"
    if "no segmentation" in dropped.issues and masks:
        malformed += ". A model without masks, MODEL.MASK_ON False, needs only their boxes"
    if dropped.issues and strict:
        raise UserError(f"{json_file}: malformed {malformed}. Fix them, or leave out --strict-data")
    if not any(not a["iscrowd"] for a in kept) and ((total and not kept) or not allow_empty):
        why = f"; malformed: {malformed}" if dropped.issues else ""
        raise UserError(f"{json_file}: no instance to learn from or to compare with{why}")
    if dropped.issues:
        logger.warning("%s: dropped %s", json_file, malformed)
    if completed.issues:
        logger.info("%s: completed %s", json_file, completed)
    # Some releases of pycocotools cannot load results for a file without `info`.
    changed = bool(dropped.issues or completed.issues) or "info" not in content
    content.setdefault("info", {})
    content["annotations"] = kept
    polygons = all(a["iscrowd"] or isinstance(a.get("segmentation", []), list) for a in kept)
    return CocoJson(json_file, content, changed, polygons)


def read_categories(content: dict[str, Any], path: str) -> dict[int, str]:
    """Return the categories of a COCO json, id -> name, sorted by id.

    Raises:
        UserError: a name is missing or occurs twice.
    """
    categories = content["categories"]
    for category in categories:
        if not isinstance(category.get("name"), str) or not category["name"]:
            raise UserError(f"{path}: category {category['id']} has no `name`")
    table = {c["id"]: c["name"] for c in sorted(categories, key=lambda c: c["id"])}
    repeated = [name for name, n in Counter(table.values()).items() if n > 1]
    if repeated:
        ids = ", ".join(str(i) for i, name in table.items() if name == repeated[0])
        raise UserError(f"{path}: the categories {ids} have the same name {repeated[0]!r}")
    return table


def read_coco_json(path: str) -> dict[str, Any]:
    """Read a COCO json and check that `images`, `annotations` and `categories` fit each other.

    Returns:
        The json object.

    Raises:
        UserError: the file is missing, unreadable, not json or not COCO format; ids are not unique
            integers; or an annotation refers to an image or a category that is not listed.
    """
    if not os.path.exists(path):
        folder, name = os.path.split(os.path.abspath(path))
        hint = nearest(name, os.listdir(folder)) if os.path.isdir(folder) else ""
        raise UserError(f"json file not found: {os.path.join(folder, name)}{hint}")
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path}: expected a json object with `images`, `annotations` and `categories`, got a "
            f"{type(content).__name__}"
        )
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            got = "nothing" if key not in content else f"a {type(entries).__name__}"
            raise UserError(
                f"{path}: not COCO format: expected `{key}` to be a list of objects, got {got}; "
                f"the file's keys are {', '.join(map(repr, content)) or 'none'}"
            )
        if not entries and key != "annotations":
            raise UserError(f"{path}: the list `{key}` is empty")
    _require_unique_ids(content["images"], "image", path)
    _require_unique_ids(content["categories"], "category", path)
    # An annotation may lack an id, `complete_ids` gives it one.
    with_id = [a for a in content["annotations"] if type(a.get("id")) is int]
    _require_unique_ids(with_id, "annotation", path)
    _check_references(content, path)
    return content


def _require_unique_ids(entries: Sequence[dict[str, Any]], kind: str, path: str) -> None:
    ids = [entry.get("id") for entry in entries]
    for i, value in enumerate(ids):
        if type(value) is not int:
            raise UserError(
                f"{path}: {kind} number {i} of the list: expected an integer `id`, got {value!r}"
            )
    repeated = [str(value) for value, n in Counter(ids).items() if n > 1]
    if repeated:
        raise UserError(
            f"{path}: {len(repeated)} {kind} ids occur more than once: {name_some(repeated)}"
        )


def _check_references(content: dict[str, Any], path: str) -> None:
    """Raise if an annotation refers to an image or a category that is not listed."""
    for key, plural in (("image_id", "images"), ("category_id", "categories")):
        names = {e["id"]: e.get("file_name") or e.get("name") for e in content[plural]}
        unknown = [
            a for a in content["annotations"] if type(a.get(key)) is not int or a[key] not in names
        ]
        if not unknown:
            continue
        value = unknown[0].get(key)
        closest = (
            min(names, key=lambda i: abs(i - value)) if type(value) is int else next(iter(names))
        )
        raise UserError(
            f"{path}: annotation {unknown[0].get('id', 'without id')} has {key} {value!r}, which "
            f"is not in `{plural}`; the nearest id there is {closest!r} ({names[closest]}). "
            f"{len(unknown)} annotations have an unknown {key}"
        )


def check_image_files(images: list[dict[str, Any]], image_root: str, json_file: str) -> list[int]:
    """Check that the image files exist and have the sizes that a COCO json gives.

    The headers of `HEADERS_CHECKED` images, evenly spread, are compared with the json. A missing or
    unusable `width` or `height` is filled in, in place. Sizes are after EXIF orientation, as
    detectron2 reads images.

    Args:
        images: the `images` of the json; `file_name` may contain sub-folders.
        image_root: the folder of the images.
        json_file: the path of the json, for error messages.

    Returns:
        The ids of the images whose size was filled in.

    Raises:
        UserError: the folder or a file is missing, a file is not a readable image (see
            `read_header`), or it has another size.
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
    unreadable, contradictions, in_parts = [], [], []
    for i in sorted(unsized.union(range(0, len(images), step))):
        try:
            header = read_header(paths[i])
        except UserError as error:
            unreadable.append((images[i]["file_name"], str(error)))
            continue
        width, height = header.width, header.height
        if header.frames > 1:
            in_parts.append(f"{images[i]['file_name']} ({header.frames})")
        given = (images[i].get("width"), images[i].get("height"))
        if i in unsized:
            images[i].update(width=width, height=height)
        elif given != (width, height):
            exif = ", after its EXIF orientation" if header.rotated else ""
            contradictions.append(
                f"image {images[i]['id']} ({images[i]['file_name']}) is {given[0]} x {given[1]} in "
                f"the json, the file is {width} x {height}{exif}"
            )
    if unreadable:
        others = [name for name, _ in unreadable[1:]]
        also = f". The others: {name_some(others)}" if others else ""
        raise UserError(
            f"{json_file}: {len(unreadable)} of its image files cannot be used: {unreadable[0][1]}"
            f"{also}"
        )
    if contradictions:
        raise UserError(
            f"{json_file}: sizes (width x height, pixels) contradict the files: "
            f"{name_some(contradictions)}. Correct the json or the files: annotations must fit "
            "the pixels as they are read"
        )
    if in_parts:
        logger.warning(
            "%s: only the first of several frames or pages is read of %s",
            json_file,
            name_some(in_parts),
        )
    return [images[i]["id"] for i in sorted(unsized)]


def _require_files(paths: list[str], image_root: str, json_file: str) -> None:
    """Raise if an image file is missing; each folder is listed only once."""
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
        names = sorted(os.listdir(image_root))[:3]
        raise UserError(
            f"{json_file}: {len(missing)} of {len(paths)} image files are missing: "
            f"{name_some(missing)}. `file_name` is relative to the folder {image_root}, which "
            f"holds {', '.join(names) + ' ...' if names else 'nothing'}"
        )


def _normalise_size(image: dict[str, Any]) -> bool:
    """Return whether `width` and `height` are usable; turn floats like 40.0 into integers."""
    for key in ("width", "height"):
        value = image.get(key)
        if isinstance(value, float) and value.is_integer():
            value = image[key] = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            return False
    return True
