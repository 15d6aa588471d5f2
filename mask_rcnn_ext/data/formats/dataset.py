"""The form of a data set during a conversion: a COCO json for each split, and the images."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_util
from scipy.ndimage import find_objects

from ...arrays import Bools
from ...errors import UserError, count_noun, name_some, nearest, shorten
from ...layers.rle import check_mask, compress, encode_edges, encode_mask, find_edges
from ..annotations import clean_annotations
from ..coco_images import find_image_files
from ..findings import IssueCounter
from ..images import read_header

__all__ = [
    "IMAGES_ELSEWHERE",
    "SPLITS",
    "AnnotatedShape",
    "Bools",
    "Dataset",
    "DatasetBuilder",
    "Ids",
    "cut_objects",
    "decode_mask",
    "iterate",
    "name_split",
    "sample_ellipse",
    "turn_box",
]

Ids = npt.NDArray[np.int64]
# A polygon x, y, x, y, ... in pixels, a mask (H, W), or a mask as RLE.
MaskPart = list[float] | Bools | dict[str, Any]
Box = tuple[float, ...]  # x, y, width, height; pixels
AnnotatedShape = MaskPart | Box

IMAGES_ELSEWHERE = "If the images are in another folder, give it with --images"
SPLITS = ("train", "val", "test")  # that yolo and voc read, under any of their names

_DECIMALS = 4  # of a pixel; coordinates from fractions and percentages are rounded
_ELLIPSE_POINTS = 72


@dataclass
class Dataset:
    """Images with their objects.

    Attributes:
        splits: name of a split ("" for a data set without splits) -> content of a COCO json. All
            splits have the same categories. `file_name` is relative to `image_root`.
        image_root: the folder of the images.
    """

    splits: dict[str, dict[str, Any]]
    image_root: str


class DatasetBuilder:
    """Collects the images and objects that a reader finds.

    Args:
        image_root: folder of the images.
        notes: counts the objects and files that are left out or changed.
        classes: the names of the classes in their order. Without them the order is alphabetical.
    """

    def __init__(self, image_root: str | Path, notes: IssueCounter, classes: Sequence[str]) -> None:
        self.image_root = str(image_root)
        self.notes = notes
        self.classes = list(classes)
        self._images: list[tuple[str, dict[str, Any]]] = []
        self._objects: list[dict[str, Any]] = []  # with the name of the class as `category_id`
        self._places: dict[int, str] = {}
        self._sources: dict[str, str] = {}  # file -> its name in the format

    def find_images(self, names: Sequence[str], place: str) -> dict[str, str]:
        """Return the name inside `image_root` for each name in a file.

        Raises:
            UserError: image files are missing; the message begins with `place`.
        """
        if not os.path.isdir(self.image_root):
            raise UserError(
                f"{place}: image folder not found: {self.image_root}. Give it with --images"
            )
        images = [{"id": name, "file_name": name} for name in names]
        _, faults = find_image_files(images, self.image_root, self.notes)
        if faults:
            raise UserError(f"{place}: {faults[0]}. {IMAGES_ELSEWHERE}")
        return {str(image["id"]): image["file_name"] for image in images}

    def add_image(
        self,
        file_name: str,
        place: str,
        *,
        split: str = "",
        size: tuple[Any, Any] | None = None,
        source: str = "",
    ) -> dict[str, Any]:
        """Add an image and return its entry, with `width` and `height` after EXIF rotation.

        Args:
            file_name: relative to `image_root`.
            place: the place that names the image, for messages.
            split: the name of its split.
            size: the (H, W) that the format states.
            source: the name of the image in the format, if `file_name` was found by a part of it.

        Raises:
            UserError: the file cannot be read, or has another size, or is the file of an image with
                another `source`.
        """
        other = self._sources.setdefault(file_name, source)
        if other != source:
            raise UserError(
                f"{place}: the images {shorten(other, 120)} and {shorten(source, 120)} lead to the "
                f"same file {file_name}. Keep their folders or whole names: each needs its own file"
            )
        header = read_header(os.path.join(self.image_root, file_name))
        found = (header.height, header.width)
        if size is not None and tuple(size) != found:
            raise UserError(
                f"{place}: says {size[1]} x {size[0]} pixels (width x height) for {file_name}, the "
                f"file is {found[1]} x {found[0]}"
            )
        name = file_name.replace(os.sep, "/")
        image = {"id": len(self._images) + 1, "file_name": name}
        image |= {"width": header.width, "height": header.height}
        self._images.append((split, image))
        return image

    def add_object(
        self,
        image: dict[str, Any],
        label: str,
        place: str,
        *,
        parts: Sequence[MaskPart] = (),
        box: Box | None = None,
        crowd: bool = False,
    ) -> None:
        """Add an object: the union of `parts`, or a `box` without a mask.

        `notes` counts boxes without a mask, and objects that are left out: because they have no
        label, or because pycocotools cannot draw a part.
        """
        if not label.strip():
            self.notes.add("object without a label: left out", place)
            return
        if self.classes and label not in self.classes:
            raise UserError(
                f"{place}: the class {label!r} is not among the classes of the data set: "
                f"{name_some(self.classes, 10)}{nearest(label, self.classes)}"
            )
        found: dict[str, Any] = {}
        if box is not None:
            self.notes.add("box without a mask: kept as a box", place)
            found["bbox"] = [round(float(v), _DECIMALS) for v in box]
        else:
            try:
                found["segmentation"] = _unite(parts, image["height"], image["width"])
            except ValueError as error:
                self.notes.add(f"{error}: left out", place)
                return
        number = len(self._places) + 1
        self._places[number] = place
        keys = {"id": number, "image_id": image["id"], "category_id": label, "iscrowd": int(crowd)}
        self._objects.append({**keys, **found})

    def add_group(
        self, image: dict[str, Any], label: str, shapes: Sequence[tuple[str, AnnotatedShape]]
    ) -> None:
        """Add (place, shape) pairs of a group: all parts as one object, or each box as an object.

        A group with parts has no boxes: datumaro writes the box of each mask next to it.
        """
        drawn = [(place, shape) for place, shape in shapes if not isinstance(shape, tuple)]
        parts = [shape for _, shape in drawn]
        if parts:
            self.add_object(image, label, drawn[0][0], parts=parts)
        for place, box in shapes:
            if isinstance(box, tuple) and parts:
                self.notes.add("box in a group with masks: left out", place)
            elif isinstance(box, tuple):
                self.add_object(image, label, place, box=box)

    def list_labels(self) -> set[str]:
        """Return the classes of the objects so far."""
        return {annotation["category_id"] for annotation in self._objects}

    def finish(self, place: str) -> Dataset:
        """Return the data set; objects without a pixel are left out and counted.

        Raises:
            UserError: there is no image or no class.
        """
        names = self.classes or sorted(self.list_labels())
        if not self._images:
            raise UserError(f"{place}: no image found")
        if not names:
            raise UserError(f"{place}: no object found in {count_noun(len(self._images), 'image')}")
        ids = {name: number for number, name in enumerate(names, 1)}
        categories = [{"id": number, "name": name} for name, number in ids.items()]
        split_of = {image["id"]: split for split, image in self._images}
        splits: dict[str, dict[str, Any]] = {}
        for split, image in self._images:
            empty = {"info": {}, "images": [], "annotations": [], "categories": categories}
            splits.setdefault(split, empty)["images"].append(image)
        for annotation in self._objects:
            annotation["category_id"] = ids[annotation["category_id"]]
            splits[split_of[annotation["image_id"]]]["annotations"].append(annotation)
        for content in splits.values():
            self._clean(content)
        if len(splits) == 1:
            splits = {"": next(iter(splits.values()))}
        return Dataset(splits, self.image_root)

    def _clean(self, content: dict[str, Any]) -> None:
        """Compute boxes and areas in place, and leave out objects without a pixel."""
        dropped = IssueCounter()
        content["annotations"], _, doubts = clean_annotations(
            content, (), strict=False, masks=False, completed=IssueCounter(), dropped=dropped
        )
        for kind, found in dropped.issues.items():
            for annotation in found:
                self.notes.add(f"{kind}: left out", self._places[annotation])
        for doubt in doubts:
            self.notes.add(doubt.text, content["images"][0]["file_name"])


def _unite(parts: Sequence[MaskPart], height: int, width: int) -> list[Any] | dict[str, Any]:
    """Return the polygons, or the RLE of the union if a part is a mask."""
    polygons = [[round(float(v), _DECIMALS) for v in p] for p in parts if isinstance(p, list)]
    if polygons:
        check_mask(polygons, height, width)
    if len(polygons) == len(parts):
        return polygons
    if len(parts) == 1 and isinstance(parts[0], dict):
        return parts[0]
    union = np.zeros((height, width), dtype=bool)
    for part in [*(p for p in parts if not isinstance(p, list)), polygons]:
        if isinstance(part, np.ndarray):
            union |= part
        elif part:
            union |= decode_mask({"segmentation": part}, height, width)
    return encode_mask(union)


def name_split(name: str) -> str:
    """Return the name of a split here; `Validation` of CVAT and `valid` of Roboflow are `val`."""
    name = name.lower()
    return "val" if name in ("valid", "validation") else name


def cut_objects(ids: Ids) -> Iterator[tuple[int, tuple[slice, slice], dict[str, Any]]]:
    """Yield for each value except 0 of an image of numbers (H, W): value, window, pixels as RLE."""
    values, numbers = np.unique(ids, return_inverse=True)
    numbers = numbers.reshape(ids.shape)
    for index, window in enumerate(find_objects(numbers + 1)):
        if values[index]:
            crop = numbers[window] == index
            corner = (window[0].start, window[1].start)
            rle = encode_edges(find_edges(crop.T), crop.shape[0], *corner, *ids.shape)
            counts = rle["counts"].decode("ascii")
            yield int(values[index]), window, {"size": list(ids.shape), "counts": counts}


def decode_mask(annotation: dict[str, Any], height: int, width: int) -> Bools:
    """Return the mask (H, W) of an annotation; pycocotools draws polygons."""
    drawn = mask_util.decode(compress(annotation["segmentation"], height, width))
    return np.asarray(drawn, dtype=np.uint8).astype(bool)


def iterate(
    content: dict[str, Any], notes: IssueCounter | None = None
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield each image of a COCO json with its annotations.

    With `notes`, crowd regions are left out and counted there.
    """
    objects: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        if notes is not None and annotation["iscrowd"]:
            notes.add("crowd region: left out", annotation["id"])
        else:
            objects[annotation["image_id"]].append(annotation)
    for image in content["images"]:
        yield image, objects[image["id"]]


def sample_ellipse(
    center: tuple[float, float], radii: tuple[float, float], degrees: float = 0
) -> list[float]:
    """Return a polygon of 72 points on an ellipse, turned clockwise by `degrees`; pixels."""
    turns = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS, endpoint=False)
    points = np.stack([radii[0] * np.cos(turns), radii[1] * np.sin(turns)], axis=1)
    flat: list[float] = (_turn(points, degrees) + center).ravel().tolist()
    return flat


def turn_box(corners: npt.ArrayLike, center: npt.NDArray[Any], degrees: float) -> Box:
    """Return the upright box around corners (4, 2) that are turned clockwise about `center`."""
    turned = _turn(np.asarray(corners) - center, degrees) + center
    low, high = turned.min(axis=0), turned.max(axis=0)
    return (*low.tolist(), *(high - low).tolist())


def _turn(points: npt.NDArray[Any], degrees: float) -> npt.NDArray[Any]:
    """Return points (N, 2) turned clockwise about the origin."""
    sine, cosine = np.sin(np.deg2rad(degrees)), np.cos(np.deg2rad(degrees))
    return points @ np.array([[cosine, sine], [-sine, cosine]])
