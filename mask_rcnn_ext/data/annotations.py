"""Checks and cleans the annotations of a COCO-format json.

Boxes are XYWH in pixels, sizes are (H, W). A segmentation may be polygons, RLE (compressed or not),
the path of a mask image, or a 2-D list of 0 and 1. Mask images and lists of 0 and 1 become
compressed RLE, because pycocotools cannot read them. To save time, masks are not decoded: the
numbers of runs and polygons are checked.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ..errors import name_some
from ..layers.rle import check_polygon, compress, encode_mask, read_runs
from .contradictions import explain_contradictions, explain_duplicates
from .coordinates import as_bitmap, is_number, scale_fractions
from .findings import Doubt, IssueCounter
from .images import open_image
from .keypoints import count_numbers

__all__ = ["clean_annotations", "explain_crowds", "find_mask_box"]

_MIN_SIDE = 1e-5  # pixels; detectron2's `filter_empty_instances` drops smaller boxes
_BOX_SLACK = 0.01  # pixels; many jsons round coordinates to two decimals
_SMALL_POLYGON = 4.0  # pixels; a larger polygon covers a pixel unless it is very thin


class _Malformed(Exception):
    """An annotation cannot be used; the message is the reason to count."""


def clean_annotations(
    content: dict[str, Any],
    folders: Sequence[str],
    strict: bool,
    masks: bool,
    completed: IssueCounter,
    dropped: IssueCounter,
    *,
    boxes_from_masks: bool = False,
) -> tuple[list[dict[str, Any]], list[str], list[Doubt]]:
    """Check the annotations one by one and complete them in place.

    Args:
        content: the json; its image sizes, ids and references are already checked.
        folders: folders in which to look for mask files.
        strict: reject an instance if any of its polygons is malformed.
        masks: reject an instance that has a box but no segmentation.
        completed: counts the changes.
        dropped: counts the rejected annotations by reason.
        boxes_from_masks: replace the box of every annotation that has a mask.

    Returns:
        The annotations to keep, the names of missing mask files, and a doubt for each kind of
        contradiction: boxes that contradict their masks, and objects that are annotated twice.

    Raises:
        UserError: a mask file is not an image.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    for annotation_id in scale_fractions(content["annotations"], sizes):
        completed.add("fractions of the image turned into pixels", annotation_id)
    kept, missing = [], []
    compared = []
    for annotation in content["annotations"]:
        size = sizes[annotation["image_id"]]
        try:
            if masks or annotation.get("segmentation") or not annotation.get("bbox"):
                _clean_mask(annotation, size, folders, strict, completed)
            if boxes_from_masks and annotation.get("segmentation"):
                annotation["bbox"] = None
            box = annotation.get("bbox")
            _clean_box(annotation, size, completed)
            _complete_numbers(annotation, size, completed)
        except _Malformed as fault:
            dropped.add(str(fault), annotation["id"])
            continue
        except FileNotFoundError:
            missing.append(annotation["segmentation"])
            continue
        kept.append(annotation)
        if box and annotation.get("segmentation"):
            mask_box = find_mask_box(annotation["segmentation"], size)
            compared.append((annotation["id"], box, mask_box, size))
    doubts = explain_contradictions(compared), explain_duplicates(kept, sizes)
    return kept, missing, [doubt for doubt in doubts if doubt]


def explain_crowds(annotations: Sequence[dict[str, Any]]) -> str:
    """Return a sentence if more than a tenth of the annotations are crowd regions, else "".

    A single crowd region is no reason, unless it is the only annotation. In COCO, about a hundredth
    of the annotations are crowd regions.
    """
    crowds = [str(annotation["id"]) for annotation in annotations if annotation["iscrowd"]]
    if 10 * len(crowds) <= len(annotations) or len(crowds) == 1 < len(annotations):
        return ""
    return (
        f"{len(crowds)} of {len(annotations)} annotations are crowd regions (`iscrowd` 1, or "
        f"`ignore`), which are neither learned nor counted in evaluation: {name_some(crowds)}. "
        "Some labelling tools mark every brush mask as a crowd. Set `iscrowd` to 0 for single "
        "objects"
    )


