"""The parts of an analysis. `analysis.json` has their fields as keys, and null for NaN."""

from dataclasses import dataclass

from .curves import Calibration, Operation
from .error_types import ErrorTypes
from .image_quality import ImageQuality

__all__ = [
    "Analysis",
    "ClassAnalysis",
    "Confusion",
    "Interval",
    "PartAnalysis",
    "PrecisionRecall",
    "ThresholdCurve",
]


@dataclass(frozen=True)
class Interval:
    """A metric from 0 to 100 with its 95 % interval over images; NaN where it is undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PartAnalysis:
    """The AP of a part of the objects, such as all small ones."""

    objects: int
    AP: Interval
    AP50: Interval
    AP75: Interval


@dataclass(frozen=True)
class ClassAnalysis(PartAnalysis):
    """One class: also its number of detections, and its best threshold."""

    detections: int
    best: Operation


@dataclass(frozen=True)
class ThresholdCurve:
    """The fields of `Operation` at each threshold."""

    threshold: list[float]
    precision: list[float]
    recall: list[float]
    f1: list[float]


@dataclass(frozen=True)
class PrecisionRecall:
    """Curves of precision.

    Attributes:
        recall: the places of all curves.
        mean: IoU threshold -> the mean over the classes.
        classes: class -> its curve at IoU 0.5.
    """

    recall: list[float]
    mean: dict[str, list[float]]
    classes: dict[str, list[float]]


@dataclass(frozen=True)
class Confusion:
    """K classes, and (K + 1) x (K + 1) counts: true class, detected class; background last."""

    classes: list[str]
    counts: list[list[int]]


@dataclass(frozen=True)
class Analysis:
    """The analysis of a model on a data set.

    Attributes:
        dataset: the name of the data set.
        iou: "mask" or "box".
        images, objects, detections: the numbers of images, objects and detections.
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
    thresholds: dict[str, float]
    best: Operation
    chosen: Operation
    threshold_curve: ThresholdCurve
    precision_recall: PrecisionRecall
    confusion: Confusion
    error_types: ErrorTypes
    sizes: dict[str, PartAnalysis]
    overlap: dict[str, PartAnalysis]
    calibration: Calibration
    per_image: list[ImageQuality]
