"""How sure is a difference between two models? 95 % intervals for differences of COCO AP.

Two sources of chance, two intervals. Trained again with other seeds, both models come out a little
different: `t_interval` over the per-seed differences. Evaluated on other images, both score a
little different: `paired_bootstrap` over the images, which needs one run of each. NumPy only;
pycocotools matches detections with objects once per model, in `image_table`.
"""

import contextlib
import copy
import io
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..errors import UserError

__all__ = [
    "METRICS",
    "ImageTable",
    "image_table",
    "paired_bootstrap",
    "t_interval",
    "t_quantile",
    "table_of",
]

METRICS = ("AP", "AP50", "AP75")  # what an `ImageTable` computes
_AP50, _AP75 = 0, 5  # of COCO's ten IoU thresholds

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.intp]


def t_quantile(degrees: int, level: float = 0.95) -> float:
    """Return t with P(|T| < t) = `level` for Student's t with `degrees` degrees of freedom.

    With T = sqrt(degrees) tan(a), the angle a has a density proportional to cos(a)^(degrees - 1):
    its integral, by the trapezoidal rule, is right to 7 digits.

    Raises:
        ValueError: `degrees` is below 1, or `level` not between 0 and 1.
    """
    if degrees < 1 or not 0 < level < 1:
        raise ValueError(f"expected degrees >= 1 and 0 < level < 1, got {degrees} and {level}")
    angles = np.linspace(0, math.pi / 2, 100_001)
    density = np.cos(angles) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(degrees) * np.tan(np.interp(level, area / area[-1], angles)))


