"""What `results/fcis_experiment.json` and `results/fcis_photographs.json` hold.

"k = 7" and "k = 3" are the keys of numbers that are measured at the parts of an FCIS.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..intervals import Estimate
from ..run_entries import RunEntry
from .photograph_pairs import PairCount

__all__ = ["MISSING", "ChangeRow", "DetectionCounts", "ExperimentResults"]
__all__ += ["ModelNumbers", "NestedEntry", "PhotographErrors", "PhotographModel"]
__all__ += ["PhotographResults"]


MISSING = Estimate(None, None, None)

Estimates = dict[str, Estimate]
ByParts = dict[str, Estimates]  # "k = 7" -> name -> number


def _find(table: Mapping[str, Any] | None, *keys: str) -> Estimate:
    """Return the number at nested keys; `MISSING` if one of them is missing."""
    found: Any = table
    for key in keys:
        found = found.get(key) if found else None
    return found or MISSING


@dataclass(frozen=True)
class ModelEvaluation:
    """The APs after some iterations of a training."""

    iteration: int
    bbox: float | None = None
    segm: float | None = None


@dataclass(frozen=True, kw_only=True)
class NestedEntry(RunEntry):
    """A training, with its evaluations."""

    evaluations: list[ModelEvaluation]


@dataclass(frozen=True, kw_only=True)
class DetectionCounts:
    """The detections of a model, see `summarize_detections`.

    The axis runs are measured before mask voting only, see `ModelNumbers`.
    """

    objects: int
    matched: int
    same_part: ByParts
    errors: Estimates
    box_sides: Estimates
    axis: Estimates | None = None
    places: list[int] | None = None

    def find_error(self, k: int) -> Estimate:
        """Return the same-part error of pairs of one class."""
        return _find(self.same_part, f"k = {k}", "one_class/difference")


@dataclass(frozen=True, kw_only=True)
class ModelNumbers:
    """A model.

    Attributes:
        name: its name.
        same_part: of the masks in the true boxes, see `draw_same_part`.
        axis: of the same masks, see `draw_axis_runs`.
        places: of the same masks, see `AxisRecord`; summed over images and trainings.
        own_proposals: its detections, before mask voting.
        voted: its detections after mask voting; None for Mask R-CNN.
        runs: its trainings.
    """

    name: str
    same_part: ByParts
    axis: Estimates | None = None
    places: list[int]
    own_proposals: DetectionCounts | None = None
    voted: DetectionCounts | None = None
    runs: list[NestedEntry]

    def find_axis(self, name: str) -> Estimate:
        """Return the axis excess, or "lines_7" or "lines_3": the preference for these lines."""
        return _find(self.axis, name)


@dataclass(frozen=True)
class SamePartContrasts:
    """See `compare_same_part`."""

    classes: dict[str, Estimates]  # variant -> "k = 7" -> number
    control: dict[str, Estimates] | None = None
    growth: Estimates | None = None


@dataclass(frozen=True)
class AxisContrasts:
    """See `compare_axis_runs`."""

    control: dict[str, Estimates] | None = None
    moved: Estimates | None = None


@dataclass(frozen=True)
class Contrasts:
    """Comparisons of classes and of models."""

    same_part: SamePartContrasts = SamePartContrasts({})
    axis: AxisContrasts = AxisContrasts()


@dataclass(frozen=True)
class ChangeRow:
    """A change in testing, see `collect_changes`."""

    variant: str
    model: str
    k: int
    change: str
    error: Estimate
    lines: Estimate
    excess: Estimate
    right: Estimate
    lines_minus_rival: Estimate | None
    by_change: Estimates | None

    def find_change(self, what: str) -> Estimate:
        """Return how much the change adds to "error", "lines", "excess" or "right"."""
        return _find(self.by_change, what)


@dataclass(frozen=True, kw_only=True)
class ExperimentResults:
    """The content of `fcis_experiment.json`. What was not measured is missing.

    Attributes:
        part_shares: "train" and "val" -> see `measure_data`.
        models: variant -> its numbers.
        contrasts: comparisons.
        changes: changes in testing.
    """

    part_shares: dict[str, dict[str, dict[str, float]]] | None = None
    models: dict[str, ModelNumbers]
    contrasts: Contrasts = Contrasts()
    changes: list[ChangeRow] | None = None

    @property
    def runs(self) -> list[NestedEntry]:
        """All trainings."""
        return [run for model in self.models.values() for run in model.runs]

    def find_same_part(self, variant: str, k: int, name: str) -> Estimate:
        """Return a number of `ModelNumbers.same_part`, such as "one_class/difference"."""
        model = self.models.get(variant)
        return _find(model.same_part if model else None, f"k = {k}", name)

    def find_lines(self, variant: str, k: int) -> Estimate:
        """Return the preference of a model's axis runs for the lines g/k."""
        model = self.models.get(variant)
        return model.find_axis(f"lines_{k}") if model else MISSING

    def find_classes(self, variant: str, k: int) -> Estimate:
        """Return the same-part error of pairs of one class minus that of two."""
        return _find(self.contrasts.same_part.classes, variant, f"k = {k}")

    def find_control(self, variant: str, k: int) -> Estimate:
        """Return a model's same-part error minus Mask R-CNN's."""
        return _find(self.contrasts.same_part.control, variant, f"k = {k}")

    def find_growth(self, name: str) -> Estimate:
        """Return how the same-part error grows: "fcis", "mask_rcnn" or "minus"."""
        return _find(self.contrasts.same_part.growth, name)

    def find_excess_ratio(self, variant: str) -> Estimate:
        """Return a model's axis excess divided by Mask R-CNN's."""
        return _find(self.contrasts.axis.control, variant, "excess")

    def find_moved(self, k: int) -> Estimate:
        """Return the preference for g/k of the FCIS with k parts divided by the other FCIS's."""
        return _find(self.contrasts.axis.moved, f"lines_{k}")


@dataclass(frozen=True)
class PhotographErrors:
    """The pixels of pairs of one class; "same" are those that both boxes read from one part."""

    same: Estimate = field(metadata={"key": "one_class/same"})  # the share of wrong ones
    other: Estimate = field(metadata={"key": "one_class/other"})
    difference: Estimate = field(metadata={"key": "one_class/difference"})
    minus_rival: Estimate
    pixels: int  # read from one part
    images: int  # with such pixels


@dataclass(frozen=True)
class PhotographModel:
    """A model that was trained on nuclei; see `ModelNumbers`."""

    name: str
    same_part: dict[str, PhotographErrors]
    axis: Estimates
    axis_by_rival: Estimate  # the axis excess divided by Mask R-CNN's
    right: Estimate  # see `draw_right`
    runs: list[RunEntry]


@dataclass(frozen=True)
class PhotographResults:
    """The content of `fcis_photographs.json`."""

    data: dict[str, PairCount]  # of the held-out "nuclei", and of "coco"
    training_images: int
    models: dict[str, PhotographModel]
