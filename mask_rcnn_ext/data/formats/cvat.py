"""CVAT for images 1.1: a single xml with the shapes of all images.

The runs of a `mask` go along the rows of its box and alternate between background and mask,
background first. Shapes with the same label and `group_id` are the parts of an object, as in CVAT's
own COCO export.
"""

import math
import os
import xml.etree.ElementTree as ET
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...layers.packed_masks import MaskCrop
from ..coco_json import list_classes
from ..findings import IssueCounter
from ..images import IMAGE_SUFFIXES
from .dataset import (
    AnnotatedShape,
    Dataset,
    DatasetBuilder,
    decode_mask,
    iterate,
    name_split,
    sample_ellipse,
    turn_box,
)
from .files import read_xml, write_text

__all__ = ["read_cvat", "write_cvat"]

_XML = "annotations.xml"
_NO_SUBSET = "default"  # CVAT's own name for it
_AREALESS = ("polyline", "points", "tag", "skeleton", "cuboid")


def read_cvat(source: Path, images: Path | None, notes: IssueCounter) -> Dataset:
    """Read an export: the folder that holds `annotations.xml`, or an xml.

    The images are in the folder `images` next to the xml, or in `images`.
    """
    path = source / _XML if source.is_dir() else source
    root = _parse(path)
    labels = [
        label.findtext("name") or ""
        for label in root.iterfind("./meta/*/labels/label")
        if not label.findtext("parent")  # a point of a skeleton
    ]
    entries = root.findall("image")
    if not entries:
        raise UserError(f"{path}: no image is listed")
    builder = DatasetBuilder(images or path.parent / "images", notes, list(dict.fromkeys(labels)))
    names = [_get(entry, "name", str(path)) for entry in entries]
    subsets = {entry.get("subset", "") for entry in entries}
    files = _find_images(builder, entries, names, path)
    for entry, name, file in zip(entries, names, files, strict=True):
        place = f"{path}, image {name}"
        size = (_number(entry, "height", place), _number(entry, "width", place))
        subset = entry.get("subset") or _NO_SUBSET
        split = name_split(subset) if len(subsets) > 1 else ""
        own = f"{subset}/{name}"
        image = builder.add_image(file, place, split=split, size=size, source=own)
        _add_shapes(entry, image, place, builder)
    return builder.finish(str(path))


def _parse(path: Path) -> ET.Element:
    root = read_xml(path)
    if root.tag != "annotations":
        raise UserError(f"{path}: expected the element `annotations`, got `{root.tag}`")
    if root.find("track") is not None:
        raise UserError(f"{path}: tracks of a video. Export the task as CVAT for images 1.1")
    return root


def _find_images(
    builder: DatasetBuilder, entries: list[ET.Element], names: list[str], path: Path
) -> list[str]:
    """Return the file of each image; an export of a project has a folder for each subset."""
    moved = [
        _find_image(builder.image_root, f"{entry.get('subset')}/{name}", name)
        for entry, name in zip(entries, names, strict=True)
    ]
    found = builder.find_images(moved, str(path))
    return [found[name] for name in moved]


def _find_image(root: str, inside: str, name: str) -> str:
    """Return the first of the two names that is a file, or the second.

    A frame of a video has a name without an ending: `frame_000000`, of `frame_000000.PNG`.
    """
    ends = [""]
    if not name.lower().endswith(IMAGE_SUFFIXES):
        ends += [end for suffix in IMAGE_SUFFIXES for end in (suffix, suffix.upper())]
    tried = (start + end for end in ends for start in (inside, name))
    return next((n for n in tried if os.path.isfile(os.path.join(root, n))), name)


def _get(element: ET.Element, key: str, place: str) -> str:
    value = element.get(key)
    if value is None:
        raise UserError(f"{place}: <{element.tag}> has no `{key}`")
    return value


def _number(element: ET.Element, key: str, place: str, default: float | None = None) -> float:
    text = _get(element, key, place) if default is None else element.get(key, str(default))
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{place}: `{key}`: expected a number, got {text[:40]!r}")
    return number


def _add_shapes(
    entry: ET.Element, image: dict[str, Any], where: str, builder: DatasetBuilder
) -> None:
    """Add the objects of an image; shapes with the same label and group are an object."""
    objects: dict[tuple[str, Any], list[tuple[str, ET.Element]]] = {}
    for number, shape in enumerate(entry, 1):
        place = f"{where}, shape {number} ({shape.tag})"
        if shape.tag in _AREALESS:
            builder.notes.add(f"{shape.tag}: left out", place)
            continue
        label = _get(shape, "label", place)
        group = int(_number(shape, "group_id", place, 0)) or ("alone", number)
        objects.setdefault((label, group), []).append((place, shape))
    # A mask is as large as the image, so the shapes are read group by group.
    for (label, _), found in objects.items():
        drawn = [(place, shape) for place, shape in found if shape.tag != "box"]
        for place, shape in found if drawn else ():
            if shape.tag == "box":  # datumaro writes the box of each mask next to it
                builder.notes.add("box in a group with masks: left out", place)
        shapes = [(place, _read_shape(shape, image, place)) for place, shape in drawn or found]
        builder.add_group(image, label, shapes)


