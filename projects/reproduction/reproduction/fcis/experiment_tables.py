"""The FCIS experiment's numbers as rows of text, for the docs and for the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mask_rcnn_ext.errors import count_noun
from mask_rcnn_ext.overlap.average_precision import AP_METRICS
from mask_rcnn_ext.report.text import NO_NUMBER, to_text

from ..run_entries import RunEntry
from .change_tables import CHANGES_HEADER, CHANGES_NOTE, make_change_rows
from .experiment_results import MISSING, ExperimentResults, NestedEntry
from .line_places import find_near_share
from .predictions import REFUTATION_RULE, RULE, Prediction, judge_predictions, list_refutations

__all__ = [
    "average_aps",
    "describe_experiment_training",
    "make_ap_rows",
    "make_claim_rows",
    "make_line_rows",
    "make_own_rows",
    "make_refutation_rows",
    "make_run_rows",
    "make_same_part_rows",
    "make_tables",
    "make_texts",
]

_SAME_PART_NOTE = (
    "The masks are those in the true boxes. The columns with % have the share of wrong pixels; "
    "errors and differences are in points. In brackets: 95 % intervals from a bootstrap over "
    "images and trainings, or over images only for a model with one training. The pixels that both "
    "boxes read from the same part may be easier or harder than other pixels for any model. Mask "
    "R-CNN has no parts, so its numbers show this effect alone. The last column subtracts it."
)

_CLAIMS_HEADER = ("no.", "claim", "measured", "holds")
_REFUTATIONS_HEADER = ("what would refute", "whose number", "measured", "happened")
_SAME_PART_HEADER = (
    *("model", "pixels of", "same part, %", "elsewhere, %", "one class: same-part error"),
    *("two classes: same-part error", "one minus two", "minus Mask R-CNN's"),
)
_LINES_HEADER = (
    *("model", "axis excess", "divided by Mask R-CNN's", "near g/7, %", "preference for g/7"),
    *("near g/3, %", "preference for g/3"),
)
_OWN_HEADER = (
    *(
        "model",
        "masks",
        "matched, %",
        "same-part error, k = 7",
        "same-part error, k = 3",
        "leak, %",
    ),
    *("double claim, %", "contour on voters' box sides, %", "wrong contour there, %"),
)
_AP_HEADER = (
    *("model", "trainings", "mask AP / 50 / 75", "box AP / 50 / 75"),
    *("mask AP during training", "last quarter"),
)
_PARTS = (7, 3)
_DIFFERENCES = ("one_class/difference", "two_classes/difference")
_OWN_NOTE = (
    "Here each model detects objects from its own proposals. The detections are matched with "
    "objects at mask IoU 0.5. Same-part errors are for pairs of one class, in points. Mask voting "
    "averages the masks of several RoIs, the voters. Before, it cuts each of these masks at a "
    "probability and at its box. So a voted mask can have a line where a voter's box ends. The "
    "second-last column has the share of the contour on a side of a voter's box that this voter's "
    "mask reaches. The last column has the share that also lies farther than 2 px from every "
    "object's contour."
)


def make_tables(
    results: ExperimentResults,
) -> dict[str, tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Return the header and the rows of each table; no rows for what was not measured."""
    return {
        "claims": (_CLAIMS_HEADER, make_claim_rows(judge_predictions(results))),
        "refutations": (_REFUTATIONS_HEADER, make_refutation_rows(list_refutations(results))),
        "same_part": (_SAME_PART_HEADER, make_same_part_rows(results)),
        "lines": (_LINES_HEADER, make_line_rows(results)),
        "own": (_OWN_HEADER, make_own_rows(results)),
        "changes": (CHANGES_HEADER, make_change_rows(results)),
        "aps": (_AP_HEADER, make_ap_rows(results)),
    }


def make_texts(results: ExperimentResults) -> dict[str, str]:
    """Return the texts around the tables."""
    return {
        "time": _describe_time(results),
        "data": _describe_data(results),
        "rule": RULE,
        "refutation_rule": REFUTATION_RULE,
        "same_part_note": _SAME_PART_NOTE,
        "growth": _describe_growth(results),
        "chance": _describe_chance(results),
        "own_note": _OWN_NOTE,
        "changes_note": CHANGES_NOTE,
        "training": describe_experiment_training(results),
    }


