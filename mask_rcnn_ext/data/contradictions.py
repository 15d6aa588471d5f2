"""Finds boxes that contradict their masks, and objects that are annotated twice in an image.

For boxes it names the convention that they seem to follow. COCO's convention is [x, y, width,
height] in pixels. A box that was written in another convention differs from the box around the mask
of the same object.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import Bools, Floats
from ..errors import name_some
from ..layers.rle import compress
from .findings import Doubt

__all__ = ["explain_contradictions", "explain_duplicates"]

_SLACK = 2.0  # pixels; COCO's crowd boxes lack 1 pixel, and tools round coordinates
_CLOSE = 0.95  # with at least this IoU, a box and the box around its mask agree
_FAR = 0.5  # below this IoU, they lie in different places
_MOST = 0.5  # share of the boxes


def _as_corners(box: Floats) -> Floats:
    return np.hstack([box[:, :2], box[:, 2:] - box[:, :2]])


def _as_centre(box: Floats) -> Floats:
    return np.hstack([box[:, :2] - box[:, 2:] / 2, box[:, 2:]])


def _exchange(box: Floats) -> Floats:
    return box[:, [1, 0, 3, 2]]


_EXCHANGED = "x and y are exchanged, in the boxes or in the masks"
# Possible meanings of boxes (N, 4), each with the function that returns them as XYWH in pixels;
# `sides` (N, 4) are width, height, width, height of the image.
_READINGS: dict[str, Callable[[Floats, Floats], Floats]] = {
    "corners (x1, y1, x2, y2)": lambda box, sides: _as_corners(box),
    "corners with y first (y1, x1, y2, x2)": lambda box, sides: _as_corners(_exchange(box)),
    "centre and size (cx, cy, width, height)": lambda box, sides: _as_centre(box),
    "fractions of the image": lambda box, sides: box * sides,
    "fractions of the image, as corners": lambda box, sides: _as_corners(box * sides),
    "fractions of the image, as centre and size": lambda box, sides: _as_centre(box * sides),
    _EXCHANGED: lambda box, sides: _exchange(box),
}


@np.errstate(over="ignore", invalid="ignore")  # a box may have the largest of floats
def explain_contradictions(
    compared: Sequence[tuple[int, Sequence[float], Sequence[float], tuple[int, int]]],
) -> Doubt | None:
    """Return a doubt about the boxes that contradict their masks, or None.

    Rounded boxes do not count, nor boxes that surround the hidden part of an object too. A box
    counts in three cases: it lies in another place than its mask (IoU below 0.5, and it does not
    contain the mask); or it is far from its mask, like most boxes of the file; or another
    convention explains it and at least half of the boxes that disagree.

    Args:
        compared: for each annotation the id, the box, which should be XYWH in pixels, the XYWH box
            around the mask, and the (H, W) of the image.
    """
    if not compared:
        return None
    ids = [annotation_id for annotation_id, *_ in compared]
    given, masks, sizes = (
        np.array(column, dtype=np.float64) for column in list(zip(*compared, strict=True))[1:]
    )
    sides = sizes[:, [1, 0, 1, 0]]
    close, iou = _compare(given, masks, sides)
    apart = ~close
    if not apart.any():
        return None
    far = apart & (iou < _FAR)
    wrong = far if far.mean() > _MOST else far & ~_contains(given, masks)
    fits = {
        name: apart & _compare(read(given, sides), masks, sides)[0]
        for name, read in _READINGS.items()
    }
    convention = max(fits, key=lambda name: int(fits[name].sum()))
    if fits[convention].sum() >= _MOST * apart.sum():
        wrong = wrong | fits[convention]
    else:
        convention = ""
    if not wrong.any():
        return None
    examples = [
        f"annotation {ids[i]} (bbox {_show(given[i])}, mask {_show(masks[i])})"
        for i in np.flatnonzero(wrong)
    ]
    groups: list[tuple[int, ...]] = [(ids[i],) for i in np.flatnonzero(wrong)]
    text = f"{wrong.sum()} of {len(ids)} boxes contradict their masks: {name_some(examples, 3)}. "
    if convention == _EXCHANGED:
        return Doubt("exchanged", f"{text}It looks as if {convention}. Correct the json", groups)
    if convention:
        text += f"They look like {convention} in place of [x, y, width, height] in pixels. "
    text += (
        "Correct them, or set MASK_RCNN_EXT.DATA.BOXES_FROM_MASKS True, which takes every "
        "box from its mask"
    )
    return Doubt("boxes", text, groups)


def _show(box: Floats) -> str:
    return "[" + ", ".join(f"{value:.5g}" for value in box) + "]"


def _compare(boxes: Floats, others: Floats, sides: Floats) -> tuple[Bools, Floats]:
    """Return whether each box agrees with the other, (N,) bool, and the IoU in the image, (N,)."""
    first, second = (  # corners, in the image
        np.hstack([array[:, :2], array[:, :2] + array[:, 2:]]).clip(0, sides)
        for array in (boxes, others)
    )
    overlap = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    both = overlap.clip(0).prod(axis=1)
    areas = [(corners[:, 2:] - corners[:, :2]).clip(0).prod(axis=1) for corners in (first, second)]
    iou = both / np.maximum(areas[0] + areas[1] - both, np.finfo(np.float64).tiny)
    return (np.abs(first - second).max(axis=1) <= _SLACK) | (iou >= _CLOSE), iou


def _contains(boxes: Floats, others: Floats) -> Bools:
    begins = boxes[:, :2] <= others[:, :2] + _SLACK
    ends = boxes[:, :2] + boxes[:, 2:] >= others[:, :2] + others[:, 2:] - _SLACK
    return np.asarray((begins & ends).all(axis=1))


def explain_duplicates(
    annotations: Sequence[dict[str, Any]], sizes: Mapping[int, tuple[int, int]]
) -> Doubt | None:
    """Return a doubt about annotations that repeat another annotation, or None.

    A copy has the same image, the same category, the same box up to rounding, and a mask (polygons
    or RLE) with the same pixels. Crowd regions do not count.

    Args:
        annotations: checked; `bbox` is XYWH, `segmentation` is polygons, RLE or missing.
        sizes: image id -> (H, W).
    """
    groups: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for annotation in annotations:
        if not annotation["iscrowd"]:
            place = (annotation["image_id"], annotation["category_id"])
            box = (round(v) for v in annotation["bbox"])
            groups.setdefault((*place, *box), []).append(annotation)
    copies: list[tuple[int, ...]] = []
    for group in groups.values():
        first_of: dict[Any, int] = {}  # the pixels of a mask -> the id of its first annotation
        for annotation in group if len(group) > 1 else ():
            mask = annotation.get("segmentation")
            pixels = compress(mask, *sizes[annotation["image_id"]])["counts"] if mask else b""
            first = first_of.setdefault(pixels, annotation["id"])
            if first != annotation["id"]:
                copies.append((first, annotation["id"]))
    if not copies:
        return None
    named = [f"annotation {copy} repeats {first}" for first, copy in copies]
    text = (
        f"{len(copies)} of {len(annotations)} annotations repeat an object of their image, with "
        f"the same category and the same mask or box: {name_some(named, 3)}. Evaluation counts "
        "each copy as a missed object. Remove the copies"
    )
    return Doubt("copies", text, copies)
