"""LabelMe (wkentaro): a json of shapes next to each image.

Shapes with the same label and `group_id` are the parts of an object. A shape of the type `mask` has
the first and the last pixel of its box, both inside the box, and a PNG of the box. The order of the
classes is in `labels.txt`, the file for the tool's option `--labels`.
"""

import base64
import io
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import UserError, shorten
from ...files import read_json
from ...layers.packed_masks import MaskCrop
from ..coco_json import list_classes
from ..coordinates import is_number
from ..findings import IssueCounter
from ..images import refuse_programs
from .dataset import (
    AnnotatedShape,
    Bools,
    Dataset,
    DatasetBuilder,
    decode_mask,
    iterate,
    sample_ellipse,
)
from .files import flat_names, list_files, read_lines, write_text

__all__ = ["read_labelme", "write_labelme"]

_LABELS = "labels.txt"
_NO_CLASSES = ("__ignore__", "_background_")  # the tool's own lists of labels begin with these
_POINTS = {"polygon": 3, "oriented_rectangle": 4, "rectangle": 2, "circle": 2, "mask": 2}
_AREALESS = ("point", "points", "line", "linestrip")


def read_labelme(source: Path, images: Path | None, notes: IssueCounter) -> Dataset:
    """Read a folder of jsons, with its subfolders, or a single json.

    The images are at `imagePath`, relative to each json, or in `images`, where a path that leads up
    counts as the name of the file alone. Shapes without an area are left out.
    """
    folder = source if source.is_dir() else source.parent
    files = list_files(source, (".json",)) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source}: no json found")
    listed = folder / _LABELS
    classes = [line for _, line in read_lines(listed)] if listed.is_file() else []
    contents = {file: _read_shapes(file) for file in files}
    root = images or _common_folder(contents)
    builder = DatasetBuilder(root, notes, [c for c in classes if c not in _NO_CLASSES])
    for file, content in contents.items():
        name = source_name = content["imagePath"]
        if images is None:
            name = source_name = os.path.relpath(file.parent / name, root)
        elif ".." in (parts := name.replace("\\", "/").split("/")):  # it is relative to the json
            name = parts[-1]
        found = builder.find_images([name], str(file))[name]
        given = (content.get("imageHeight"), content.get("imageWidth"))
        size = given if all(given) else None
        image = builder.add_image(found, str(file), size=size, source=source_name)
        _add_shapes(file, content["shapes"], image, builder)
    return builder.finish(str(source))