def make_claim_rows(predictions: Sequence[Prediction]) -> list[tuple[str, ...]]:
    """Return one row for each claim: number of the prediction, claim, number, "yes" or "no"."""
    answers = {True: "yes", False: "no", None: NO_NUMBER}
    return [
        (str(number), claim.text, claim.measured, answers[claim.holds])
        for number, prediction in enumerate(predictions, 1)
        for claim in prediction.claims
    ]


def make_refutation_rows(refutations: Sequence[Prediction]) -> list[tuple[str, ...]]:
    """Return one row for each number that could refute, see `REFUTATION_RULE`."""
    answers = {"higher": "no", "lower": "yes"}
    return [
        (
            refutation.sentence.rstrip("."),
            claim.subject,
            claim.measured,
            answers.get(claim.verdict, claim.verdict),
        )
        for refutation in refutations
        for claim in refutation.claims
    ]


def make_same_part_rows(results: ExperimentResults) -> list[tuple[str, ...]]:
    """Return one row for each model and k: the errors of pairs of one class and of two."""
    rows = []
    for variant, model in results.models.items():
        for k in _PARTS:
            same, other, *differences = (
                results.find_same_part(variant, k, name)
                for name in ("one_class/same", "one_class/other", *_DIFFERENCES)
            )
            differences += [results.find_classes(variant, k), results.find_control(variant, k)]
            shown = (estimate.show(signed=True) for estimate in differences)
            rows.append((model.name, f"k = {k}", same.show(), other.show(), *shown))
    return rows


def make_own_rows(results: ExperimentResults) -> list[tuple[str, ...]]:
    """Return one row for each model's own detections, for FCIS before and after mask voting."""
    rows = []
    for model in results.models.values():
        for found, masks in (
            (model.own_proposals, "before voting" if model.voted else "no voting"),
            (model.voted, "after voting"),
        ):
            if not found:
                continue
            same_part = (found.find_error(k).show(signed=True) for k in _PARTS)
            shares = [found.errors.get(name, MISSING) for name in ("leak", "double_claim")]
            sides = ("on_sides", "wrong_on_sides")
            shares += [found.box_sides.get(name, MISSING) for name in sides]
            matched = 100 * found.matched / found.objects if found.objects else None
            shown = (estimate.show() for estimate in shares)
            rows.append((model.name, masks, to_text(matched), *same_part, *shown))
    return rows


def make_line_rows(results: ExperimentResults) -> list[tuple[str, ...]]:
    """Return one row for each model: axis excess, and how many axis runs lie near g/7 and g/3."""
    rows = []
    for variant, model in results.models.items():
        ratio = results.find_excess_ratio(variant)
        cells = [model.find_axis("excess").show(2), ratio.show(2)]
        for k in _PARTS:
            share, _ = find_near_share(model.places, k)
            cells += [to_text(share), model.find_axis(f"lines_{k}").show(2)]
        rows.append((model.name, *cells))
    return rows


def make_ap_rows(results: ExperimentResults) -> list[tuple[str, ...]]:
    """Return one row for each model: AP, its mean over trainings, and AP during training."""
    rows = []
    for model in results.models.values():
        cells = [average_aps(model.runs, task) for task in ("segm", "bbox")]
        course = _find_course(model.runs)
        during = " / ".join(to_text(ap) for ap in course.values()) or NO_NUMBER
        gain = _find_last_gain(course)
        trainings = str(len(model.runs))
        rows.append((model.name, trainings, *cells, during, to_text(gain, signed=True)))
    return rows


def make_run_rows(results: ExperimentResults) -> list[tuple[str, ...]]:
    """Return one row for each training: model, seed, mask AP, box AP, seconds."""
    return [
        (
            model.name,
            str(run.seed),
            *(to_text(run.metrics.get(task, {}).get("AP")) for task in ("segm", "bbox")),
            to_text(run.train_seconds, 0),
        )
        for model in results.models.values()
        for run in model.runs
    ]


