"""COCO's average precision over weighted images, for many weightings at once.

A bootstrap draws as many images as there are, with replacement. An image that is drawn n times gets
the weight n. So detections are matched once, and each draw costs only a few sums. Letters: I
images, N detections, T IoU thresholds, D draws.
"""

import contextlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.cocoeval import COCOeval

from ..errors import UserError
from ..layers.rle import check_mask
from .matching import IOU_THRESHOLDS, RECALLS
from .numbered_coco import NumberedCOCO

__all__ = ["AP_METRICS", "APTable", "average_classes", "read_ap_table", "take_metrics"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Weights = npt.NDArray[np.int32]

AP_METRICS = ("AP", "AP50", "AP75")  # what an `APTable` computes, in this order

_BLOCK = 1_000_000  # elements of the largest matrix
_AP50, _AP75 = 0, 5  # positions in the IoU thresholds


@dataclass(frozen=True)
class APTable:
    """The matched detections of a data set, from which AP is computed.

    Attributes:
        num_images: I.
        classes: (N,), number of each detection's category.
        scores: (N,).
        images: (N,), index of each detection's image; ascending within a class.
        true: (T, N), whether a detection matches an object that counts.
        counted: (T, N), whether a detection is not ignored.
        objects: number of a category -> (I,), how many of its objects count in each image.
    """

    num_images: int
    classes: Ints = field(repr=False)
    scores: Floats = field(repr=False)
    images: Ints = field(repr=False)
    true: Bools = field(repr=False)
    counted: Bools = field(repr=False)
    objects: dict[int, Weights] = field(repr=False)

    def compute_ap(self, weights: Weights | None = None) -> Floats:
        """Return (D, 3): `AP_METRICS` in 0 to 100; NaN where no object counts.

        AP is pycocotools' for a data set that has each image as often as its weight says: the best
        precision at each of 101 recalls or a higher one, averaged over recalls, classes with
        objects, and thresholds. The two may differ where detections of one class in one image have
        equal scores: copies of an image take turns there, weighted detections do not.

        Args:
            weights: (D, I), how often each image counts; None: once, with D = 1.
        """
        draws = 1 if weights is None else len(weights)
        return average_classes(self.compute_class_ap(weights), draws)

    def compute_class_ap(self, weights: Weights | None = None) -> dict[int, Floats]:
        """Return number of a category -> (D, T): its AP at each IoU threshold, in 0 to 1.

        It is NaN where no object of the category counts. See `compute_ap`, which takes the mean.
        """
        if weights is None:
            weights = np.ones((1, self.num_images), dtype=np.int32)
        found = {}
        for category, objects in self.objects.items():
            number = weights @ objects
            values = np.zeros((len(weights), len(IOU_THRESHOLDS)))
            rows = self.rank(category)
            for index in range(len(IOU_THRESHOLDS)):
                kept = rows[self.counted[index, rows]]
                true = np.flatnonzero(self.true[index, kept])
                if len(true):  # what comes after the last true detection changes nothing
                    images = self.images[kept[: true[-1] + 1]]
                    values[:, index] = _average_precision(weights, images, true, number)
            values[number == 0] = np.nan
            found[category] = values
        return found

    def rank(self, category: int) -> Ints:
        """Return the indices of the detections of a category, best score first."""
        rows = np.flatnonzero(self.classes == category)
        return rows[np.argsort(-self.scores[rows], kind="stable")]


def average_classes(by_class: Mapping[int, Floats], draws: int) -> Floats:
    """Return (D, 3): `AP_METRICS` in 0 to 100; NaN where no class has an object.

    Args:
        by_class: see `APTable.compute_class_ap`.
        draws: D.
    """
    total = np.zeros((draws, len(IOU_THRESHOLDS)))
    present = np.zeros(draws, dtype=np.intp)
    for values in by_class.values():
        defined = ~np.isnan(values)
        total += np.where(defined, values, 0.0)
        present += defined[:, 0]
    with np.errstate(invalid="ignore"):
        by_threshold = 100 * total / present[:, None]
    return take_metrics(by_threshold)


def take_metrics(by_threshold: Floats) -> Floats:
    """Return (D, 3), `AP_METRICS`, of (D, T) values."""
    return np.stack(
        [by_threshold.mean(axis=1), by_threshold[:, _AP50], by_threshold[:, _AP75]], axis=1
    )


def _average_precision(weights: Weights, images: Ints, true: Ints, number: Ints) -> Floats:
    """Return (D,): the precision of one class at one threshold, averaged over recalls.

    Args:
        weights: (D, I).
        images: (n,), images of the detections that count, best score first.
        true: (m,), positions of the true ones among them.
        number: (D,), number of objects.
    """
    result = np.zeros(len(weights))
    rows = max(1, _BLOCK // len(images))
    for begin in range(0, len(weights), rows):
        part = slice(begin, begin + rows)
        taken = weights[part][:, images]
        every = np.cumsum(taken, axis=1, dtype=np.int32)[:, true]
        hits = np.cumsum(taken[:, true], axis=1, dtype=np.int32)
        precision = hits / np.maximum(every, 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # How many of the recalls are reached for the first time at each true detection.
        reached = np.searchsorted(RECALLS, hits / np.maximum(number[part], 1)[:, None], "right")
        first = np.diff(reached, axis=1, prepend=0)
        result[part] = (precision * first).sum(axis=1) / len(RECALLS)
    return np.where(number > 0, result, 0.0)


def read_ap_table(
    annotations: str | os.PathLike[str], predictions: str | os.PathLike[str], task: str
) -> APTable:
    """Match the predictions of a model with the objects, by pycocotools, and return the table.

    Args:
        annotations: COCO-format json of the data set.
        predictions: `coco_instances_results.json` of a run.
        task: "segm" or "bbox".

    Raises:
        UserError: a file cannot be read, or the predictions are for other images.
    """
    try:
        with open(predictions, encoding="utf-8") as file:
            results: list[dict[str, Any]] = json.load(file)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            content = json.loads(Path(annotations).read_text("utf-8"))
            _check_masks(content, results)
            truth = NumberedCOCO(content)
            if task == "segm":  # as in detectron2, a detection is as large as its mask
                results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
            evaluation = COCOeval(truth, truth.loadRes(results), task)
            evaluation.params.areaRng = evaluation.params.areaRng[:1]  # all sizes
            evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
            evaluation.evaluate()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot compare {predictions} with {annotations}: {error}") from error
    except AssertionError as error:
        raise UserError(
            f"{predictions} has predictions for other images than {annotations}: {error}"
        ) from error
    return _convert_matches(evaluation)


def _check_masks(content: dict[str, Any], results: list[dict[str, Any]]) -> None:
    images = {image["id"]: image for image in content["images"]}
    for entry in [*content["annotations"], *results]:
        image = images.get(entry["image_id"])
        if image and entry.get("segmentation"):
            check_mask(entry["segmentation"], image.get("height"), image.get("width"))


def _convert_matches(evaluation: COCOeval) -> APTable:
    """Return the table of a `COCOeval` after `evaluate()` with one area range."""
    images, categories = len(evaluation.params.imgIds), evaluation.params.catIds
    objects = {category: np.zeros(images, dtype=np.int32) for category in categories}
    none = np.zeros((len(IOU_THRESHOLDS), 0))
    classes, places, scores = [], [], []
    matched, ignored = [none], [none]
    for index, found in enumerate(evaluation.evalImgs):
        if found is None:  # neither objects nor detections
            continue
        category, image = categories[index // images], index % images
        objects[category][image] = np.count_nonzero(np.asarray(found["gtIgnore"]) == 0)
        count = len(found["dtScores"])
        classes += [category] * count
        places += [image] * count
        scores += found["dtScores"]
        matched.append(found["dtMatches"])
        ignored.append(found["dtIgnore"])
    counted = ~np.concatenate(ignored, axis=1).astype(bool)
    return APTable(
        num_images=images,
        classes=np.array(classes, dtype=np.intp),
        scores=np.array(scores, dtype=np.float64),
        images=np.array(places, dtype=np.intp),
        true=np.concatenate(matched, axis=1).astype(bool) & counted,
        counted=counted,
        objects=objects,
    )
