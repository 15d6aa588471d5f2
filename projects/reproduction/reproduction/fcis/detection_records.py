"""The measurements of an image's detections in the FCIS experiment, and a model's numbers."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mask_rcnn_ext.overlap.contours import trace_contour
from mask_rcnn_ext.overlap.image_instances import ImageInstances
from mask_rcnn_ext.overlap.intervals import bootstrap_ratio, describe_draws, describe_interval
from mask_rcnn_ext.overlap.overlap_errors import measure_errors
from mask_rcnn_ext.overlap.same_part import (
    SamePartRecord,
    draw_same_part,
    measure_matched_parts,
)

from .box_sides import SideLengths, measure_box_sides
from .own_proposals import VotedMasks

__all__ = ["DetectionRecord", "measure_detections", "summarize_detections"]


@dataclass(frozen=True)
class DetectionRecord:
    """The detections of one image that are matched with objects.

    Attributes:
        objects: number of objects.
        matched: number of objects that a detection is matched with.
        same_part: "k = 7" -> the errors of the matched pairs, in the RoIs of the detections.
        errors: see `ImageErrors.sums`.
        sides: summed over the matched detections; zeros for Mask R-CNN.
    """

    objects: int
    matched: int
    same_part: dict[str, SamePartRecord]
    errors: dict[str, tuple[float, int]]
    sides: SideLengths


def measure_detections(
    instances: ImageInstances, parts: Sequence[int], votes: VotedMasks | None
) -> DetectionRecord:
    """Measure the matched detections of an image.

    Args:
        instances: the image, with RoIs.
        parts: each k that same-part errors are measured for.
        votes: the voters of FCIS's detections, for masks before and after the vote.
    """
    matches = instances.match()
    sides = SideLengths()
    if votes is not None:
        sides = _measure_sides(instances, list(matches.values()), votes)
    return DetectionRecord(
        objects=int(np.count_nonzero(~instances.crowd)),
        matched=len(matches),
        same_part={f"k = {k}": measure_matched_parts(instances, k=k) for k in parts},
        errors=measure_errors(instances).sums,
        sides=sides,
    )


def _measure_sides(
    instances: ImageInstances, detections: Sequence[int], votes: VotedMasks
) -> SideLengths:
    """Return the lengths of the detections' contours, summed."""
    size = instances.height, instances.width
    objects = [
        trace_contour(instances.object_crops[index], *size).points
        for index in np.flatnonzero(~instances.crowd)
    ]
    places = {int(position): i for i, position in enumerate(votes.instances.positions)}
    found = [
        measure_box_sides(
            instances.decode_detection(detection),
            votes.find_ends(places[int(instances.positions[detection])]),
            np.concatenate(objects),
            *size,
        )
        for detection in detections
    ]
    sums = np.array([dataclasses.astuple(lengths) for lengths in found]).reshape(-1, 4).sum(axis=0)
    return SideLengths(*sums.tolist())


def summarize_detections(trainings: Sequence[Sequence[DetectionRecord]]) -> dict[str, Any]:
    """Return the numbers of a model, ready for json.

    Args:
        trainings: the records of each training, of the same images.

    Returns:
        "objects" and "matched", summed over the trainings; "same_part" -> "k = 7" -> see
        `draw_same_part`; "errors" -> "leak", "miss", "double_claim", "spurious_edge" ->
        {"value", "low", "high"} in percent; "box_sides" -> "on_sides", "wrong", "wrong_on_sides" ->
        the share of the contour, in percent, see `SideLengths`; without a value for Mask R-CNN.
    """

    def over_images(pairs: Sequence[Sequence[tuple[float, int]]]) -> dict[str, float | None]:
        sums = np.array(pairs, dtype=np.float64).reshape(len(trainings), -1, 2)
        return describe_interval(
            100 * bootstrap_ratio(sums[..., 0], sums[..., 1], draws=1000, seed=0)
        )

    (first, *_), *_ = trainings
    return {
        "objects": sum(record.objects for records in trainings for record in records),
        "matched": sum(record.matched for records in trainings for record in records),
        "same_part": {
            k: describe_draws(
                draw_same_part([[r.same_part[k] for r in records] for records in trainings])
            )
            for k in first.same_part
        },
        "errors": {
            name.removeprefix("errors/"): over_images(
                [[r.errors[name] for r in records] for records in trainings]
            )
            for name in first.errors
        },
        "box_sides": {
            name: over_images(
                [
                    [(getattr(r.sides, name), r.sides.length) for r in records]
                    for records in trainings
                ]
            )
            for name in ("on_sides", "wrong", "wrong_on_sides")
        },
    }
