"""The share of each image in every metric of the comparison: the unit of the bootstrap."""

import functools
import math
import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from ..arrays import Bools, Floats, Ints
from .boundary import boundary_iou, compute_boundary_distance, find_boundary
from .crops import CropCache
from .detections import Detections, require_images
from .image_instances import MAX_DETECTIONS, ImageInstances, read_image_instances
from .lines import LineRecord, measure_lines
from .matching import IOU_THRESHOLDS, LEVELS, find_nearest_levels, match_detections
from .numbered_coco import sort_ids
from .overlap_errors import ImageErrors, measure_errors

__all__ = ["ImageRecord", "MatchTable", "measure"]

_CHUNK = 8  # images that a process gets at a time
_SHARE = 200  # least images per process: starting a process takes seconds


@dataclass(frozen=True)
class MatchTable:
    """How the detections of an image match the objects that count for one kind of AP.

    Attributes:
        true: (T, D), whether a detection matches an object that counts, at each of COCO's T IoU
            thresholds.
        counted: (T, D), whether a detection is not ignored.
        objects: place of a category -> number of objects that count.
    """

    true: Bools = field(repr=False)
    counted: Bools = field(repr=False)
    objects: dict[int, int]


@dataclass(frozen=True)
class ImageRecord:
    """The share of one image in the metrics.

    Attributes:
        image_id: the id of the image in the data set.
        classes: (D,), places of the detections' categories, best score first.
        scores: (D,).
        tables: the match table for each name in `metrics.AP_TASKS`.
        sums: metric -> (sum, number) of its values, see `ImageErrors.sums`.
        counts: names in `metrics.COUNTS` -> numbers that are not 0.
        matches: position of a detection in the image's list -> id of the annotation that it is
            matched with.
        lines: the measures of axis runs; None if they were not asked for.
    """

    image_id: Any
    classes: Ints = field(repr=False)
    scores: Floats = field(repr=False)
    tables: dict[str, MatchTable] = field(repr=False)
    sums: dict[str, tuple[float, int]]
    counts: dict[str, int]
    matches: dict[int, Any] = field(repr=False)
    lines: LineRecord | None = field(default=None, repr=False)


