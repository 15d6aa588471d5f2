"""Label Studio's json: a list of tasks, with coordinates in percent of the image.

A brush mask is the RLE of an image with four channels; the fourth channel is the mask. The export
lacks the order of the classes. It is read from `label_config.xml` next to the json, if this exists.
"""

import json
import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

import numpy as np

from ...errors import UserError, name_some, shorten
from ...files import read_json
from ..coco_json import list_classes
from ..coordinates import is_number
from ..findings import IssueCounter
from ..images import IMAGE_SUFFIXES, is_hidden
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
from .label_studio_rle import decode_brush, encode_brush

__all__ = ["read_label_studio", "write_label_studio"]

_CONFIG = "label_config.xml"
_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # Label Studio puts it in front of the name of an upload
_UPLOAD = re.compile(r"/data/upload/.+")
_SCALAR = str | int | float | None  # all in a json that a dictionary can have as a key
_KINDS = ("polygon", "brush", "ellipse", "rectangle")


def read_label_studio(source: Path, images: Path | None, notes: IssueCounter) -> Dataset:
    """Read an export in the format JSON, or a folder that holds one, or one for each split.

    The images are in the folder `images` next to the json, or in `images`. If a task has several
    annotations, the ground truth is read, else the annotation that was updated last. Skipped tasks
    and tasks without an annotation are left out.
    """
    files = _find_files(source)
    folder = source if source.is_dir() else source.parent
    classes = dict.fromkeys(name for path in files.values() for name in _read_classes(path))
    builder = DatasetBuilder(images or folder / "images", notes, list(classes))
    for split, path in files.items():
        _read_tasks(path, split, builder)
    return builder.finish(str(source))


def _find_files(source: Path) -> dict[str, Path]:
    """Return the json of each split; the name is "" if there are no splits."""
    if not source.is_dir():
        return {"": source}
    inside = [path for path in sorted(source.glob("*.json")) if not is_hidden(path)]
    if len(inside) == 1:
        return {"": inside[0]}
    splits = {} if inside else {p.parent.name: p for p in sorted(source.glob("*/tasks.json"))}
    if not splits:
        found = name_some([path.name for path in inside], 3) or "none"
        raise UserError(f"{source}: expected the json of an export in this folder, found {found}")
    files: dict[str, Path] = {}
    for name, path in splits.items():
        split = name_split(name)
        if split in files:
            raise UserError(f"{files[split]} and {path} are both of the split {split}: join them")
        files[split] = path
    return files


def _read_tasks(source: Path, split: str, builder: DatasetBuilder) -> None:
    """Add the images and regions of a json."""
    tasks = read_json(source)
    if not isinstance(tasks, list) or not all(isinstance(t, dict) and "data" in t for t in tasks):
        raise UserError(
            f"{source}: expected a list of tasks with `data` and `annotations`: Label Studio's "
            "export JSON (not JSON-MIN)"
        )
    for number, task in enumerate(tasks, 1):
        place = f"{source}, task {task.get('id', number)}"
        annotation = _choose_annotation(task, place, builder.notes)
        if annotation is None:
            continue
        regions = _join_regions(annotation.get("result") or [], place)
        data = _expect(dict, task["data"], "`data`: expected an object", place)
        name, address = _find_image(data, builder, place)
        sizes = {(r.get("original_height"), r.get("original_width")) for r in regions}
        sizes.discard((None, None))
        size = next(iter(sizes)) if sizes else None
        image = builder.add_image(name, place, split=split, size=size, source=address)
        for region in regions:
            _add_region(region, image, f"{place}, region {region.get('id')}", builder)


def _expect(kind: Any, value: Any, expected: str, place: str) -> Any:
    """Return a value of the json if it is of `kind`; `expected` begins the message for others."""
    if not isinstance(value, kind):
        raise UserError(f"{place}: {expected}, got {shorten(value)}")
    return value


def _read_classes(source: Path) -> list[str]:
    """Return the labels of `label_config.xml`, in their order; none without the file.

    If a label has an `alias`, this is its name in the export.
    """
    path = source.parent / _CONFIG
    if not path.is_file():
        return []
    labels = read_xml(path).iter("Label")
    return list(dict.fromkeys(label.get("alias", "") or label.get("value", "") for label in labels))