def _read_shape(shape: ET.Element, image: dict[str, Any], place: str) -> AnnotatedShape:
    if shape.tag == "box":  # it may be turned about its centre
        left, top, right, bottom = (_number(shape, k, place) for k in ("xtl", "ytl", "xbr", "ybr"))
        if right < left or bottom < top:  # a box without an area
            return (left, top, right - left, bottom - top)
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        return turn_box(corners, np.mean(corners, axis=0), _number(shape, "rotation", place, 0))
    if shape.tag == "polygon":
        text = _get(shape, "points", place)
        try:
            pairs = [point.split(",") for point in text.split(";") if point.strip()]
            return [float(v) for x, y in pairs for v in (x, y)]
        except ValueError as error:
            raise UserError(
                f"{place}: `points`: expected x,y;x,y;..., got {text[:60]!r}"
            ) from error
    if shape.tag == "ellipse":
        cx, cy, rx, ry = (_number(shape, key, place) for key in ("cx", "cy", "rx", "ry"))
        return sample_ellipse((cx, cy), (rx, ry), _number(shape, "rotation", place, 0))
    if shape.tag != "mask":
        raise UserError(f"{place}: unknown shape <{shape.tag}>")
    keys = ("left", "top", "width", "height")
    left, top, width, height = (int(_number(shape, key, place)) for key in keys)
    try:
        runs = [int(run) for run in _get(shape, "rle", place).split(",")]
    except ValueError as error:
        raise UserError(f"{place}: `rle`: expected whole numbers") from error
    full = np.zeros((image["height"], image["width"]), dtype=bool)
    inside = min(left, top, width, height) >= 0
    inside = inside and top + height <= len(full) and left + width <= len(full[0])
    # Python's sum: in NumPy's, huge runs could overflow to the right number.
    if not inside or min(runs) < 0 or sum(runs) != width * height:
        raise UserError(
            f"{place}: the runs cover {sum(runs)} pixels of a box of {width} x {height} at x "
            f"{left}, y {top}, the image is {image['width']} x {image['height']}"
        )
    values = np.arange(len(runs)) % 2 == 1
    full[top : top + height, left : left + width] = np.repeat(values, runs).reshape(height, width)
    return full


def write_cvat(dataset: Dataset, folder: Path, notes: IssueCounter) -> None:
    """Write `annotations.xml`; images stay in place, splits become subsets.

    CVAT holds no crowds.
    """
    root = ET.Element("annotations")
    ET.SubElement(root, "version").text = "1.1"
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    labels = ET.SubElement(task, "labels")
    for name in list_classes(next(iter(dataset.splits.values()))).values():
        label = ET.SubElement(labels, "label")
        for tag, text in (("name", name), ("type", "any"), ("attributes", "")):
            ET.SubElement(label, tag).text = text
    number = 0
    for split, content in dataset.splits.items():
        classes = list_classes(content)
        for image, annotations in iterate(content, notes):
            keys = {"id": str(number), "name": image["file_name"]}
            number += 1
            if split:
                keys["subset"] = split
            keys |= {"width": str(image["width"]), "height": str(image["height"])}
            entry = ET.SubElement(root, "image", keys)
            for group, annotation in enumerate(annotations, 1):
                _write_shapes(entry, image, annotation, classes[annotation["category_id"]], group)
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    write_text(folder / _XML, f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n')


def _write_shapes(
    entry: ET.Element, image: dict[str, Any], annotation: dict[str, Any], label: str, group: int
) -> None:
    keys = {"label": label, "source": "manual", "occluded": "0"}
    segmentation = annotation.get("segmentation")
    if not segmentation:
        x, y, w, h = annotation["bbox"]
        corners = {"xtl": x, "ytl": y, "xbr": x + w, "ybr": y + h}
        written = {key: f"{value:.10g}" for key, value in corners.items()}
        ET.SubElement(entry, "box", {**keys, **written, "z_order": "0"})
    elif isinstance(segmentation, list):
        if len(segmentation) > 1:
            keys["group_id"] = str(group)
        for part in segmentation:
            pairs = zip(part[0::2], part[1::2], strict=True)
            points = ";".join(f"{x:.10g},{y:.10g}" for x, y in pairs)
            ET.SubElement(entry, "polygon", {**keys, "points": points, "z_order": "0"})
    else:
        mask = decode_mask(annotation, image["height"], image["width"])
        top, left, crop = MaskCrop(0, 0, mask).trim()
        runs = [len(list(run)) for _, run in groupby(crop.ravel().tolist())]
        runs = [0, *runs] if crop.ravel()[0] else runs
        box = {"left": left, "top": top, "width": crop.shape[1], "height": crop.shape[0]}
        rle = {"rle": ", ".join(map(str, runs)), **{k: str(v) for k, v in box.items()}}
        ET.SubElement(entry, "mask", {**keys, **rle, "z_order": "0"})
