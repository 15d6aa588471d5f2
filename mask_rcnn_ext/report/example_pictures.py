"""Draws the images and annotations that a check of a data set points at."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arrays import RGBArray
from ..data.bands import read_picture
from ..data.data_check import DataCheck, SplitCheck
from ..data.findings import Example
from ..errors import UserError, shorten
from ..layers.packed_masks import MaskCrop, PackedMasks
from .drawing.pictures import draw_instances
from .instances import decode_masks

__all__ = ["ExamplePicture", "draw_example"]

_SIDE = 300  # pixels of the longer side
_LEAST = 64  # pixels of the image: how far a picture of a small object zooms in
_MARGIN = 0.6  # of the object's size, on each side
_MOST_OBJECTS = 200  # drawn on a whole image
_MAX_SIDE = 1280  # pixels; larger images and their masks are shrunk before they are drawn


@dataclass(frozen=True)
class ExamplePicture:
    """A picture with the name of its image and a line on what to see there."""

    pixels: RGBArray = field(repr=False)
    title: str
    text: str


def draw_example(check: DataCheck, example: Example) -> ExamplePicture | None:
    """Draw an example of a finding; None if its image cannot be read.

    Annotations are drawn with box and mask, enlarged if they are small. An example without
    annotations is a whole image with all its objects.
    """
    split = check.splits[example.split]
    image = split.file.content["images"][example.image]
    try:
        pixels = read_picture({"file_name": split.file.image_paths[example.image]})
    except UserError:
        return None
    by_id = {a["id"]: a for a in split.file.annotations} if example.annotation_ids else {}
    shown = [by_id[i] for i in example.annotation_ids]
    every = [a for a in split.file.kept if a["image_id"] == image["id"] and not a["iscrowd"]]
    drawn = shown or every[:_MOST_OBJECTS]
    picture = _draw(split, pixels, drawn, close=bool(shown))
    ids = ", ".join(str(a["id"]) for a in shown)
    names = "annotation " if len(shown) == 1 else "annotations "
    parts = [example.split, names + ids if shown else "", example.text]
    title = str(image.get("file_name", "")).replace("\\", "/").rsplit("/", 1)[-1]
    return ExamplePicture(picture, shorten(title, 40), " · ".join(filter(None, parts)))


def _draw(
    split: SplitCheck, pixels: RGBArray, annotations: list[dict[str, Any]], *, close: bool
) -> RGBArray:
    """Return the image, or if `close`, the part with the annotations, which may be malformed."""
    height, width = pixels.shape[:2]
    shrink = 1.0 if close else min(1.0, _MAX_SIDE / max(height, width))
    masks = [_decode(a, height, width, shrink) for a in annotations]
    boxes = [_corners(a.get("bbox"), shrink) for a in annotations]
    if shrink < 1:
        pixels = draw_instances(pixels, scale=shrink)
    top, left, bottom, right = 0, 0, *pixels.shape[:2]
    if close:
        top, left, bottom, right = _find_window(boxes, masks, *pixels.shape[:2])
    part = np.ascontiguousarray(pixels[top:bottom, left:right])
    known = (MaskCrop(0, 0, np.zeros((0, 0), bool)) if mask is None else mask for mask in masks)
    packed = PackedMasks((pixels.shape[0], pixels.shape[1]), known)
    offset = np.array([left, top, left, top], dtype=np.float64)
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4) - offset
    names = {c.get("id"): str(c.get("name")) for c in split.file.content["categories"]}
    labels = [names.get(a.get("category_id"), "") if close else "" for a in annotations]
    has_masks = any(mask is not None for mask in masks)
    return draw_instances(
        part,
        packed.cut(slice(top, bottom), slice(left, right)) if has_masks else None,
        corners if close or not has_masks else None,
        labels,
        _SIDE / max(part.shape[:2]),
    )


def _decode(annotation: dict[str, Any], height: int, width: int, shrink: float) -> MaskCrop | None:
    if not annotation.get("segmentation"):
        return None
    try:
        (mask,) = decode_masks([annotation["segmentation"]], height, width, shrink)
    except (UserError, ValueError, TypeError, IndexError):  # malformed: the caption says so
        return None
    return mask if mask.area else None


def _corners(box: Any, shrink: float) -> list[float]:
    """Return a box as XYXY in the shrunk image; NaN, which is not drawn, if it is malformed."""
    try:
        x, y, width, height = (float(value) * shrink for value in box)
    except (TypeError, ValueError, OverflowError):
        return [math.nan] * 4
    corners = [x, y, x + width, y + height]
    return corners if all(abs(v) < 1e6 for v in corners) else [math.nan] * 4


def _find_window(
    boxes: list[list[float]],
    masks: list[MaskCrop | None],
    height: int,
    width: int,
) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right of the part of the image that shows boxes and masks."""
    found = [box for box in boxes if np.isfinite(box).all()]
    for mask in masks:
        if mask is not None:
            found.append([mask.left, mask.top, mask.columns.stop, mask.rows.stop])
    if not found:
        return 0, 0, height, width
    corners = np.array(found, dtype=np.float64)
    low = corners[:, :2].min(axis=0).clip(0, (width, height))
    high = corners[:, 2:].max(axis=0).clip(0, (width, height))
    side = max(_LEAST, float((high - low).max()) * (1 + 2 * _MARGIN))
    centre = (low + high) / 2
    begin = np.floor(np.maximum(centre - side / 2, 0)).astype(int)
    end = np.minimum(np.ceil(begin + side), (width, height)).astype(int)
    begin = np.maximum(np.minimum(begin, end - math.ceil(side)), 0)
    return int(begin[1]), int(begin[0]), int(end[1]), int(end[0])
