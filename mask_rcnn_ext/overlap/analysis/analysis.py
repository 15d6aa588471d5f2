"""The parts of an analysis. `analysis.json` has their fields as keys; None: not defined."""

from dataclasses import dataclass
from typing import Any

__all__ = [
    "Analysis",
    "Calibration",
    "CalibrationBin",
    "ChosenPoint",
    "ClassAnalysis",
    "Confusion",
    "ErrorCost",
    "ErrorTypes",
    "ImageEntry",
    "Interval",
    "PartAnalysis",
    "PrecisionRecall",
    "ThresholdCurve",
    "ThresholdPoint",
]

Curve = list[float | None]


@dataclass(frozen=True)
class Interval:
    """A metric from 0 to 100 with its 95 % interval over images."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ThresholdPoint:
    """See `curves.Operation`; all are None if no threshold is the best."""

    threshold: float | None
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class ChosenPoint:
    """The same at a threshold that was chosen, which is always there."""

    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class ThresholdCurve:
    """The values at each threshold, in `threshold`."""

    threshold: list[float]
    precision: Curve
    recall: Curve
    f1: Curve


@dataclass(frozen=True)
class ClassAnalysis:
    """One class: its numbers of objects and detections, its AP, and its best threshold."""

    objects: int
    detections: int
    AP: Interval
    AP50: Interval
    AP75: Interval
    best: ThresholdPoint


@dataclass(frozen=True)
class PartAnalysis:
    """The objects of one size, or of one level of overlap."""

    objects: int
    AP: Interval
    AP50: Interval
    AP75: Interval


@dataclass(frozen=True)
class PrecisionRecall:
    """Curves of precision.

    Attributes:
        recall: the places of all curves.
        mean: IoU threshold -> the mean over the classes.
        classes: class -> its curve at IoU 0.5.
    """

    recall: list[float]
    mean: dict[str, Curve]
    classes: dict[str, Curve]


@dataclass(frozen=True)
class Confusion:
    """K classes, and (K + 1) x (K + 1) counts: true class, detected class; background last."""

    classes: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class ErrorCost:
    """How often a type of error occurs, and the AP50 that it costs, in points."""

    count: int
    cost: float | None


@dataclass(frozen=True)
class ErrorTypes:
    """AP50, and the cost of each of `error_types.ERROR_TYPES`."""

    AP50: float | None
    types: dict[str, ErrorCost]


@dataclass(frozen=True)
class CalibrationBin:
    """Detections with scores from `low` to `high`: number, mean score, share that is right."""

    low: float
    high: float
    detections: int
    score: float | None
    right: float | None


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error, and its bins; see `curves.compute_calibration`."""

    error: float | None
    bins: list[CalibrationBin]


@dataclass(frozen=True)
class ImageEntry:
    """See `image_quality.ImageQuality`; with the name of the file."""

    image_id: Any
    file_name: Any
    objects: int
    right: int
    wrong: int
    missed: int
    quality: float | None


@dataclass(frozen=True)
class Analysis:
    """The analysis of a model on a data set.

    Attributes:
        dataset: the name of the data set.
        iou: "mask" or "box".
        images, objects, detections: their numbers.
        draws: number of draws of the bootstrap.
        ap: "AP", "AP50" and "AP75" of all classes.
        classes: by name.
        thresholds: class -> its best score threshold.
        best: the best threshold for all classes together.
        chosen: the threshold of the confusion matrix and of the images.
        threshold_curve: all classes together.
        precision_recall: the curves.
        confusion: the matrix.
        error_types: TIDE's types.
        sizes: "small", "medium" and "large".
        overlap: "none", "partial" and "heavy".
        calibration: all classes together.
        per_image: the worst image first; images without a quality last.
    """

    dataset: str
    iou: str
    images: int
    objects: int
    detections: int
    draws: int
    ap: dict[str, Interval]
    classes: dict[str, ClassAnalysis]
    thresholds: dict[str, float | None]
    best: ThresholdPoint
    chosen: ChosenPoint
    threshold_curve: ThresholdCurve
    precision_recall: PrecisionRecall
    confusion: Confusion
    error_types: ErrorTypes
    sizes: dict[str, PartAnalysis]
    overlap: dict[str, PartAnalysis]
    calibration: Calibration
    per_image: list[ImageEntry]