def average_aps(runs: Sequence[RunEntry], task: str) -> str:
    """Return "AP / AP50 / AP75" of a task, the means over the trainings."""
    aps = [_mean(run.metrics.get(task, {}).get(metric) for run in runs) for metric in AP_METRICS]
    return " / ".join(to_text(ap) for ap in aps)


def _mean(values: Any) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _find_course(runs: Sequence[NestedEntry]) -> dict[int, float | None]:
    """Return iteration -> mean mask AP, of the evaluations that all trainings have."""
    found = [{entry.iteration: entry.segm for entry in run.evaluations} for run in runs]
    common = set.intersection(*(set(of_run) for of_run in found)) if found else set()
    return {iteration: _mean(of_run[iteration] for of_run in found) for iteration in sorted(common)}


def _find_last_gain(course: Mapping[int, float | None]) -> float | None:
    aps = list(course.values())
    if len(aps) < 2 or aps[-1] is None or aps[-2] is None:
        return None
    return aps[-1] - aps[-2]


def describe_experiment_training(results: ExperimentResults) -> str:
    """Return sentences: how much the models still learned, and what this does not show."""
    courses = {model.name: _find_course(model.runs) for model in results.models.values()}
    gains = {name: gain for name, c in courses.items() if (gain := _find_last_gain(c)) is not None}
    if not gains:
        return "The evaluations during training are not in the file."
    last = next(list(course)[-2:] for name, course in courses.items() if name in gains)
    parts = ", ".join(f"{name} {to_text(gain, signed=True)}" for name, gain in gains.items())
    return (
        f"From iteration {last[0]} to {last[1]}, the last quarter, mask AP changed by: {parts}. "
        "The learning rate falls along a cosine to zero, so every curve flattens at its end. A "
        "small change shows only that this schedule is used up, not that a longer schedule would "
        "bring nothing."
    )


def _describe_data(results: ExperimentResults) -> str:
    """Return a sentence: the share of their common area that nested pairs read from one part."""
    shares = (results.part_shares or {}).get("val", {})
    parts = [
        f"{to_text(share[f'k = {k}'])} % with k = {k}"
        for share in [shares.get("one_class", {})]
        for k in _PARTS
        if f"k = {k}" in share
    ]
    if not parts:
        return ""
    return (
        "In `nested_shapes_val`, the two boxes of a nested pair of one class read "
        f"{' and '.join(parts)} of their common area from the same part."
    )


def _describe_chance(results: ExperimentResults) -> str:
    """Return sentences that explain the columns on lines."""
    places = next(iter(results.models.values())).places
    by_chance = " and ".join(
        f"{to_text(find_near_share(places, k)[1])} % near g/{k}" for k in _PARTS
    )
    return (
        "Axis excess: the length of contour runs along the axes, divided by this length in rotated "
        "copies of the mask. Near: the share of these runs that lie within a quarter of a cell of "
        f"a line. Evenly spread runs would have {by_chance}. Preference: the length of runs per "
        "line, divided by the length at sides of cells that are lines of neither k. 1 means no "
        "preference."
    )


def _describe_growth(results: ExperimentResults) -> str:
    """Return sentences: how the same-part error grows from k = 7 to k = 3, and Mask R-CNN's."""
    growth = {
        name: results.find_growth(name).show(signed=True) for name in ("fcis", "mask_rcnn", "minus")
    }
    return (
        f"From k = 7 to k = 3, the same-part error changes by {growth['fcis']} points for FCIS, "
        f"and by {growth['mask_rcnn']} points for Mask R-CNN on the same pixels. The first change "
        f"minus the second is {growth['minus']} points."
    )


def _describe_time(results: ExperimentResults) -> str:
    """Return a phrase: how many trainings there were, and how long they took."""
    runs = results.runs
    seconds = [run.train_seconds for run in runs if run.train_seconds]
    each = (
        f"{min(seconds) / 60:.0f} to {max(seconds) / 60:.0f} minutes each, "
        f"{sum(seconds) / 3600:.1f} hours in all"
        if seconds
        else ""
    )
    devices = " and ".join(sorted({run.device for run in runs if run.device}))
    return ", ".join(
        part
        for part in (count_noun(len(runs), "training"), each, f"on {devices}" if devices else "")
        if part
    )
