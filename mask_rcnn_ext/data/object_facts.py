"""Counts the objects of a COCO json, and finds objects that are tiny, huge or doubled."""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ..arrays import Floats
from ..errors import count_noun, name_some, say_have
from ..layers.rle import compress
from .annotations import explain_crowds
from .coco_json import CocoJson
from .findings import Example, Finding

__all__ = ["ObjectFacts", "collect_object_facts", "find_odd_objects"]

_TINY = 8.0  # pixels; two cells of the finest level of an FPN
_HUGE = 0.9  # of the image
_TWINS = 0.85  # IoU of two objects that may be the same object
_FEW = 10  # objects of a class
_ROWS = 1000  # boxes that are compared with all others at a time

Annotation = dict[str, Any]


@dataclass(frozen=True)
class ObjectFacts:
    """Facts about the objects of a json. Only `crowds` and `empty` take crowd regions into account.

    Attributes:
        per_class: class name -> number of objects.
        per_image: number of objects of each image, in the order of the json.
        sizes: square roots of the box areas, in pixels.
        overlaps: for each object, the largest box IoU with another object of its image.
        crowds: annotations that are crowd regions.
        tiny: objects smaller than 8 x 8 pixels, the smallest first.
        huge: objects whose box covers at least 90 % of the image, the largest first.
        twins: (IoU, annotation, annotation) of objects that cover nearly the same pixels, but are
            no exact copies; the highest IoU first.
        empty: indices of images without any annotation.
    """

    per_class: dict[str, int]
    per_image: list[int] = field(repr=False)
    sizes: list[float] = field(repr=False)
    overlaps: list[float] = field(repr=False)
    crowds: list[Annotation] = field(repr=False)
    tiny: list[Annotation] = field(repr=False)
    huge: list[Annotation] = field(repr=False)
    twins: list[tuple[float, Annotation, Annotation]] = field(repr=False)
    empty: list[int] = field(repr=False)


def collect_object_facts(file: CocoJson) -> ObjectFacts:
    """Count the sound annotations of an inspected json, which may have faults elsewhere."""
    images = file.content.get("images", [])
    names = {c.get("id"): str(c.get("name")) for c in file.content.get("categories", [])}
    copies = {copy for d in file.doubts if d.kind == "copies" for *_, copy in d.groups}
    objects: dict[Any, list[Annotation]] = defaultdict(list)
    for annotation in file.kept:
        if not annotation["iscrowd"]:
            objects[annotation["image_id"]].append(annotation)
    crowds = [annotation for annotation in file.kept if annotation["iscrowd"]]
    per_class = dict.fromkeys(names.values(), 0)
    sizes, overlaps, twins = [], [], []
    tiny, huge = [], []
    for image in images:
        group = objects[image["id"]]
        if not group:
            continue
        boxes = np.array([a["bbox"] for a in group], dtype=np.float64)
        areas = boxes[:, 2] * boxes[:, 3]
        largest, alike = _compare_boxes(boxes)
        overlaps += largest
        sizes += np.sqrt(areas).tolist()
        twins += _find_twins(group, alike, (image["height"], image["width"]), copies)
        for annotation, area in zip(group, areas, strict=True):
            name = names.get(annotation["category_id"], "?")
            per_class[name] = per_class.get(name, 0) + 1
            if area < _TINY**2:
                tiny.append((area, annotation))
            if area >= _HUGE * image["height"] * image["width"]:
                huge.append((-area, annotation))
    annotated = {annotation["image_id"] for annotation in file.annotations}
    return ObjectFacts(
        per_class,
        [len(objects[image["id"]]) for image in images],
        sizes,
        overlaps,
        crowds,
        [a for _, a in sorted(tiny, key=lambda pair: pair[0])],
        [a for _, a in sorted(huge, key=lambda pair: pair[0])],
        sorted(twins, key=lambda twin: -twin[0]),
        [i for i, image in enumerate(images) if image["id"] not in annotated],
    )


def _compare_boxes(boxes: Floats) -> tuple[list[float], list[tuple[int, int, float]]]:
    """Compare the boxes (N, 4), XYWH, of an image with each other.

    Returns:
        The largest IoU of each box, and the pairs i < j that are nearly the same, with their IoUs.
    """
    largest: list[float] = []
    alike = []
    for start in range(0, len(boxes), _ROWS):  # N x N numbers could fill the memory
        rows = boxes[start : start + _ROWS]
        ious = np.nan_to_num(np.asarray(mask_util.iou(rows, boxes, [0] * len(boxes))))
        places = np.arange(len(rows))
        ious[places, start + places] = 0
        largest += ious.max(axis=1).tolist()
        pairs = np.argwhere(np.triu(ious, start + 1) >= _TWINS).tolist()
        alike += [(start + i, j, float(ious[i, j])) for i, j in pairs]
    return largest, alike


