"""What the FCIS experiment compares: pairs of one class with pairs of two, and models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mask_rcnn_ext.arrays import Floats
from mask_rcnn_ext.overlap.intervals import describe_interval
from mask_rcnn_ext.overlap.same_part import SamePartRecord, draw_same_part

from .axis_records import AxisRecord, draw_axis_runs

__all__ = ["FCIS", "RIVAL", "compare_axis_runs", "compare_same_part", "describe_ratio"]

Contrasted = dict[str, float | None]  # "value", "low" and "high"

RIVAL = "mask_rcnn_tiny_nested"  # the control, which has no parts
FCIS = {7: "fcis_tiny_nested_k7", 3: "fcis_tiny_nested_k3"}  # k -> variant


def compare_same_part(
    records: Mapping[str, Mapping[int, Sequence[Sequence[SamePartRecord]]]], *, draws: int = 1000
) -> dict[str, Any]:
    """Return the differences between same-part errors, in points, with 95 % intervals.

    A draw of the bootstrap takes the same images for all models, and the trainings of each model
    for itself.

    Args:
        records: variant -> k -> the records of each training.
        draws: the number of draws of the bootstrap.

    Returns:
        "classes": variant -> "k = 7" -> pairs of one class minus pairs of two classes.
        "control": variant -> "k = 7" -> the model minus Mask R-CNN, pairs of one class.
        "growth": "fcis" -> the FCIS with k = 3 at its parts minus the one with k = 7 at its own;
        "mask_rcnn" -> the same difference between the same pixels of Mask R-CNN; "minus" -> the
        first minus the second. What needs a model that is not there is left out.
    """
    one: dict[str, dict[int, Floats]] = {}
    classes: dict[str, dict[str, Contrasted]] = {}
    for number, (variant, by_parts) in enumerate(records.items()):
        errors = {k: draw_same_part(by_parts[k], draws=draws, model=number) for k in by_parts}
        one[variant] = {k: found["one_class/difference"] for k, found in errors.items()}
        classes[variant] = {
            f"k = {k}": describe_interval(one[variant][k] - found["two_classes/difference"])
            for k, found in errors.items()
        }
    compared: dict[str, Any] = {"classes": classes}
    if RIVAL in one:
        compared["control"] = {
            variant: {
                f"k = {k}": describe_interval(values - one[RIVAL][k]) for k, values in found.items()
            }
            for variant, found in one.items()
            if variant != RIVAL
        }
    if {RIVAL, *FCIS.values()} <= one.keys():
        fcis, rival = one[FCIS[3]][3] - one[FCIS[7]][7], one[RIVAL][3] - one[RIVAL][7]
        growth = {"fcis": fcis, "mask_rcnn": rival, "minus": fcis - rival}
        compared["growth"] = {name: describe_interval(values) for name, values in growth.items()}
    return compared


def compare_axis_runs(
    records: Mapping[str, Sequence[Sequence[AxisRecord]]], *, draws: int = 1000
) -> dict[str, Any]:
    """Return the ratios between the axis runs of the models, with 95 % intervals.

    Args:
        records: variant -> the records of each training.
        draws: the number of draws of the bootstrap, see `compare_same_part`.

    Returns:
        "control": variant -> "excess", "lines_7", "lines_3" -> the model's by Mask R-CNN's.
        "moved": "lines_7" -> the preference of the FCIS with k = 7 for its lines, divided by that
        of the FCIS with k = 3 for the same lines; "lines_3" -> the other way round.
    """
    found = {
        variant: draw_axis_runs(trainings, draws=draws, model=number)
        for number, (variant, trainings) in enumerate(records.items())
    }
    compared: dict[str, Any] = {}
    if rival := found.get(RIVAL):
        compared["control"] = {
            variant: {name: describe_ratio(values, rival[name]) for name, values in ratios.items()}
            for variant, ratios in found.items()
            if variant != RIVAL
        }
    if set(FCIS.values()) <= found.keys():
        seven, three = (found[FCIS[k]] for k in (7, 3))
        compared["moved"] = {
            "lines_7": describe_ratio(seven["lines_7"], three["lines_7"]),
            "lines_3": describe_ratio(three["lines_3"], seven["lines_3"]),
        }
    return compared


def describe_ratio(over: Floats, under: Floats) -> Contrasted:
    """Return a ratio of numbers that were drawn together, with its interval."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return describe_interval(over / under)
