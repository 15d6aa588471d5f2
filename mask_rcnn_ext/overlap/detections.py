"""The result file of a model, read and checked against its data set.

The file has COCO's result format: a json list of `{image_id, category_id, score, segmentation}`.
"""

import contextlib
import dataclasses
import io
import os
from collections.abc import Container, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from ..errors import UserError, name_some, nearest
from ..files import read_json
from ..layers.rle import check_mask, check_size, compress

__all__ = [
    "Detection",
    "Detections",
    "convert_to_rle",
    "have_rois",
    "keep_rois_of_all",
    "load_results",
    "load_truth",
    "read_score",
    "require_images",
]

_FIELDS = ("image_id", "category_id", "score", "segmentation")
_FARTHEST = 1e9  # pixels: a box may lie outside the image, but not so far that sums overflow


@dataclass(frozen=True)
class Detection:
    """One detected instance.

    Attributes:
        category_id: as in the annotation file.
        score: 0 to 1.
        mask: compressed RLE of pycocotools, `{"size": [H, W], "counts": bytes}`, in the image.
        box: XYWH in pixels, the RoI in which the mask was predicted; None if unknown.
    """

    category_id: Any
    score: float
    mask: dict[str, Any] = field(repr=False)
    box: tuple[float, float, float, float] | None = None


Detections = dict[Any, list[Detection]]  # image id -> its detections, in the order of the file


