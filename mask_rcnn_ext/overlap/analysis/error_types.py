"""TIDE's six types of errors, and the AP that each type costs.

Bolya et al. 2020 (arXiv:2008.08115), sections 2.2 and 2.3: a detection that is wrong, and an object
that is not found, get one type. An oracle repairs all errors of one type; the AP that this adds is
their cost. Everything is measured at IoU 0.5, the foreground; below 0.1 is background.

The paper leaves open which type a detection gets that fits several: it gets the first of
localization, classification, duplicate, background, both, which is the order of the authors' code.
Four things differ from that code (tidecv 1.0.1), whose counts and costs are the same otherwise:

- An oracle repairs its own type of errors only. Where a badly placed detection and one of another
  class point at the same object, the code repairs the one with the better score, with either
  oracle.
- Classes without objects do not enter the AP, as in COCO.
- Detections in crowds are no errors.
- Where an oracle leaves no object of a class, its AP is 100, not 0: nothing is left to be found.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...arrays import Bools, Floats, Ints
from ..matching import IOU_THRESHOLDS
from .curves import compute_average_precision
from .image_pairs import LEAST_IOU, ImagePairs

__all__ = ["ERROR_TYPES", "ErrorCost", "ErrorTypes", "measure_error_types"]


# Type -> meaning. A detection's type is the index here.
ERROR_TYPES = {
    "localization": "right class, but the IoU with the object is 0.1 to 0.5",
    "classification": "IoU of 0.5 or more with an object of another class",
    "duplicate": "another detection with a higher score has found the object",
    "background": "IoU below 0.1 with every object",
    "both": "wrong class, and an IoU of 0.1 to 0.5",
    "missed": "an object that no detection is near to: neither found, nor one of the first two",
}
_LOCALIZATION, _CLASSIFICATION, _DUPLICATE, _BACKGROUND, _BOTH, _MISSED = range(6)
_RIGHT, _IGNORED = -1, -2
_FOREGROUND = float(IOU_THRESHOLDS[0])


@dataclass(frozen=True)
class ErrorCost:
    """The number of errors of one type, and their cost.

    Attributes:
        count: the number of detections, or of missed objects.
        cost: the AP50 that the oracle adds, in points; NaN without objects.
    """

    count: int
    cost: float


@dataclass(frozen=True)
class ErrorTypes:
    """The errors of a model.

    The costs do not add up to 100 minus the AP, since one error may hide another.

    Attributes:
        AP50: 0 to 100; NaN without objects.
        types: a name in `ERROR_TYPES` -> its cost.
    """

    AP50: float
    types: dict[str, ErrorCost]


@dataclass(frozen=True)
class _Typed:
    """The detections of a data set, each with the type of its error.

    Attributes:
        classes: (N,).
        scores: (N,).
        types: (N,), index in `ERROR_TYPES`, `_RIGHT` or `_IGNORED`.
        targets: (N,), number, over all images, of the object that a detection of the first two
            types should have found; -1 for other detections, and if another detection finds it.
        target_classes: (N,), class of the target.
        objects: (K,), number of objects.
        missed: (K,), number of objects that are missed.
    """

    classes: Ints = field(repr=False)
    scores: Floats = field(repr=False)
    types: Ints = field(repr=False)
    targets: Ints = field(repr=False)
    target_classes: Ints = field(repr=False)
    objects: Ints = field(repr=False)
    missed: Ints = field(repr=False)


def measure_error_types(
    images: Sequence[ImagePairs], matches: Sequence[Ints], num_classes: int
) -> ErrorTypes:
    """Sort the errors of a model into types and measure the cost of each type.

    Args:
        images: the data set.
        matches: (D,) of each image, see `tables.match_all`.
        num_classes: K, of the data set.
    """
    typed = _assign_types(images, matches, num_classes)
    kept = typed.types != _IGNORED
    right = typed.types == _RIGHT
    ap50 = _compute_ap(typed, typed.classes, kept, right, typed.objects)
    types = {}
    for index, name in enumerate(ERROR_TYPES):
        here = typed.types == index
        count = int(typed.missed.sum() if index == _MISSED else np.count_nonzero(here))
        classes, repaired, objects = typed.classes, np.zeros_like(here), typed.objects
        if index in (_LOCALIZATION, _CLASSIFICATION):
            repaired = _choose_repaired(typed, here)
            classes = np.where(repaired, typed.target_classes, classes)
        if index == _MISSED:
            objects = objects - typed.missed
        fixed = _compute_ap(typed, classes, (kept & ~here) | repaired, right | repaired, objects)
        types[name] = ErrorCost(count, fixed - ap50)
    return ErrorTypes(ap50, types)


def _assign_types(
    images: Sequence[ImagePairs], matches: Sequence[Ints], num_classes: int
) -> _Typed:
    types, targets, target_classes = [], [], []
    objects, missed = (np.zeros(num_classes, dtype=np.intp) for _ in range(2))
    first = 0  # number of the image's first object
    for image, matched in zip(images, matches, strict=True):
        found, about = _assign_image_types(image, matched)
        used = np.zeros(len(image.classes), dtype=bool)
        used[matched[matched >= 0]] = True
        near = np.zeros(len(used), dtype=bool)
        near[about[about >= 0]] = True
        np.add.at(objects, image.classes[~image.crowd], 1)
        np.add.at(missed, image.classes[~image.crowd & ~used & ~near], 1)
        free = about >= 0
        free[free] = ~used[about[free]]
        types.append(found)
        targets.append(np.where(free, about + first, -1))
        known = np.append(image.classes, -1)  # the last one, for -1
        target_classes.append(known[np.where(free, about, -1)])
        first += len(used)
    return _Typed(
        classes=_join(image.detection_classes for image in images),
        scores=np.concatenate([np.zeros(0), *(image.scores for image in images)]),
        types=_join(types),
        targets=_join(targets),
        target_classes=_join(target_classes),
        objects=objects,
        missed=missed,
    )


def _join(arrays: Iterable[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, dtype=np.intp), *arrays])


def _assign_image_types(image: ImagePairs, matched: Ints) -> tuple[Ints, Ints]:
    """Return (D,): the type of each detection; (D,): the object it should have found, or -1."""
    count = len(image.scores)
    types = np.full(count, _BACKGROUND, dtype=np.intp)
    about = np.full(count, -1, dtype=np.intp)
    if len(image.classes):
        ious = np.where(image.crowd, 0.0, image.make_ious())
        same = image.detection_classes[:, None] == image.classes[None]
        own, other = np.where(same, ious, 0.0), np.where(same, 0.0, ious)
        best_own, best_other = own.max(axis=1), other.max(axis=1)
        # In reverse order: a type that fits overwrites the types that come after it.
        for index, fits, objects in (
            (_BOTH, ious.max(axis=1) >= LEAST_IOU, None),
            (_DUPLICATE, best_own >= _FOREGROUND, None),
            (_CLASSIFICATION, best_other >= _FOREGROUND, other.argmax(axis=1)),
            (
                _LOCALIZATION,
                (best_own >= LEAST_IOU) & (best_own < _FOREGROUND),
                own.argmax(axis=1),
            ),
        ):
            types[fits] = index
            about[fits] = -1 if objects is None else objects[fits]
    hit = matched >= 0
    types[hit] = np.where(image.crowd[matched[hit]], _IGNORED, _RIGHT)
    about[hit] = -1
    return types, about


def _choose_repaired(typed: _Typed, here: Bools) -> Bools:
    """Return (N,): the detections that an oracle corrects; for each target, the best score."""
    repaired = np.zeros(len(here), dtype=bool)
    rows = np.flatnonzero(here & (typed.targets >= 0))
    # A target is of one image, whose detections are in the order of their scores.
    _, first = np.unique(typed.targets[rows], return_index=True)
    repaired[rows[first]] = True
    return repaired


def _compute_ap(typed: _Typed, classes: Ints, kept: Bools, right: Bools, objects: Ints) -> float:
    """Return the AP at IoU 0.5 of the kept detections: the mean over classes with objects."""
    order = np.argsort(-typed.scores, kind="stable")
    order = order[kept[order]]
    values = []
    for place in np.flatnonzero(typed.objects):
        if objects[place]:
            rows = order[classes[order] == place]
            values.append(compute_average_precision(right[rows], int(objects[place])))
        else:
            values.append(100.0)
    return float(np.mean(values)) if values else math.nan