def _complete_numbers(
    annotation: dict[str, Any], size: tuple[int, int], completed: IssueCounter
) -> None:
    """Fill in what COCO evaluation needs: `iscrowd` and `area` (pixels)."""
    # A crowd region is neither learned nor counted as missed. detectron2 rejects every `ignore`
    # that is not equal to 0, also null and text.
    ignored = _read_flag(annotation.get("ignore"), "ignore")
    if annotation.get("ignore", 0) != 0:
        del annotation["ignore"]
        completed.add("`ignore` turned into `iscrowd`", annotation["id"])
    given = annotation.get("iscrowd")
    crowd = int(_read_flag(given, "iscrowd") or ignored)
    if type(given) is not int or given != crowd:
        annotation["iscrowd"] = crowd
        completed.add("`iscrowd` set", annotation["id"])
    if "keypoints" in annotation and count_numbers(annotation["keypoints"]) % 3:
        del annotation["keypoints"]
        completed.add("`keypoints` removed, since not x, y, visibility, ...", annotation["id"])
    area = annotation.get("area", 0)
    if not is_number(area) or area <= 0:
        mask, (_, _, width, height) = annotation.get("segmentation"), annotation["bbox"]
        annotation["area"] = _mask_area(mask, size) if mask else float(width * height)
        completed.add("`area` computed", annotation["id"])


def _read_flag(value: Any, key: str) -> bool:
    """Return a flag that may be missing, a number, or text such as "0" or "false"."""
    texts = {"": 0, "0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}
    number = texts.get(value.strip().lower()) if isinstance(value, str) else value or 0
    if number not in (0, 1):
        raise _Malformed(f"`{key}` that is neither 0 nor 1")
    return bool(number)


def _clean_box(annotation: dict[str, Any], size: tuple[int, int], completed: IssueCounter) -> None:
    """Clip the XYWH box to the image, or compute it from the mask if there is no box."""
    box = annotation.get("bbox")
    if not box:
        annotation["bbox"] = find_mask_box(annotation["segmentation"], size)
        completed.add("`bbox` computed from the mask", annotation["id"])
        return
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        raise _Malformed("box that is not four finite numbers")
    x, y, width, height = box
    if width <= _MIN_SIDE or height <= _MIN_SIDE:
        raise _Malformed("box without width or height")
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, size[1]), min(y + height, size[0])
    if right - left <= _MIN_SIDE or bottom - top <= _MIN_SIDE:
        raise _Malformed("box outside the image")
    if max(left - x, top - y, x + width - right, y + height - bottom) > _BOX_SLACK:
        annotation["bbox"] = [left, top, right - left, bottom - top]
        completed.add("box clipped to the image", annotation["id"])


def _clean_mask(
    annotation: dict[str, Any],
    size: tuple[int, int],
    folders: Sequence[str],
    strict: bool,
    completed: IssueCounter,
) -> None:
    """Check the segmentation and convert it to a form that detectron2 and pycocotools read."""
    mask = annotation.get("segmentation")
    if not mask:
        raise _Malformed("no segmentation" if annotation.get("bbox") else "no box and no mask")
    if isinstance(mask, dict):
        _check_rle(mask, size)
    elif isinstance(mask, str):
        annotation["segmentation"] = _encode(_read_mask(mask, folders), size)
        completed.add("mask file turned into RLE", annotation["id"])
    elif not isinstance(mask, list):
        raise _Malformed(f"segmentation that is a {type(mask).__name__}")
    elif (bitmap := as_bitmap(mask)) is not None:
        annotation["segmentation"] = _encode(bitmap, size)
        completed.add("bitmap turned into RLE", annotation["id"])
    else:
        parts = [mask] if is_number(mask[0]) else mask
        kept = _valid_polygons(parts, size, strict)
        if kept is not mask:
            annotation["segmentation"] = kept
            what = "flat polygon" if parts is not mask else "polygons without degenerate parts"
            completed.add(what, annotation["id"])


