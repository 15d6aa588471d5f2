"""Finds objects that are annotated twice in one image."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import name_some
from ..layers.rle import compress
from .findings import Doubt

__all__ = ["explain_duplicates"]


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