def measure(
    coco_gt: COCO,
    detections: Detections,
    *,
    progress: Callable[[int, int], None] | None = None,
    processes: int = 1,
    max_detections: int = MAX_DETECTIONS,
    lines: bool = False,
    parts: int | None = None,
) -> list[ImageRecord]:
    """Match the detections of a model with the objects and measure the errors, image by image.

    Masks stay RLE; each process decodes the masks of one image at a time.

    Args:
        coco_gt: the data set, see `detections.load_truth`.
        detections: see `detections.load_results`.
        progress: called after each image with the number of images that are done and of all images.
        processes: more than 1 starts new Python processes, at most one for each 200 images. The
            script must then be guarded by `if __name__ == "__main__"`.
        max_detections: number of detections of one class in one image that count, the best.
        lines: also measure the axis runs of the masks, see `lines`.
        parts: k, to measure same-part errors in the boxes of the detections; needs `lines`.

    Returns:
        One record for each image of the data set, by ascending id; they can be pickled.

    Raises:
        UserError: there are detections on an image that the data set does not have, or an
            annotation has a broken mask.
    """
    ids = sort_ids(coco_gt.imgs)
    require_images(detections, coco_gt.imgs)
    images = (read_image_instances(coco_gt, i, detections, max_detections) for i in ids)
    measure_image = functools.partial(_measure_image, lines=lines, parts=parts)
    records: list[ImageRecord] = []

    def collect(found: Iterable[ImageRecord]) -> list[ImageRecord]:
        for record in found:
            records.append(record)
            if progress:
                progress(len(records), len(ids))
        return records

    processes = min(processes, len(ids) // _SHARE)
    if processes <= 1:
        return collect(map(measure_image, images))
    # New processes, not forks: a fork of a process with threads, such as PyTorch's, may hang.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return collect(pool.imap(measure_image, images, chunksize=_CHUNK))


def _measure_image(instances: ImageInstances, lines: bool, parts: int | None) -> ImageRecord:
    errors = measure_errors(instances)
    counts = _count(instances, errors)
    return ImageRecord(
        image_id=instances.image_id,
        classes=instances.detection_classes,
        scores=instances.scores,
        tables=_make_tables(instances),
        sums=errors.sums,
        counts={name: number for name, number in counts.items() if number},
        matches={match.detection: match.annotation_id for match in errors.matches},
        lines=measure_lines(instances, parts=parts) if lines else None,
    )


def _count(instances: ImageInstances, errors: ImageErrors) -> dict[str, int]:
    counts = {
        "images": 1,
        "objects": int(np.count_nonzero(~instances.crowd)),
        "crowds": int(np.count_nonzero(instances.crowd)),
        "detections": len(instances.scores),
        "matched": len(errors.matches),
        "matched_met": sum(not math.isnan(match.leak) for match in errors.matches),
        "pairs": len(errors.pairs),
    }
    for task, prefix in (("overlap", "objects"), ("overlap_same", "objects_same")):
        levels = instances.levels[task][~instances.crowd]
        for index, level in enumerate(LEVELS):
            counts[f"{prefix}_{level}"] = int(np.count_nonzero(levels == index))
    return counts


def _make_tables(instances: ImageInstances) -> dict[str, MatchTable]:
    """Return the match table of every kind of AP."""
    everything = ~instances.crowd
    ious = {category: ious for category, (_, _, ious) in instances.mask_ious.items()}
    tables = {
        "AP": _match(instances, ious, everything),
        "boundary": _match(instances, _compute_boundary_ious(instances), everything),
    }
    detections = instances.detection_boxes, instances.detection_classes
    objects = instances.boxes, instances.classes
    for task, levels in instances.levels.items():
        # The level at which a detection counts when it is unmatched; -1: at every level.
        detection_levels = find_nearest_levels(detections, objects, instances.crowd, levels)
        for index, level in enumerate(LEVELS):
            at_level = (detection_levels == index) | (detection_levels < 0)
            counts = everything & (levels == index)
            tables[f"{task}_{level}"] = _match(instances, ious, counts, at_level)
    return tables


def _match(
    instances: ImageInstances,
    ious: dict[int, Floats],
    counts: Bools,
    unmatched_count: Bools | bool = True,
) -> MatchTable:
    """Match with the objects that count. Other objects and their detections are ignored.

    Args:
        instances: the image.
        ious: category -> (D_c, G_c).
        counts: (G,).
        unmatched_count: (D,), which detections count when they match nothing; True: all.
    """
    shape = (len(IOU_THRESHOLDS), len(instances.scores))
    true, counted = np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool) & unmatched_count
    objects = {}
    for category, (here, there, _) in instances.mask_ious.items():
        if number := int(np.count_nonzero(counts[there])):
            objects[category] = number
        if not len(here) or not len(there):
            continue
        matches = match_detections(ious[category], ~counts[there], instances.crowd[there])
        hit = matches >= 0
        right = hit & counts[there][matches]
        true[:, here] = right
        counted[:, here] = np.where(hit, right, counted[:, here])
    return MatchTable(true, counted, objects)


def _compute_boundary_ious(instances: ImageInstances) -> dict[int, Floats]:
    """Return category -> (D_c, G_c): the smaller one of mask IoU and Boundary IoU.

    Crowds keep their mask IoU. So do pairs whose mask IoU is below every threshold: they match
    nothing either way, and their masks need not be decoded.
    """
    distance = compute_boundary_distance(instances.height, instances.width)
    objects = CropCache(lambda g: find_boundary(instances.object_crops[g], distance))
    detections = CropCache(lambda d: find_boundary(instances.decode_detection(d), distance))
    found = {}
    for category, (here, there, ious) in instances.mask_ious.items():
        smaller = ious.copy()
        for row, column in np.argwhere(ious >= IOU_THRESHOLDS[0]):
            d, g = int(here[row]), int(there[column])
            if instances.crowd[g]:
                continue
            iou = boundary_iou(objects[g], detections[d])
            smaller[row, column] = min(smaller[row, column], iou)
        found[category] = smaller
    return found