def _read_shapes(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise UserError(f"{file}: no LabelMe json: expected an object with the list `shapes`")
    if not isinstance(content.get("imagePath"), str) or not content["imagePath"]:
        raise UserError(f"{file}: expected `imagePath`, the name of the image")
    content["imagePath"] = content["imagePath"].replace("\\", "/")
    return content


def _common_folder(contents: dict[Path, dict[str, Any]]) -> Path:
    """Return the folder that holds all images."""
    paths = [os.path.abspath(file.parent / c["imagePath"]) for file, c in contents.items()]
    return Path(os.path.commonpath([os.path.dirname(path) for path in paths]))


def _add_shapes(
    file: Path, shapes: list[Any], image: dict[str, Any], builder: DatasetBuilder
) -> None:
    """Add the objects of an image; shapes with the same label and group are an object."""
    objects: dict[tuple[str, Any], list[tuple[str, AnnotatedShape]]] = {}
    for number, shape in enumerate(shapes, 1):
        place = f"{file}, shape {number}"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            raise UserError(f"{place}: expected an object with a `label`")
        if shape["label"] in _NO_CLASSES:
            builder.notes.add(f"shape of the label {shape['label']}: left out", place)
            continue
        group = shape.get("group_id")
        if isinstance(group, list | dict):
            raise UserError(f"{place}: `group_id`: expected a number, got {shorten(group)}")
        key = (shape["label"], ("alone", number) if group is None else group)
        part = _read_shape(shape, image, place, builder.notes)
        if part is not None:
            objects.setdefault(key, []).append((place, part))
    for (label, _), found in objects.items():
        builder.add_group(image, label, found)


def _read_shape(
    shape: dict[str, Any], image: dict[str, Any], place: str, notes: IssueCounter
) -> AnnotatedShape | None:
    """Return a shape; None if it has no area."""
    kind = shape.get("shape_type") or "polygon"
    if kind in _AREALESS:
        notes.add(f"shape of the type {kind}: left out", place)
        return None
    if not isinstance(kind, str) or kind not in _POINTS:
        raise UserError(f"{place}: unknown shape_type {shorten(repr(kind))}")
    points = shape.get("points")
    pairs = isinstance(points, list) and all(
        isinstance(p, list) and len(p) == 2 and all(map(is_number, p)) for p in points
    )
    if not pairs or not points:
        raise UserError(f"{place}: `points`: expected a list of [x, y], got {shorten(points)}")
    if len(points) < _POINTS[kind]:
        notes.add(f"{kind} with fewer than {_POINTS[kind]} points: left out", place)
        return None
    if kind == "mask":
        return _read_mask(shape, points, image, place)
    if kind == "rectangle":
        low, high = np.min(points, axis=0), np.max(points, axis=0)
        return (*low.tolist(), *(high - low).tolist())
    if kind == "circle":
        radius = math.dist(points[0], points[1])
        return sample_ellipse(tuple(points[0]), (radius, radius))
    return [float(v) for point in points for v in point]


def _read_mask(
    shape: dict[str, Any], points: list[Any], image: dict[str, Any], place: str
) -> Bools:
    try:
        raw = base64.b64decode(shape["mask"], validate=True)
        with Image.open(io.BytesIO(raw)) as picture:
            refuse_programs(picture)
            crop = np.asarray(picture) != 0
    except (KeyError, TypeError, ValueError, OSError, SyntaxError) as error:
        raise UserError(f"{place}: `mask`: expected a PNG in base64") from error
    left, top = (int(v) for v in points[0])
    full = np.zeros((image["height"], image["width"]), dtype=bool)
    height, width = crop.shape[:2]
    inside = left >= 0 and top >= 0 and top + height <= len(full) and left + width <= len(full[0])
    if crop.ndim != 2 or not inside:
        raise UserError(
            f"{place}: a mask of {width} x {height} pixels at x {left}, y {top} does not fit into "
            f"the image of {image['width']} x {image['height']}"
        )
    full[top : top + height, left : left + width] = crop
    return full


def write_labelme(dataset: Dataset, folder: Path, notes: IssueCounter) -> None:
    """Write a json for each image and `labels.txt`; images stay in place.

    Each split gets a folder. `imagePath` is relative to the folder of the json. LabelMe holds no
    crowds.
    """
    for split, content in dataset.splits.items():
        classes = list_classes(content)
        labels = [*_NO_CLASSES, *classes.values()]
        target = folder / split
        write_text(target / _LABELS, "".join(f"{label}\n" for label in labels))
        names = flat_names(content)
        for image, annotations in iterate(content, notes):
            path = os.path.join(dataset.image_root, image["file_name"])
            written = {
                "version": "5.5.0",
                "flags": {},
                "shapes": list(_make_shapes(image, annotations, classes)),
                "imagePath": os.path.relpath(path, target).replace(os.sep, "/"),
                "imageData": None,
                "imageHeight": image["height"],
                "imageWidth": image["width"],
            }
            text = json.dumps(written, indent=2, ensure_ascii=False)
            write_text(target / f"{Path(names[image['id']]).stem}.json", text)


def _make_shapes(
    image: dict[str, Any], annotations: list[dict[str, Any]], classes: dict[int, str]
) -> Iterator[dict[str, Any]]:
    """Yield the shapes of an image; the parts of an object share a `group_id`."""
    for number, annotation in enumerate(annotations, 1):
        shape: dict[str, Any] = {"label": classes[annotation["category_id"]], "group_id": None}
        rest: dict[str, Any] = {"description": "", "flags": {}, "mask": None}
        segmentation = annotation.get("segmentation")
        if not segmentation:
            x, y, w, h = annotation["bbox"]
            corners = [[x, y], [x + w, y + h]]
            yield {**shape, "points": corners, "shape_type": "rectangle", **rest}
        elif isinstance(segmentation, list):
            if len(segmentation) > 1:
                shape["group_id"] = number
            for part in segmentation:
                points = np.reshape(part, (-1, 2)).tolist()
                yield {**shape, "points": points, "shape_type": "polygon", **rest}
        else:
            mask = decode_mask(annotation, image["height"], image["width"])
            top, left, crop = MaskCrop(0, 0, mask).trim()
            png = io.BytesIO()
            Image.fromarray(crop.astype(np.uint8)).save(png, "PNG")
            rest["mask"] = base64.b64encode(png.getvalue()).decode("ascii")
            corners = [[left, top], [left + crop.shape[1] - 1, top + crop.shape[0] - 1]]
            yield {**shape, "points": corners, "shape_type": "mask", **rest}