def _choose_annotation(task: dict[str, Any], place: str, notes: IssueCounter) -> Any:
    given = task.get("annotations", task.get("completions")) or []
    _expect(list, given, "`annotations`: expected a list", place)
    annotations = [a for a in given if isinstance(a, dict)]
    kept = [a for a in annotations if not a.get("was_cancelled") and not a.get("skipped")]
    if not kept:
        why = "skipped task" if annotations else "task without an annotation"
        notes.add(f"{why}: left out", place)
        return None
    if len(kept) > 1:
        notes.add("task with several annotations: only one is read", place)
    return max(kept, key=lambda a: (bool(a.get("ground_truth")), str(a.get("updated_at") or "")))


def _join_regions(results: Any, place: str) -> list[dict[str, Any]]:
    """Return the regions; results with the same id are the shape and the label of a region."""
    regions: dict[Any, dict[str, Any]] = {}
    for number, result in enumerate(_expect(list, results, "`result`: expected a list", place)):
        _expect(dict, result, "`result`: expected objects", place)
        for key in ("id", "type", "original_width", "original_height"):
            _expect(_SCALAR, result.get(key), f"`{key}`: expected a text or a number", place)
        value = result.get("value") or {}
        region = regions.setdefault(result.get("id", number), {"value": {}, "types": set()})
        region["types"].add(result.get("type"))
        region["value"].update(_expect(dict, value, "`value`: expected an object", place))
        region.update({k: v for k, v in result.items() if k not in ("value", "type")})
    return list(regions.values())


def _find_image(data: dict[str, Any], builder: DatasetBuilder, place: str) -> tuple[str, str]:
    """Return the file of a task, found by its whole name or by the name before the upload.

    Its address is the second value, without a query that may differ each time, and for an upload
    without the host.
    """
    texts = [t for t in data.values() if isinstance(t, str)]
    named = [t for t in texts if _split(t).path.lower().endswith(IMAGE_SUFFIXES) or "?d=" in t]
    first = [t for t in texts if t and t == data.get("image")]
    given = next((t for t in first + named if not t.startswith("data:")), None)
    if given is None and any(t.startswith("data:") for t in texts):
        raise UserError(
            f"{place}: `data` holds an image itself, expected the name of a file. Save the image "
            "as a file, and put its name there"
        )
    if given is None:
        raise UserError(f"{place}: `data` names no image")
    url = _split(given)
    query = parse_qs(url.query).get("d")
    upload = _UPLOAD.search(f"/{unquote(url.path)}")
    own = query or (upload and [upload[0]])  # the server's name of the file, the same on each host
    address = own[0] if own else url._replace(query="", fragment="").geturl()
    path = (query[0] if query else unquote(url.path)).replace("\\", "/").lstrip("/")
    last = path.rpartition("/")[2]
    for name in (path, last, _PREFIX.sub("", last)):
        if os.path.isfile(os.path.join(builder.image_root, name)):
            return name, address
    name = path if query else last
    return builder.find_images([name], place)[name], address


def _split(address: str) -> SplitResult:
    """Return the parts of an address; one that is no URL is a path."""
    try:
        return urlsplit(address)
    except ValueError:
        return SplitResult("", "", address, "", "")


def _add_region(
    region: dict[str, Any], image: dict[str, Any], place: str, builder: DatasetBuilder
) -> None:
    value, notes = region["value"], builder.notes
    kind = next((k for k in _KINDS if region["types"] & {k, f"{k}labels"}), None)
    if kind is None:
        types = ", ".join(sorted(str(t) for t in region["types"]))
        notes.add(f"region of the type {types}: left out", place)
        return
    keys = (f"{kind}labels", "labels", "brushlabels", "polygonlabels")
    labels = next((value[key] for key in keys if value.get(key)), None)
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        notes.add("region without a label: left out", place)
        return
    if len(labels) > 1:
        notes.add("region with several labels: only the first is read", place)
    if region.get("image_rotation"):
        raise UserError(
            f"{place}: the image was turned by {region['image_rotation']} degrees in "
            "Label Studio. Turn the image file, and draw the region again"
        )
    size = np.array([image["width"], image["height"]]) / 100
    shape = _read_shape(kind, value, image, size, place)
    builder.add_group(image, labels[0], [(place, shape)])