def _find_twins(
    group: list[Annotation],
    alike: list[tuple[int, int, float]],
    size: tuple[int, int],
    copies: set[int],
) -> list[tuple[float, Annotation, Annotation]]:
    """Return the pairs of an image's objects that cover nearly the same pixels."""
    twins = []
    for i, j, iou in alike:
        first, second = group[i], group[j]
        if first["id"] in copies or second["id"] in copies:
            continue
        if all(a.get("segmentation") for a in (first, second)):
            one, other = (compress(a["segmentation"], *size) for a in (first, second))
            iou = float(mask_util.iou([one], [other], [0])[0, 0])
        if iou >= _TWINS:
            twins.append((iou, first, second))
    return twins


def find_odd_objects(split: str, file: CocoJson, facts: ObjectFacts) -> list[Finding]:
    """Return suspicious objects of a json that a training does not warn about."""
    places = {image["id"]: i for i, image in enumerate(file.content.get("images", []))}
    names = {c.get("id"): str(c.get("name")) for c in file.content.get("categories", [])}

    def show(*annotations: Annotation, text: str = "") -> Example:
        ids = tuple(annotation["id"] for annotation in annotations)
        return Example(split, places[annotations[0]["image_id"]], ids, text)

    found = []
    total = len(facts.sizes)
    if facts.twins:
        shown = [f"annotations {a['id']} and {b['id']}" for _, a, b in facts.twins]
        examples = []
        for iou, *pair in facts.twins:
            classes = dict.fromkeys(names.get(a["category_id"], "?") for a in pair)
            examples.append(show(*pair, text=f"IoU {iou:.2f}, {' and '.join(classes)}"))
        text = (
            f"{file.path}: {count_noun(len(shown), 'pair')} of objects with nearly "
            f"the same pixels (IoU of {_TWINS:g} or more): {name_some(shown, 3)}. If a pair is one "
            "object, remove the worse of the two"
        )
        found.append(Finding("warning", text, examples))
    if facts.tiny:
        side = math.sqrt(facts.tiny[0]["bbox"][2] * facts.tiny[0]["bbox"][3])
        text = (
            f"{file.path}: {len(facts.tiny)} of {total} objects are tiny, below {_TINY:g} x "
            f"{_TINY:g} pixels; the smallest is annotation {facts.tiny[0]['id']}, with the area of "
            f"a square of {side:.1f} pixels. They may be stray clicks. If they are objects, train "
            "at a larger size (INPUT.MIN_SIZE_TRAIN) with smaller anchors "
            "(MODEL.ANCHOR_GENERATOR.SIZES)"
        )
        found.append(Finding("note", text, [show(a) for a in facts.tiny]))
    if facts.huge:
        text = (
            f"{file.path}: the boxes of {len(facts.huge)} of {total} objects cover at least "
            f"{_HUGE:.0%} of their image: {_name(facts.huge)}. The cause may be a stray pixel or "
            "a box around a group"
        )
        found.append(Finding("note", text, [show(a) for a in facts.huge]))
    if facts.crowds and not explain_crowds(file.kept):  # else training warns
        text = (
            f"{file.path}: {count_noun(len(facts.crowds), 'crowd region')}, neither "
            f"learned nor counted: {_name(facts.crowds)}"
        )
        found.append(Finding("note", text, [show(a) for a in facts.crowds]))
    if facts.empty:
        shown = [str(file.content["images"][i].get("file_name")) for i in facts.empty]
        text = (
            f"{file.path}: {say_have(shown, facts.per_image, 'images')} no annotation: "
            f"{name_some(shown)}. Training leaves them out (DATALOADER.FILTER_EMPTY_ANNOTATIONS); "
            "in evaluation every detection on them is wrong. Make sure that they are empty"
        )
        found.append(Finding("note", text, [Example(split, i) for i in facts.empty]))
    return found + _find_rare_classes(split, file, facts)


def _find_rare_classes(split: str, file: CocoJson, facts: ObjectFacts) -> list[Finding]:
    if not facts.sizes:
        return []
    if split == "val":
        absent = [name for name, n in facts.per_class.items() if not n]
        text = (
            f"{file.path}: {say_have(absent, facts.per_class, 'classes')} no object here, and so "
            f"no AP: {name_some(absent)}"
        )
        return [Finding("note", text)] if absent else []
    few = [f"{name} ({n})" for name, n in facts.per_class.items() if 0 < n < _FEW]
    text = (
        f"{file.path}: {say_have(few, facts.per_class, 'classes')} fewer than {_FEW} objects to "
        f"learn from: {name_some(few)}"
    )
    return [Finding("note", text)] if few else []


def _name(annotations: list[Annotation]) -> str:
    return name_some([f"annotation {annotation['id']}" for annotation in annotations], 3)
