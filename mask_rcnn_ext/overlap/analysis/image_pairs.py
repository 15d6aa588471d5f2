"""The overlaps of detections and objects in each image: the input of an analysis.

The IoUs of masks or boxes are computed once, for pairs of all classes. Only pairs with an IoU of
0.1 or more are kept, so an analysis of thousands of images needs little memory.

Letters, for one image: D detections, G objects, crowds included.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pycocotools import mask as mask_util

from ...arrays import Bools, Floats, Ints
from ...errors import UserError
from ...layers.rle import count_pixels
from ..detections import convert_to_rle, read_score, require_images
from ..matching import (
    IOU_THRESHOLDS,
    assign_levels,
    find_nearest_levels,
    match_detections,
    measure_overlap,
    rank_detections,
    to_corners,
)
from ..numbered_coco import sort_ids

__all__ = [
    "LEAST_IOU",
    "ImagePairs",
    "Kind",
    "group_by_image",
    "match_image",
    "read_image_pairs",
]

Kind = Literal["segm", "bbox"]  # IoU of masks, or of boxes

LEAST_IOU = 0.1  # pairs with a lower IoU are not kept


@dataclass(frozen=True)
class ImagePairs:
    """The objects and detections of one image, and the IoUs of those that overlap.

    Attributes:
        image_id: the id of the image in the data set.
        file_name: its file; None if the data set does not name it.
        classes: (G,), places of the categories in the ascending ids of the data set.
        crowd: (G,).
        areas: (G,) float64, pixels; the annotated area, or else the area of the mask or box.
        levels: (G,), index in `matching.LEVELS` of the overlap with other objects.
        detection_classes: (D,), as `classes`; best score first.
        scores: (D,) float64.
        detection_areas: (D,) float64, pixels, of the masks or boxes.
        detection_levels: (D,), the level of the object of the same class whose box the detection
            overlaps most; -1 if it overlaps none.
        rows, columns: (P,), the pairs with an IoU of `LEAST_IOU` or more: detections and objects.
        ious: (P,) float64. With a crowd, it is the share of the detection that lies in the crowd.
    """

    image_id: Any
    file_name: Any
    classes: Ints
    crowd: Bools
    areas: Floats = field(repr=False)
    levels: Ints = field(repr=False)
    detection_classes: Ints = field(repr=False)
    scores: Floats = field(repr=False)
    detection_areas: Floats = field(repr=False)
    detection_levels: Ints = field(repr=False)
    rows: Ints = field(repr=False)
    columns: Ints = field(repr=False)
    ious: Floats = field(repr=False)

    def make_ious(self) -> Floats:
        """Return (D, G), with 0 for pairs below `LEAST_IOU`."""
        found = np.zeros((len(self.scores), len(self.classes)))
        found[self.rows, self.columns] = self.ious
        return found


def match_image(image: ImagePairs, counts: Bools) -> Ints:
    """Return (T, D): the object of its class that each detection matches, as in COCO; -1 for none.

    Args:
        image: the image.
        counts: (G,), objects that count; they go before the others, which are ignored.
    """
    matches = np.full((len(IOU_THRESHOLDS), len(image.scores)), -1, dtype=np.intp)
    same = image.detection_classes[image.rows] == image.classes[image.columns]
    ious = image.make_ious()
    for category in np.unique(image.classes[image.columns[same]]):
        here = np.flatnonzero(image.detection_classes == category)
        there = np.flatnonzero(image.classes == category)
        found = match_detections(ious[np.ix_(here, there)], ~counts[there], image.crowd[there])
        matches[:, here] = np.where(found >= 0, there[found], -1)
    return matches


def group_by_image(results: Iterable[dict[str, Any]]) -> dict[Any, list[dict[str, Any]]]:
    """Return image id -> its entries of a list in COCO's result format, in their order."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for result in results:
        found.setdefault(result["image_id"], []).append(result)
    return found