def load_truth(path: str | os.PathLike[str]) -> COCO:
    """Read a COCO-format annotation file with masks, silently.

    Raises:
        UserError: the file cannot be read, is not COCO's format, or has no masks or a broken mask.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise UserError(
            f"{path}: expected COCO's annotation format, an object with images, annotations and "
            f"categories; got {_describe(content)}"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = content
        try:
            truth.createIndex()
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}: not COCO's annotation format: {error!r}") from error
    for image in truth.dataset["images"]:
        try:
            check_size(image.get("height"), image.get("width"))
        except ValueError as error:
            raise UserError(f"{path}: image {image['id']!r}: {error}") from error
    _require_masks(truth, str(path))
    for annotation in truth.dataset["annotations"]:
        image = truth.imgs.get(annotation.get("image_id"))
        try:
            if image:
                check_mask(annotation["segmentation"], image["height"], image["width"])
        except ValueError as error:
            where = f"{path}: annotation {annotation.get('id')!r} has a broken mask"
            raise UserError(f"{where}: {error}") from error
    return truth


def load_results(
    path: str | os.PathLike[str], coco_gt: COCO, *, with_boxes: bool = False
) -> Detections:
    """Read a result file and check it against its data set.

    Args:
        path: json, a list of detections, which may be empty. Masks are RLE, compressed or not, or
            polygons. `bbox` is XYWH in pixels; keypoints and other fields are ignored.
        coco_gt: the data set, see `load_truth`.
        with_boxes: every detection must have a `bbox`. Otherwise a missing or wrong `bbox` becomes
            None.

    Returns:
        The detections of each image that has any.

    Raises:
        UserError: the data set has no masks; the file cannot be read or is not a list; or a
            detection is wrong: a field is missing, the data set does not have its image or category
            id, its score is not in 0 to 1, its mask is broken or not as large as the image, its box
            is not four finite numbers with a positive width and height, or it occurs twice (same
            image, category, score, mask and box). The message names the first wrong detection,
            counted from 0.
    """
    _require_masks(coco_gt, "the data set")
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(
            f"{path}: expected a list of detections (COCO's result format), got "
            f"{_describe(content)}"
        )
    found: Detections = {}
    seen: dict[Hashable, int] = {}
    for index, entry in enumerate(content):
        where = f"{path}: detection {index}"
        image_id, detection = _read_detection(entry, coco_gt, where, with_boxes)
        # The box belongs to it: empty masks are all the same.
        mask = (detection.mask["counts"], detection.box)
        key = (image_id, detection.category_id, detection.score, mask)
        if key in seen:
            raise UserError(
                f"{where} is the same as detection {seen[key]} (image {image_id!r}, category "
                f"{detection.category_id}, score {detection.score}, same mask and box). Remove one"
            )
        seen[key] = index
        found.setdefault(image_id, []).append(detection)
    return found


def require_images(detections: Iterable[Any], images: Container[Any]) -> None:
    """Check that the data set has the images of the detections.

    Args:
        detections: the ids of the images that have detections.
        images: the ids of all images of the data set.

    Raises:
        UserError: the data set does not have one of the images.
    """
    for image_id in detections:
        if image_id not in images:
            raise UserError(f"detections of image {image_id!r}, which is not in the data set")


def read_score(score: Any, where: str) -> float:
    """Return the score of a detection.

    Args:
        score: the value in the file.
        where: the place of the detection; the message begins with it.

    Raises:
        UserError: the value is not a number from 0 to 1.
    """
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise UserError(f"{where}: expected a score from 0 to 1, got {score!r}")
    return float(score)


def have_rois(detections: Detections) -> bool:
    """Return whether the boxes seem to be the RoIs in which the masks were predicted.

    They are not if a box is missing, or if every box is the tight box of its mask, as after FCIS's
    mask voting.
    """
    found = [detection for image in detections.values() for detection in image]
    boxes = [detection.box for detection in found if detection.box is not None]
    if len(boxes) < len(found):
        return False
    return not (boxes and np.allclose(boxes, [mask_util.toBbox(one.mask) for one in found]))


def keep_rois_of_all(*models: Detections) -> tuple[Detections, ...]:
    """Return the detections of models, without boxes unless all models `have_rois`.

    Otherwise one model would be measured inside its RoIs, and another model would not.
    """
    if all(map(have_rois, models)):
        return models
    return tuple(
        {image: [dataclasses.replace(one, box=None) for one in found] for image, found in m.items()}
        for m in models
    )


def _read_detection(entry: Any, truth: COCO, where: str, with_boxes: bool) -> tuple[Any, Detection]:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object, got {_describe(entry)}")
    for name in _FIELDS:
        if name not in entry:
            hint = " A file of boxes only has no masks to compare." if name == _FIELDS[-1] else ""
            raise UserError(f"{where} has no {name!r}{nearest(name, map(str, entry))}.{hint}")
    image_id, category, score = (entry[name] for name in _FIELDS[:3])
    if not _is_id_of(image_id, truth.imgs):
        raise UserError(
            f"{where}: image_id {image_id!r} is not in the data set, which has {len(truth.imgs)} "
            f"images ({name_some(list(map(repr, truth.imgs)))}). Give the data set that the file "
            "was made on"
        )
    if not _is_id_of(category, truth.cats):
        raise UserError(
            f"{where}: category_id {category!r} is not in the data set, which has "
            f"({name_some(list(map(repr, truth.cats)))}). Result files have the ids of the "
            "annotation file, not the model's class numbers"
        )
    score = read_score(score, where)
    image = truth.imgs[image_id]
    try:
        mask = convert_to_rle(entry["segmentation"], int(image["height"]), int(image["width"]))
    except UserError as error:
        raise UserError(f"{where} (image {image_id!r}): {error}") from error
    return image_id, Detection(category, score, mask, _read_box(entry, where, required=with_boxes))


def _read_box(
    entry: dict[str, Any], where: str, *, required: bool
) -> tuple[float, float, float, float] | None:
    box: Any = entry.get("bbox")
    usable = _is_box(box) and min(box[2:]) > 0
    if not usable and not required:
        return None
    if "bbox" not in entry:
        raise UserError(
            f"{where} has no 'bbox', the RoI in which its mask was predicted. Give a file with "
            "boxes, as COCOEvaluator writes it"
        )
    if not usable:
        raise UserError(
            f"{where}: expected a bbox of four finite numbers, x, y, width and height, with a "
            f"positive width and height; got {box!r}"
        )
    x, y, width, height = map(float, box)
    return x, y, width, height


def convert_to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Check COCO's `segmentation` and return it as a compressed RLE.

    Args:
        segmentation: a list of polygons, or an RLE whose counts are a list, a str or bytes.
        height: the height of the image in pixels.
        width: the width of the image in pixels.

    Raises:
        UserError: it is none of these, or pycocotools could not read it, see `check_mask`.
    """
    try:
        check_mask(segmentation, height, width)
    except ValueError as error:
        raise UserError(f"broken mask: {error}") from error
    return compress(segmentation, height, width)


def _require_masks(truth: COCO, name: str) -> None:
    annotations = truth.dataset.get("annotations") or []
    if not annotations:
        raise UserError(f"{name} has no annotations: expected objects with masks to compare with")
    for annotation in annotations:
        where = f"{name}: annotation {annotation.get('id')!r}"
        if not annotation.get("segmentation"):
            raise UserError(
                f"{where} has no mask (segmentation). Overlap can only be measured on a data set "
                "with masks"
            )
        box = annotation.get("bbox") or [0, 0, 0, 0]
        if not _is_box(box):
            raise UserError(
                f"{where}: expected a bbox of four numbers, x, y, width and height, got {box!r}"
            )


def _is_id_of(value: Any, known: Mapping[Any, Any]) -> bool:
    # In Python, json's true equals 1. 1.0 and 1 are the same id.
    kind = isinstance(value, int | float | str) and not isinstance(value, bool)
    return kind and value in known


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_finite, value))


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= _FARTHEST


def _describe(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return names.get(type(value), repr(value))
