"""The changes in testing, measured per training, and what they change."""

import json
from collections.abc import Sequence
from typing import Any

from mask_rcnn_ext.arrays import Floats
from mask_rcnn_ext.overlap.intervals import describe_interval
from mask_rcnn_ext.overlap.same_part import draw_same_part
from mask_rcnn_ext.report.json_records import from_json

from .axis_records import draw_axis_runs
from .contrasts import FCIS, RIVAL
from .experiment import EXPERIMENT_MODELS, MEASURED_PARTS, NestedRun
from .given_boxes import load_measured, predict_in_true_boxes
from .inference_changes import PLAIN, list_changes, name_copies
from .run_measurement import RunMeasurement
from .true_box_records import TrueBoxRecord, draw_right, measure_true_boxes

__all__ = ["CHANGED", "ChangeMeasurement", "collect_changes"]

# Variant -> its k; None: it has no parts.
CHANGED: dict[str, int | None] = {RIVAL: None, **{variant: k for k, variant in FCIS.items()}}


class ChangeMeasurement(RunMeasurement):
    """The masks of a finished run with each change, measured, in `nested_changes.json`."""

    file_name, format = "nested_changes.json", 1
    done = "measured with changes in testing"

    def make(self, resume: bool) -> None:
        """See `Step`."""
        cfg, model, truth, dataset = load_measured(self.run.folder)
        changes = {
            name: [
                measure_true_boxes(masks, MEASURED_PARTS)
                for masks in predict_in_true_boxes(cfg, model, truth, dataset, draw=draw)
            ]
            for name, draw in list_changes(CHANGED[self.run.variant]).items()
        }
        self.write({"changes": changes})

    def read(self) -> dict[str, list[TrueBoxRecord]]:
        """Return the records of each change."""
        changes = json.loads(self.record.read_text())["changes"]
        return from_json(dict[str, list[TrueBoxRecord]], changes)


def collect_changes(runs: Sequence[NestedRun]) -> list[dict[str, Any]]:
    """Return a row for each model, k and change, ready for json.

    Args:
        runs: finished runs, measured with the changes; runs that are not of `CHANGED` are left out.

    Returns:
        Each row has "variant", "model", "k", "change" (`PLAIN` comes first), and four numbers:
        "error", the same-part error of pairs of one class, "lines", the preference for g/k,
        "excess" and "right", see `draw_right`; "by_change" -> the same four minus those of `PLAIN`,
        on the same images and trainings, None for `PLAIN`; "lines_minus_rival", the preference
        minus Mask R-CNN's for the same lines, without a change, None if there is no Mask R-CNN.
    """
    rows: list[dict[str, Any]] = []
    rival: dict[int, Floats] = {}
    for number, (variant, bins) in enumerate(CHANGED.items()):
        trainings = [ChangeMeasurement(run).read() for run in runs if run.variant == variant]
        if not trainings:
            continue
        for k in MEASURED_PARTS if bins is None else (bins,):
            others = {name_copies(parts) for parts in MEASURED_PARTS if parts != k}
            names = [name for name in trainings[0] if name not in others]
            drawn = {n: _draw([found[n] for found in trainings], k, number) for n in names}
            if bins is None:
                rival[k] = drawn[PLAIN]["lines"]
            rows += [
                {
                    "variant": variant,
                    "model": EXPERIMENT_MODELS[variant][0],
                    "k": k,
                    "change": name,
                    **{what: describe_interval(values) for what, values in found.items()},
                    "lines_minus_rival": describe_interval(found["lines"] - rival[k])
                    if k in rival
                    else None,
                    "by_change": None
                    if name == PLAIN
                    else {
                        what: describe_interval(values - drawn[PLAIN][what])
                        for what, values in found.items()
                    },
                }
                for name, found in drawn.items()
            ]
    return rows


def _draw(trainings: Sequence[Sequence[TrueBoxRecord]], k: int, model: int) -> dict[str, Floats]:
    errors = draw_same_part(
        [[record.same_part[f"k = {k}"] for record in records] for records in trainings], model=model
    )
    axis = draw_axis_runs(
        [[record.axis for record in records] for records in trainings], model=model
    )
    return {
        "error": errors["one_class/difference"],
        "lines": axis[f"lines_{k}"],
        "excess": axis["excess"],
        "right": draw_right(trainings, model=model),
    }