def _read_mask(name: str, folders: Sequence[str]) -> np.ndarray:
    """Read a mask file as (H, W) bool: True where any channel except alpha is not zero."""
    path = next((p for f in folders if os.path.isfile(p := os.path.join(f, name))), None)
    if path is None:
        raise FileNotFoundError(name)
    with open_image(path) as (_, image):
        pixels, alpha = np.asarray(image), image.mode in ("LA", "PA", "RGBA")
    if pixels.ndim == 3:
        return np.asarray((pixels[..., :-1] if alpha else pixels).any(axis=2))
    return np.asarray(pixels != 0)


def _encode(mask: np.ndarray, size: tuple[int, int]) -> dict[str, Any]:
    if mask.shape != size:
        raise _Malformed("mask of another size than its image")
    if not mask.any():
        raise _Malformed("empty mask")
    return encode_mask(mask)


def _check_rle(rle: dict[str, Any], size: tuple[int, int]) -> None:
    if "size" not in rle and "counts" not in rle:
        raise _Malformed("segmentation that is an object without `size` and `counts`, so no RLE")
    if rle.get("size") != list(size) or any(type(side) is not int for side in rle["size"]):
        raise _Malformed("RLE of another size than its image")
    try:
        runs = read_runs(rle.get("counts"), size[0] * size[1])
    except ValueError as error:
        raise _Malformed(str(error)) from error
    if not runs[1::2].any():
        raise _Malformed("empty mask")


def _valid_polygons(parts: list[Any], size: tuple[int, int], strict: bool) -> list[Any]:
    """Return `parts` itself if all polygons are valid, else a new list with the valid polygons."""
    kept, covered, fault = [], 0.0, None
    for part in parts:
        try:
            covered += _check_polygon(part, size)
            kept.append(part)
        except _Malformed as reason:
            fault = reason
    if fault and (strict or not kept):
        raise fault
    if covered < _SMALL_POLYGON and _mask_area(kept, size) == 0:
        raise _Malformed("polygon that covers no pixel")
    return kept if fault else parts


def _check_polygon(part: Any, size: tuple[int, int]) -> float:
    """Raise if a polygon is malformed; return its area in pixels, less if it crosses itself."""
    try:
        points = np.asarray(part)
    except ValueError:  # lists of unequal length
        points = np.empty(0)
    if points.ndim != 1 or points.dtype.kind not in "iuf" or len(points) % 2 or len(points) < 6:
        raise _Malformed("polygon that is not [x, y, ...] with at least 3 points")
    x, y = points[0::2].astype(np.float64), points[1::2].astype(np.float64)
    if not np.isfinite(points).all():
        raise _Malformed("polygon with a coordinate that is not finite")
    try:
        check_polygon(part, *size)
    except ValueError as error:
        raise _Malformed(str(error)) from error
    if x.max() <= 0 or y.max() <= 0 or x.min() >= size[1] or y.min() >= size[0]:
        raise _Malformed("polygon outside the image")
    twice = x[:-1] @ y[1:] - x[1:] @ y[:-1] + x[-1] * y[0] - x[0] * y[-1]
    if abs(twice) < 1e-6 and _mask_area([part], size) == 0:
        raise _Malformed("polygon without area")
    return float(abs(twice)) / 2


def _mask_area(mask: list[Any] | dict[str, Any], size: tuple[int, int]) -> float:
    """Return the area in pixels as COCO's tools count it."""
    return float(mask_util.area(compress(mask, *size)))


def find_mask_box(mask: list[Any] | dict[str, Any], size: tuple[int, int]) -> list[float]:
    """Return the XYWH box around a mask, inside the image."""
    if isinstance(mask, list):
        points = np.concatenate([np.asarray(part, dtype=np.float64) for part in mask])
        points = points.reshape(-1, 2).clip(0, size[::-1])
        low, high = points.min(axis=0), points.max(axis=0)
        return [*low.tolist(), *(high - low).tolist()]
    return [float(v) for v in mask_util.toBbox(compress(mask, *size))]
