"""What one image adds to every metric of the comparison: the bootstrap's unit."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .boundary import boundary_distance, boundary_iou, boundary_of
from .crops import Crop
from .detections import Detection
from .errors import OverlapErrors, measure_errors
from .image_instances import Scene, make_scene
from .matching import IOU_THRESHOLDS, LEVELS, box_iou, match_detections, nearest_level

__all__ = ["ImageRecord", "Job", "MatchTable", "error_sums", "measure_image"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]


@dataclass(frozen=True)
class MatchTable:
    """How the detections of an image match the objects that count in one table.

    Attributes:
        true: (T, D), matched with an object that counts, at each of COCO's T IoU thresholds.
        counted: (T, D), not ignored.
        objects: category id -> how many objects count.
    """

    true: Bools = field(repr=False)
    counted: Bools = field(repr=False)
    objects: dict[int, int]


@dataclass(frozen=True)
class ImageRecord:
    """One image's share of the metrics.

    Attributes:
        image_id: of the data set.
        classes: (D,), category ids of the detections, best score first.
        scores: (D,).
        tables: of AP, boundary AP and AP by overlap level; the names of `metrics.AP_TASKS`.
        sums: name of a metric -> (sum, number) of its values, as a share or a length.
        counts: the names of `metrics.COUNTS` that are not 0.
    """

    image_id: Any
    classes: Ints = field(repr=False)
    scores: Floats = field(repr=False)
    tables: dict[str, MatchTable] = field(repr=False)
    sums: dict[str, tuple[float, int]]
    counts: dict[str, int]


@dataclass(frozen=True)
class Job:
    """What `measure_image` needs: COCO's entries of an image and its objects, and detections."""

    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    detections: list[Detection]
    max_detections: int


def measure_image(job: Job) -> ImageRecord:
    """Return the record of one image."""
    scene = make_scene(job.image, job.annotations, job.detections, job.max_detections)
    errors = measure_errors(scene)
    counts = _counts(scene, errors)
    return ImageRecord(
        image_id=job.image["id"],
        classes=scene.detection_classes,
        scores=scene.scores,
        tables=_tables(scene),
        sums=error_sums(errors),
        counts={name: number for name, number in counts.items() if number},
    )


def error_sums(errors: OverlapErrors) -> dict[str, tuple[float, int]]:
    """Return name of a metric -> (sum, number) over the objects or pairs that it is a mean of."""
    pairs = errors.pairs
    return {
        "errors/leak": _sum(match.leak for match in errors.matches),
        "errors/miss": _sum(match.miss for match in errors.matches),
        "errors/double_claim": _sum(pair.double_claim for pair in pairs),
        "errors/spurious_edge": _sum(match.spurious_edge for match in errors.matches),
        "errors/seam_length": _sum(pair.seam_length for pair in pairs),
        "errors/seam_share": _sum(float(pair.seams > 0) for pair in pairs),
    }


def _sum(values: Iterable[float]) -> tuple[float, int]:
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers), len(numbers)


def _counts(scene: Scene, errors: OverlapErrors) -> dict[str, int]:
    counts = {
        "images": 1,
        "objects": int(np.count_nonzero(~scene.crowd)),
        "crowds": int(np.count_nonzero(scene.crowd)),
        "detections": len(scene.scores),
        "matched": len(errors.matches),
        "matched_met": sum(not math.isnan(match.leak) for match in errors.matches),
        "pairs": len(errors.pairs),
        "pairs_with_seam": sum(pair.seams > 0 for pair in errors.pairs),
    }
    for task, prefix in (("overlap", "objects"), ("overlap_same", "objects_same")):
        levels = scene.levels[task][~scene.crowd]
        for index, level in enumerate(LEVELS):
            counts[f"{prefix}_{level}"] = int(np.count_nonzero(levels == index))
    return counts


def _tables(scene: Scene) -> dict[str, MatchTable]:
    """Return the match table of every AP."""
    everything = ~scene.crowd
    ious = {category: ious for category, (_, _, ious) in scene.mask_ious.items()}
    tables = {
        "AP": _table(scene, ious, everything, None),
        "boundary": _table(scene, _boundary_ious(scene), everything, None),
    }
    for task, levels in scene.levels.items():
        of_detections = _detection_levels(scene, levels)
        for index, level in enumerate(LEVELS):
            at_level = (of_detections == index) | (of_detections < 0)
            counts = everything & (levels == index)
            tables[f"{task}_{level}"] = _table(scene, ious, counts, at_level)
    return tables


def _table(
    scene: Scene, ious: dict[int, Floats], counts: Bools, unmatched_count: Bools | None
) -> MatchTable:
    """Match with the objects that count; the others are ignored, as is what matches them.

    Args:
        scene: the image.
        ious: class -> (D_c, G_c).
        counts: (G,).
        unmatched_count: (D,), which detections count when they match nothing; None: all.
    """
    shape = (len(IOU_THRESHOLDS), len(scene.scores))
    true, counted = np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)
    if unmatched_count is not None:
        counted &= unmatched_count
    objects = {}
    for category, (here, there, _) in scene.mask_ious.items():
        if number := int(np.count_nonzero(counts[there])):
            objects[category] = number
        if not len(here) or not len(there):
            continue
        matches = match_detections(ious[category], ~counts[there], scene.crowd[there])
        hit = matches >= 0
        right = hit & counts[there][matches]
        true[:, here] = right
        counted[:, here] = np.where(hit, right, counted[:, here])
    return MatchTable(true, counted, objects)


def _detection_levels(scene: Scene, levels: Ints) -> Ints:
    """Return (D,): the level that a detection belongs to when it is unmatched; -1 for every one."""
    found = np.full(len(scene.scores), -1, dtype=np.intp)
    for here, there, _ in scene.mask_ious.values():
        there = there[~scene.crowd[there]]
        boxes = scene.detection_boxes[here]
        found[here] = nearest_level(box_iou(boxes, scene.boxes[there]), levels[there])
    return found


def _boundary_ious(scene: Scene) -> dict[int, Floats]:
    """Return class -> (D_c, G_c): the smaller of mask and Boundary IoU; crowds: the mask's.

    A pair whose mask IoU is below every threshold keeps it: it matches nothing either way, so its
    masks need not be decoded.
    """
    distance = boundary_distance(scene.height, scene.width)
    objects: dict[int, Crop] = {}
    detections: dict[int, Crop] = {}
    found = {}
    for category, (here, there, ious) in scene.mask_ious.items():
        smaller = ious.copy()
        for row, column in np.argwhere(ious >= IOU_THRESHOLDS[0]):
            d, g = int(here[row]), int(there[column])
            if scene.crowd[g]:
                continue
            if g not in objects:
                objects[g] = boundary_of(scene.object_crops[g], distance)
            if d not in detections:
                detections[d] = boundary_of(scene.detection_crop(d), distance)
            smaller[row, column] = min(
                smaller[row, column], boundary_iou(objects[g], detections[d])
            )
        found[category] = smaller
    return found