def t_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return (low, high): the `level` Student t interval of the mean of paired `differences`.

    Args:
        differences: one per seed, at least two.
        level: the coverage, 0 to 1.

    Raises:
        ValueError: fewer than two differences.
    """
    if len(differences) < 2:
        raise ValueError(f"expected two or more differences, got {len(differences)}")
    values = np.asarray(differences, dtype=np.float64)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    half = t_quantile(len(values) - 1, level) * error
    return float(values.mean()) - half, float(values.mean()) + half


@dataclass(frozen=True)
class _ClassTable:
    """One class: its detections, image after image, and its objects.

    Attributes:
        scores: (N,), of the detections.
        true, counted: (T, N) at each of the T IoU thresholds: matches an object; counts at all.
        start: (I + 1,), where the detections of each of the I images begin.
        objects: (I,), how many objects each image has.
    """

    scores: Floats
    true: Bools
    counted: Bools
    start: Ints
    objects: Ints

    def precision(self, draw: Ints, recalls: Floats) -> Floats | None:
        """Return the (T, R) interpolated precision over the images of `draw`; None: no object."""
        objects = int(self.objects[draw].sum())
        if not objects:
            return None
        lengths = self.start[draw + 1] - self.start[draw]
        # The detections of each drawn image, in the order of the draw: a start for each image,
        # repeated, and a count from there.
        ends = np.cumsum(lengths)
        rows = np.repeat(self.start[draw] - (ends - lengths), lengths) + np.arange(lengths.sum())
        rows = rows[np.argsort(-self.scores[rows], kind="stable")]
        counted = self.counted[:, rows]
        hits = np.cumsum(self.true[:, rows] & counted, axis=1, dtype=np.float64)
        every = np.cumsum(counted, axis=1, dtype=np.float64)
        precision = hits / (every + np.spacing(1))
        # The best precision at this recall or a higher one; 0 where the recall is never reached.
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        precision = np.pad(precision, ((0, 0), (0, 1)))
        reached = np.stack([np.searchsorted(row / objects, recalls) for row in hits])
        return np.take_along_axis(precision, reached, axis=1)


@dataclass(frozen=True)
class ImageTable:
    """What COCO's AP needs of each image, so that it can be had again for any list of images.

    Attributes:
        num_images: I.
        classes: one table for each class.
        recalls: (R,), the recalls that the precision is averaged over.
    """

    num_images: int
    classes: tuple[_ClassTable, ...]
    recalls: Floats

    def ap(self, draw: npt.ArrayLike | None = None) -> Floats:
        """Return (AP, AP50, AP75), 0 to 100, over the images of `draw`.

        An image that is drawn twice counts as two images with the same objects and detections: the
        result is pycocotools' on a data set with that image duplicated.

        Args:
            draw: (any,), indices of images in the order of their ids; default: each once.

        Returns:
            (3,), float64; NaN when there is no object in the images.
        """
        order = np.arange(self.num_images) if draw is None else np.asarray(draw, dtype=np.intp)
        found = (table.precision(order, self.recalls) for table in self.classes)
        precisions = [p.mean(axis=1) for p in found if p is not None]
        if not precisions:
            return np.full(3, np.nan)
        by_threshold = 100 * np.mean(precisions, axis=0)
        return np.array([by_threshold.mean(), by_threshold[_AP50], by_threshold[_AP75]])


def paired_bootstrap(
    first: ImageTable, second: ImageTable, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Floats:
    """Return the percentile interval of `first` minus `second` from resampled images.

    Each draw takes as many images as there are, with replacement, the same for both models. It
    covers the choice of the images, not the chance in training.

    Args:
        first: of one model.
        second: of another, on the same images.
        draws: how many times to resample.
        seed: of the draws.
        level: the coverage, 0 to 1.

    Returns:
        (3, 2): low and high, AP points, of each of `METRICS`.

    Raises:
        ValueError: the two are of different numbers of images.
    """
    if first.num_images != second.num_images:
        raise ValueError(f"expected the same images, got {first.num_images}, {second.num_images}")
    rng = np.random.default_rng(seed)
    differences = np.empty((draws, len(METRICS)))
    for index in range(draws):
        # Sorted, since the order of images only breaks ties of scores.
        draw = np.sort(rng.integers(first.num_images, size=first.num_images))
        differences[index] = first.ap(draw) - second.ap(draw)
    tail = 50 * (1 - level)
    return np.nanpercentile(differences, [tail, 100 - tail], axis=0).T


def table_of(evaluation: COCOeval) -> ImageTable:
    """Return the table of a `COCOeval` after `evaluate()`: all sizes, the largest `maxDets`.

    Raises:
        ValueError: its area ranges do not begin with the one of all sizes.
    """
    params = evaluation.params
    if params.areaRngLbl[0] != "all":
        raise ValueError(f"expected the area range 'all' first, got {params.areaRngLbl}")
    images, areas = len(params.imgIds), len(params.areaRng)
    thresholds = len(params.iouThrs)
    classes = []
    for index in range(len(params.catIds)):
        begin = index * areas * images
        found = evaluation.evalImgs[begin : begin + images]
        none = np.zeros((thresholds, 0), dtype=bool)
        scores = [e["dtScores"] if e else [] for e in found]
        ignored = np.concatenate([e["dtIgnore"] if e else none for e in found], axis=1)
        matches = np.concatenate([e["dtMatches"] if e else none for e in found], axis=1)
        objects = [np.count_nonzero(np.asarray(e["gtIgnore"]) == 0) if e else 0 for e in found]
        classes.append(
            _ClassTable(
                scores=np.concatenate([np.asarray(s, dtype=np.float64) for s in scores]),
                true=matches.astype(bool),
                counted=~ignored.astype(bool),
                start=np.concatenate([[0], np.cumsum([len(s) for s in scores])]).astype(np.intp),
                objects=np.asarray(objects, dtype=np.intp),
            )
        )
    return ImageTable(images, tuple(classes), np.asarray(params.recThrs))


def image_table(
    annotations: str | os.PathLike[str], predictions: str | os.PathLike[str], task: str
) -> ImageTable:
    """Match the predictions of a model with the objects, once, and return the table.

    Args:
        annotations: COCO-format json of the data set.
        predictions: the run's `coco_instances_results.json`.
        task: "segm" or "bbox". As in detectron2, the size of a detection is its mask's for "segm".

    Raises:
        UserError: a file cannot be read, or the predictions are of other images.
    """
    try:
        with open(predictions, encoding="utf-8") as file:
            results: list[dict[str, Any]] = json.load(file)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            truth = COCO(os.fspath(annotations))
            if task == "segm":
                results = [{k: v for k, v in r.items() if k != "bbox"} for r in results]
            evaluation = COCOeval(truth, _load_results(truth, results), task)
            evaluation.params.areaRng = evaluation.params.areaRng[:1]
            evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
            evaluation.evaluate()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot compare {predictions} with {annotations}: {error}") from error
    except AssertionError as error:
        raise UserError(f"{predictions} is not of the images of {annotations}: {error}") from error
    return table_of(evaluation)


def _load_results(truth: COCO, results: list[dict[str, Any]]) -> COCO:
    if results:
        return truth.loadRes(results)
    empty = COCO()  # loadRes fails on a model that found nothing
    empty.dataset = {**copy.copy(truth.dataset), "annotations": []}
    empty.createIndex()
    return empty
