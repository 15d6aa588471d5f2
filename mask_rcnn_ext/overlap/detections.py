"""A model's result file, read against its data set, and every mistake in it told.

The file is COCO's: a json list of `{image_id, category_id, score, segmentation}`.
"""

import contextlib
import io
import json
import math
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO

from ..errors import UserError, nearest
from ..layers.rle import compress, read_runs

__all__ = [
    "BoxedDetections",
    "Detection",
    "Detections",
    "as_rle",
    "load_boxed_results",
    "load_results",
    "load_truth",
]

Floats = npt.NDArray[np.float64]

_FIELDS = ("image_id", "category_id", "score", "segmentation")
_FARTHEST = 1e6  # pixels: pycocotools walks along a polygon's sides, wherever they lead


@dataclass(frozen=True)
class Detection:
    """One detected instance.

    Attributes:
        category_id: COCO's category id.
        score: 0 to 1.
        mask: compressed RLE of pycocotools, `{"size": [H, W], "counts": bytes}`, in the image.
    """

    category_id: int
    score: float
    mask: dict[str, Any] = field(repr=False)


Detections = dict[Any, list[Detection]]  # image id -> its detections, in the order of the file


def load_truth(path: str | os.PathLike[str]) -> COCO:
    """Read a COCO-format annotation file with masks, silently.

    Raises:
        UserError: the file cannot be read, is not COCO's format, or has no masks.
    """
    content = _read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise UserError(
            f"{path}: expected COCO's annotation format, an object with images, annotations and "
            f"categories; got {_kind(content)}"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = content
        try:
            truth.createIndex()
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: not COCO's annotation format: {error!r}") from error
    for image in truth.dataset["images"]:
        if not all(isinstance(image.get(name), int) for name in ("height", "width")):
            raise UserError(f"{path}: image {image['id']!r} has no whole height and width")
    _require_masks(truth, str(path))
    return truth


def load_results(path: str | os.PathLike[str], coco_gt: COCO) -> Detections:
    """Read a result file and check it against its data set.

    Args:
        path: json, a list of detections; an empty list is fine. Masks are RLE, compressed or not,
            or polygons. Boxes, keypoints and anything else in the file are not looked at.
        coco_gt: the data set, see `load_truth`.

    Returns:
        The detections of each image that has any.

    Raises:
        UserError: the data set has no masks; or the file cannot be read or is not a list; or, with
            the number of the first offender, from 0: a field is missing, the image or category id
            is not the data set's, the score is not in 0 to 1, the mask is broken or not of the
            image's size, or the detection occurs twice (same image, category, score and mask).
    """
    _require_masks(coco_gt, "the data set")
    content = _read_json(path)
    if not isinstance(content, list):
        raise UserError(
            f"{path}: expected a list of detections, as COCO's result format has it, got "
            f"{_kind(content)}"
        )
    found: Detections = {}
    seen: dict[Hashable, int] = {}
    for index, entry in enumerate(content):
        where = f"{path}: detection {index}"
        image_id, detection = _checked(entry, coco_gt, where)
        key = (image_id, detection.category_id, detection.score, detection.mask["counts"])
        if key in seen:
            raise UserError(
                f"{where} is the same as detection {seen[key]} (image {image_id!r}, category "
                f"{detection.category_id}, score {detection.score}, same mask). Remove one"
            )
        seen[key] = index
        found.setdefault(image_id, []).append(detection)
    return found


def _checked(entry: Any, truth: COCO, where: str) -> tuple[Any, Detection]:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object, got {_kind(entry)}")
    for name in _FIELDS:
        if name not in entry:
            hint = " A file of boxes only has no masks to compare." if name == _FIELDS[-1] else ""
            raise UserError(f"{where} has no {name!r}{nearest(name, map(str, entry))}.{hint}")
    image_id, category, score = (entry[name] for name in _FIELDS[:3])
    # json's true is Python's 1.
    if not isinstance(image_id, int | str) or image_id is True or image_id not in truth.imgs:
        raise UserError(
            f"{where}: image_id {image_id!r} is not in the data set, which has {len(truth.imgs)} "
            f"images{_few(truth.imgs)}. Give the data set that the file was made on"
        )
    if not isinstance(category, int) or category not in truth.cats:
        raise UserError(
            f"{where}: category_id {category!r} is not in the data set, which has"
            f"{_few(truth.cats)}. Result files have the ids of the annotation file, not the "
            "model's class numbers"
        )
    number = isinstance(score, int | float) and not isinstance(score, bool)
    if not number or not 0 <= score <= 1:  # NaN is neither
        raise UserError(f"{where}: expected a score from 0 to 1, got {score!r}")
    image = truth.imgs[image_id]
    try:
        mask = as_rle(entry["segmentation"], int(image["height"]), int(image["width"]))
    except UserError as error:
        raise UserError(f"{where} (image {image_id!r}): {error}") from error
    return image_id, Detection(category, float(score), mask)


def as_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Return COCO's `segmentation` as a compressed RLE of an image, checked.

    Args:
        segmentation: a list of polygons, or an RLE whose counts are a list, a str or bytes.
        height: of the image.
        width: the same.

    Raises:
        UserError: it is none of these, its size is not the image's, or its runs do not fill it.
    """
    if isinstance(segmentation, list) and segmentation:
        good = all(
            isinstance(p, list)
            and len(p) >= 6
            and len(p) % 2 == 0
            and all(isinstance(v, int | float) and abs(v) <= _FARTHEST for v in p)
            for p in segmentation
        )
        if not good:
            raise UserError(
                "expected polygons, lists of x, y, x, y, ... in pixels, of three points or more"
            )
        return compress(segmentation, height, width)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= set(segmentation):
        raise UserError("expected a mask, polygons or an RLE with size and counts, got neither")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, list | tuple) or list(size) != [height, width]:
        raise UserError(f"the mask is of size {size}, the image is [{height}, {width}] (H, W)")
    if not isinstance(counts, list | str | bytes):
        raise UserError(f"expected the mask's counts as a text or a list, got {_kind(counts)}")
    try:
        read_runs(counts, height * width)
    except ValueError as error:
        raise UserError(f"the mask's runs do not fill its {height} x {width} pixels") from error
    return compress(segmentation, height, width)


def _require_masks(truth: COCO, name: str) -> None:
    annotations = truth.dataset.get("annotations") or []
    if not annotations:
        raise UserError(f"{name} has no annotations: expected objects with masks to compare with")
    for annotation in annotations:
        if not annotation.get("segmentation"):
            raise UserError(
                f"{name}: annotation {annotation.get('id')!r} has no mask (segmentation). Overlap "
                "can only be measured on a data set with masks"
            )
        box = annotation.get("bbox") or [0, 0, 0, 0]
        if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_finite, box)):
            raise UserError(
                f"{name}: annotation {annotation.get('id')!r}: expected a bbox of four numbers, "
                f"x, y, width and height, got {box!r}"
            )


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < math.inf


def _read_json(path: str | os.PathLike[str]) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not json: {error}") from error


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return names.get(type(value), repr(value))


def _few(known: Sequence[Any] | dict[Any, Any]) -> str:
    names = [repr(name) for name in list(known)[:5]]
    return f" ({', '.join(names)}{', ...' if len(known) > 5 else ''})"


@dataclass(frozen=True)
class BoxedDetections:
    """The detections of a model and the RoI of each one.

    Attributes:
        detections: see `detections.load_results`.
        boxes: image id -> (D, 4) float64, XYWH in pixels, in the order of the image's detections.
    """

    detections: Detections = field(repr=False)
    boxes: dict[Any, Floats] = field(repr=False)


def load_boxed_results(path: str | os.PathLike[str], coco_gt: COCO) -> BoxedDetections:
    """Read a result file whose detections have their RoI as `bbox`.

    Args:
        path: see `detections.load_results`; each detection has a `bbox`, XYWH in pixels, too.
        coco_gt: the data set, see `detections.load_truth`.

    Raises:
        UserError: see `detections.load_results`; or, with the number of the first offender, from 0:
            a detection has no `bbox`, or one that is not four finite numbers with a positive width
            and height.
    """
    detections = load_results(path, coco_gt)
    with open(path, encoding="utf-8") as file:
        content = json.load(file)
    boxes: dict[Any, list[Any]] = {}
    for index, entry in enumerate(content):
        if "bbox" not in entry:
            raise UserError(
                f"{path}: detection {index} has no 'bbox', the RoI that its mask was made in. Give "
                "a file with boxes, as COCOEvaluator writes it"
            )
        box = entry["bbox"]
        if not _is_box(box):
            raise UserError(
                f"{path}: detection {index}: expected as bbox four finite numbers, x, y, width and "
                f"height, the last two positive; got {box!r}"
            )
        boxes.setdefault(entry["image_id"], []).append(box)
    return BoxedDetections(
        detections, {image: np.array(found, dtype=np.float64) for image, found in boxes.items()}
    )


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4:
        return False
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in box):
        return False
    return all(math.isfinite(v) for v in box) and box[2] > 0 and box[3] > 0