def _numbers(value: dict[str, Any], keys: tuple[str, ...], place: str) -> np.ndarray:
    wrong = [key for key in keys if not is_number(value.get(key))]
    if wrong:
        raise UserError(f"{place}: `{wrong[0]}`: expected a number, got {value.get(wrong[0])!r}")
    return np.array([value[key] for key in keys], dtype=np.float64)


def _read_shape(
    kind: str, value: dict[str, Any], image: dict[str, Any], size: np.ndarray, place: str
) -> AnnotatedShape:
    """Return the shape of a region; of a rectangle, which may be turned, the upright box."""
    if kind in ("rectangle", "ellipse"):
        start = _numbers(value, ("x", "y"), place) * size
        (angle,) = _numbers({"rotation": value.get("rotation") or 0}, ("rotation",), place)
        if kind == "ellipse":
            radii = _numbers(value, ("radiusX", "radiusY"), place) * size
            return sample_ellipse((start[0], start[1]), (radii[0], radii[1]), angle)
        sides = _numbers(value, ("width", "height"), place) * size
        corners = start + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * sides
        return turn_box(corners, start, angle)  # it is turned about its first corner
    if kind == "polygon":
        points = value.get("points")
        try:
            pixels = np.asarray(points, dtype=np.float64).reshape(-1, 2) * size
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{place}: `points`: expected a list of [x, y] in percent") from error
        return [float(v) for v in pixels.ravel()]
    try:
        return decode_brush(value.get("rle"), image["height"], image["width"])
    except ValueError as error:
        raise UserError(f"{place}: `rle`: {error}") from error


def write_label_studio(dataset: Dataset, folder: Path, notes: IssueCounter) -> None:
    """Write `tasks.json` and `label_config.xml` into a folder, or into one for each split.

    Each image has the address of a file in Label Studio's local storage, which serves the folder of
    the images. Label Studio holds no crowds.
    """
    for split, content in dataset.splits.items():
        classes, tasks = list_classes(content), []
        for image, annotations in iterate(content, notes):
            results = list(_make_results(image, annotations, classes))
            address = f"/data/local-files/?d={quote(image['file_name'])}"
            tasks.append({"data": {"image": address}, "annotations": [{"result": results}]})
        write_text(folder / split / "tasks.json", json.dumps(tasks, ensure_ascii=False))
        write_text(folder / split / _CONFIG, _make_config(classes.values()))


def _make_config(names: Iterable[str]) -> str:
    """Return the xml of a labelling interface with the kinds of regions of `_make_results`."""
    view = ET.Element("View")
    ET.SubElement(view, "Image", {"name": "image", "value": "$image"})
    for kind in ("polygon", "brush", "rectangle"):
        tag = f"{kind.capitalize()}Labels"
        labels = ET.SubElement(view, tag, {"name": kind, "toName": "image"})
        for name in names:
            ET.SubElement(labels, "Label", {"value": name})
    ET.indent(view)
    return ET.tostring(view, encoding="unicode") + "\n"


def _make_results(
    image: dict[str, Any], annotations: list[dict[str, Any]], classes: dict[int, str]
) -> Iterator[dict[str, Any]]:
    """Yield a region for each object: a polygon, or a brush mask for other masks."""
    height, width = image["height"], image["width"]
    size = np.array([width, height]) / 100
    for annotation in annotations:
        segmentation = annotation.get("segmentation")
        if not segmentation:
            kind, box = "rectangle", np.reshape(annotation["bbox"], (2, 2)) / size
            (x, y), (w, h) = box.tolist()
            value: dict[str, Any] = {"x": x, "y": y, "width": w, "height": h}
        elif isinstance(segmentation, list) and len(segmentation) == 1:
            kind, points = "polygon", np.reshape(segmentation[0], (-1, 2)) / size
            value = {"points": points.tolist(), "closed": True}
        else:
            kind = "brush"
            runs = encode_brush(decode_mask(annotation, height, width))
            value = {"format": "rle", "rle": runs}
        yield {
            "id": f"object{annotation['id']}",
            "type": f"{kind}labels",
            "from_name": kind,
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {**value, f"{kind}labels": [classes[annotation["category_id"]]]},
        }
