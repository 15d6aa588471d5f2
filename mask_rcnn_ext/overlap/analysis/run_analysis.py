"""The analysis of a model on a data set.

content = json.load(open("annotations.json"))
results = json.load(open("coco_instances_results.json"))
analysis = analyze(content, group_by_image(results), "segm")
analysis.thresholds  # {"cat": 0.41, "dog": 0.56}
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...arrays import Floats, Weights
from ..average_precision import AP_METRICS, APTable, average_classes, take_metrics
from ..intervals import compute_basic_interval, draw_weights
from ..matching import IOU_THRESHOLDS, LEVELS, RECALLS
from ..numbered_coco import sort_ids
from .analysis import (
    Analysis,
    ClassAnalysis,
    Confusion,
    Interval,
    PartAnalysis,
    PrecisionRecall,
    ThresholdCurve,
)
from .confusion import count_confusions
from .curves import (
    Operation,
    choose_threshold,
    compute_calibration,
    compute_pr_curve,
    compute_threshold_curve,
    measure_operation,
    take_detections,
)
from .error_types import measure_error_types
from .image_pairs import Kind, read_image_pairs
from .image_quality import rank_images
from .tables import SIZES, make_tables, match_all

__all__ = ["NO_THRESHOLD", "analyze"]

_UNDEFINED = Operation(math.nan, math.nan, math.nan, math.nan)
NO_THRESHOLD = 0.5  # the score that counts where no threshold is the best
_CURVES = (0, 5, 8)  # IoU thresholds of the mean curves: 0.5, 0.75, 0.9
_DIGITS = 6  # of the numbers in curves, which the page draws


def analyze(
    content: Mapping[str, Any],
    predictions: Mapping[Any, Sequence[Mapping[str, Any]]],
    kind: Kind,
    *,
    dataset: str = "",
    threshold: float | None = None,
    max_detections: int = 100,
    draws: int = 1000,
    seed: int = 0,
) -> Analysis:
    """Return the content of `analysis.json`, see docs/evaluation.md; NaN where it is not defined.

    Args:
        content: the data set, in COCO's annotation format.
        predictions: image id -> its detections in COCO's result format.
        kind: "segm": IoU of masks; "bbox": IoU of boxes.
        dataset: the name of the data set.
        threshold: the score from which detections count in the confusion matrix and for the
            quality of an image; None: the best one over all classes, 0.5 where there is none.
        max_detections: the number of detections of one class in one image that count, best first.
        draws: the number of draws of the bootstrap over images, for 95 % intervals of AP.
        seed: the seed of the draws.

    Raises:
        UserError: see `read_image_pairs`.
    """
    names = _name_classes(content)
    images = read_image_pairs(content, predictions, kind, max_detections=max_detections)
    matches = match_all(images)
    tables = make_tables(images, len(names))
    weights = draw_weights(max(1, len(images)), draws, seed)[:, : len(images)]
    best = choose_threshold(*take_detections(tables["all"]))
    if threshold is None:
        threshold = NO_THRESHOLD if best is None else best.threshold
    chosen = measure_operation(*take_detections(tables["all"]), threshold)
    by_class = tables["all"].compute_class_ap(weights)
    classes = _describe_classes(tables["all"], names, by_class)
    confusion = count_confusions(images, matches, len(names), threshold)
    return Analysis(
        dataset=dataset,
        iou="mask" if kind == "segm" else "box",
        images=len(images),
        objects=sum(int(np.count_nonzero(~image.crowd)) for image in images),
        detections=sum(len(image.scores) for image in images),
        draws=draws,
        ap=_describe_metrics(average_classes(by_class, len(weights))),
        classes=classes,
        thresholds={name: entry.best.threshold for name, entry in classes.items()},
        best=best or _UNDEFINED,
        chosen=chosen,
        threshold_curve=_describe_threshold_curve(tables["all"]),
        precision_recall=_describe_curves(tables["all"], names),
        confusion=Confusion(names, confusion.tolist()),
        error_types=measure_error_types(images, matches, len(names)),
        sizes={name: _describe_part(tables[name], weights) for name in SIZES},
        overlap={name: _describe_part(tables[name], weights) for name in LEVELS},
        calibration=compute_calibration(*take_detections(tables["all"])[:2]),
        per_image=rank_images(images, matches, threshold),
    )


def _name_classes(content: Mapping[str, Any]) -> list[str]:
    """Return the names in the order of the ids; a name that is used twice gets its id."""
    by_id = {c["id"]: str(c.get("name", c["id"])) for c in content["categories"]}
    used = Counter(by_id.values())
    return [
        by_id[i] if used[by_id[i]] == 1 else f"{by_id[i]} (category {i})" for i in sort_ids(by_id)
    ]


def _describe_metrics(values: Floats) -> dict[str, Interval]:
    """Return {"AP": ..., "AP50": ..., "AP75": ...} of (1 + draws, 3) values."""
    found = {}
    for index, name in enumerate(AP_METRICS):
        low, high = compute_basic_interval(values[:, index])
        found[name] = Interval(float(values[0, index]), low, high)
    return found


def _describe_classes(
    table: APTable, names: Sequence[str], by_class: Mapping[int, Floats]
) -> dict[str, ClassAnalysis]:
    found = {}
    for place, name in enumerate(names):
        scores, right, objects = take_detections(table, place)
        found[name] = ClassAnalysis(
            objects,
            **_describe_metrics(take_metrics(100 * by_class[place])),
            detections=len(scores),
            best=choose_threshold(scores, right, objects) or _UNDEFINED,
        )
    return found


def _describe_threshold_curve(table: APTable) -> ThresholdCurve:
    points = compute_threshold_curve(*take_detections(table))
    rows = np.array([dataclasses.astuple(point) for point in points]).round(_DIGITS)
    return ThresholdCurve(*rows.T.tolist())


def _describe_curves(table: APTable, names: Sequence[str]) -> PrecisionRecall:
    """Return the precision at each recall: of each class at IoU 0.5, and means over classes."""
    means = {}
    curves = np.zeros((0, len(RECALLS)))
    for index in reversed(_CURVES):  # the curves of IoU 0.5, the last, are used for the classes
        found = [take_detections(table, place, index) for place in range(len(names))]
        curves = np.array([compute_pr_curve(right, objects) for _, right, objects in found])
        curves = curves.reshape(-1, len(RECALLS))
        defined = curves[~np.isnan(curves[:, 0])]
        mean = defined.mean(axis=0) if len(defined) else np.full(len(RECALLS), np.nan)
        means[f"{IOU_THRESHOLDS[index]:g}"] = mean.round(_DIGITS).tolist()
    return PrecisionRecall(
        RECALLS.round(2).tolist(),
        dict(reversed(means.items())),
        dict(zip(names, curves.round(_DIGITS).tolist(), strict=True)),
    )


def _describe_part(table: APTable, weights: Weights) -> PartAnalysis:
    objects = sum(int(counts.sum()) for counts in table.objects.values())
    return PartAnalysis(objects, **_describe_metrics(table.compute_ap(weights)))