def read_image_pairs(
    content: Mapping[str, Any],
    predictions: Mapping[Any, Sequence[Mapping[str, Any]]],
    kind: Kind,
    *,
    max_detections: int = 100,
) -> list[ImagePairs]:
    """Return the pairs of each image of a data set, by ascending id.

    Args:
        content: the data set, in COCO's annotation format. Annotations of a category that it does
            not list are left out, as in COCO.
        predictions: image id -> its detections in COCO's result format, see `group_by_image`.
            Detections of a category that the data set does not list are left out, too.
        kind: "segm": IoU of masks; "bbox": IoU of boxes.
        max_detections: the number of detections of one class in one image that count, best first.

    Raises:
        UserError: there are detections on an image that the data set does not have; or an
            annotation or a detection is broken.
    """
    images = {image["id"]: image for image in content["images"]}
    require_images(predictions, images)
    places = {
        category: place
        for place, category in enumerate(sort_ids(c["id"] for c in content["categories"]))
    }
    objects: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in content["annotations"]:
        if annotation["category_id"] in places:
            objects.setdefault(annotation["image_id"], []).append(annotation)
    read = _read_masks if kind == "segm" else _read_boxes
    return [
        _read_image(
            images[image_id],
            objects.get(image_id, []),
            [d for d in predictions.get(image_id, []) if d["category_id"] in places],
            places,
            read,
            max_detections,
        )
        for image_id in sort_ids(images)
    ]


# What is compared, masks or boxes; their boxes (N, 4) XYXY in pixels; their areas (N,).
_Shapes = tuple[Any, Floats, Floats]


def _read_image(
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    detections: Sequence[Mapping[str, Any]],
    places: Mapping[Any, int],
    read: Any,
    max_detections: int,
) -> ImagePairs:
    where = f"detections of image {image['id']!r}"
    scores = np.array([read_score(d.get("score"), where) for d in detections], dtype=np.float64)
    found_classes = _to_places(detections, places)
    order = rank_detections(scores, found_classes, max_detections)
    scores, found_classes = scores[order], found_classes[order]
    try:
        shapes, boxes, areas = read(annotations, image)
    except UserError as error:
        raise UserError(f"the data set's image {image['id']!r}: {error}") from error
    try:
        found, found_boxes, found_areas = read([detections[i] for i in order], image)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    classes = _to_places(annotations, places)
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)
    ious = np.zeros((len(found), len(shapes)))
    if ious.size:
        ious[:] = np.nan_to_num(mask_util.iou(found, shapes, crowd.astype(int).tolist()))
    rows, columns = np.nonzero(ious >= LEAST_IOU)
    levels = assign_levels(measure_overlap(boxes, classes, crowd))
    nearest = find_nearest_levels((found_boxes, found_classes), (boxes, classes), crowd, levels)
    given = [a.get("area") for a in annotations]
    return ImagePairs(
        image_id=image["id"],
        file_name=image.get("file_name"),
        classes=classes,
        crowd=crowd,
        areas=np.array(
            [own if a is None else a for a, own in zip(given, areas, strict=True)],
            dtype=np.float64,
        ),
        levels=levels,
        detection_classes=found_classes,
        scores=scores,
        detection_areas=found_areas,
        detection_levels=nearest,
        rows=rows,
        columns=columns,
        ious=ious[rows, columns],
    )


def _to_places(entries: Sequence[Mapping[str, Any]], places: Mapping[Any, int]) -> Ints:
    return np.array([places[entry["category_id"]] for entry in entries], dtype=np.intp)


def _read_masks(entries: Sequence[Mapping[str, Any]], image: Mapping[str, Any]) -> _Shapes:
    masks = []
    for entry in entries:
        if not entry.get("segmentation"):
            raise UserError("expected masks, got an object without one")
        masks.append(convert_to_rle(entry["segmentation"], image["height"], image["width"]))
    if not masks:
        return masks, np.zeros((0, 4)), np.zeros(0)
    areas = count_pixels(masks).astype(np.float64)
    tight = np.asarray(mask_util.toBbox(masks), dtype=np.float64)
    # The box of an annotation may be larger than the visible part of the object. For detections the
    # tight box of the mask is used, as in the FCIS comparison.
    is_truth = "score" not in entries[0]
    given = [entry.get("bbox") if is_truth else None for entry in entries]
    boxes = [own if box is None else box for box, own in zip(given, tight, strict=True)]
    return masks, to_corners(boxes), areas


def _read_boxes(entries: Sequence[Mapping[str, Any]], image: Mapping[str, Any]) -> _Shapes:
    del image
    boxes = []
    for entry in entries:
        box = entry.get("bbox")
        if not isinstance(box, list | tuple) or len(box) != 4 or not all(map(_is_finite, box)):
            raise UserError(f"expected a box of four finite numbers, got {box!r}")
        boxes.append([float(value) for value in box])
    xywh = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return xywh, to_corners(boxes), xywh[:, 2] * xywh[:, 3]


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
