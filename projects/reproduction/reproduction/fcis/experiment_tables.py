"""The FCIS experiment's numbers as rows of text, for the docs and for the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mask_rcnn_ext.overlap.average_precision import AP_METRICS
from mask_rcnn_ext.report.text import NO_NUMBER, count_noun, to_text

from .line_places import find_near_share
from .predictions import Prediction, find_estimate

__all__ = [
    "AP_HEADER",
    "CLAIMS_HEADER",
    "LINES_HEADER",
    "OWN_HEADER",
    "OWN_NOTE",
    "REFUTATIONS_HEADER",
    "SAME_PART_HEADER",
    "SAME_PART_NOTE",
    "Content",
    "average_aps",
    "describe_chance",
    "describe_data",
    "describe_growth",
    "describe_time",
    "describe_training",
    "make_ap_rows",
    "make_claim_rows",
    "make_line_rows",
    "make_own_rows",
    "make_refutation_rows",
    "make_run_rows",
    "make_same_part_rows",
    "summarize_predictions",
]

Content = Mapping[str, Any]  # of `fcis_experiment.json`

SAME_PART_NOTE = (
    "The masks are those in the true boxes. The columns with % have the share of wrong pixels; "
    "errors and differences are in points. In brackets: 95 % intervals from a bootstrap over "
    "images and trainings, or over images only for a model with one training. The pixels that both "
    "boxes read from the same part may be easier or harder than other pixels for any model. Mask "
    "R-CNN has no parts, so its numbers show this effect alone. The last column subtracts it."
)

CLAIMS_HEADER = ("no.", "claim", "measured", "holds")
REFUTATIONS_HEADER = ("what would refute", "whose number", "measured", "happened")
SAME_PART_HEADER = (
    *("model", "pixels of", "same part, %", "elsewhere, %", "one class: same-part error"),
    *("two classes: same-part error", "one minus two", "minus Mask R-CNN's"),
)
LINES_HEADER = (
    *("model", "axis excess", "divided by Mask R-CNN's", "near g/7, %", "preference for g/7"),
    *("near g/3, %", "preference for g/3"),
)
OWN_HEADER = (
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
AP_HEADER = (
    *("model", "trainings", "mask AP / 50 / 75", "box AP / 50 / 75"),
    *("mask AP during training", "last quarter"),
)
_PARTS = (7, 3)
OWN_NOTE = (
    "Here each model detects objects from its own proposals. The detections are matched with "
    "objects at mask IoU 0.5. Same-part errors are for pairs of one class, in points. Mask voting "
    "averages the masks of several RoIs, the voters. Before, it cuts each of these masks at a "
    "probability and at its box. So a voted mask can have a line where a voter's box ends. The "
    "second-last column has the share of the contour on a side of a voter's box that this voter's "
    "mask reaches. The last column has the share that also lies farther than 2 px from every "
    "object's contour."
)


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


def summarize_predictions(
    predictions: Sequence[Prediction], numbers: Sequence[int] = (1, 2, 3, 4)
) -> list[str]:
    """Return a text on each prediction: what it said, and whether it came true.

    Args:
        predictions: in the order of their numbers.
        numbers: the first ones of them are used.
    """
    sentences = []
    for number, prediction in zip(numbers, predictions, strict=False):
        verdict = {
            True: "came true",
            False: "did not come true",
            None: "is open: a number is missing",
        }[prediction.came_true]
        failed = "; ".join(
            f"{claim.text}, but it is {claim.measured}" for claim in prediction.failed
        )
        why = f" What failed: {failed}." if failed else ""
        sentences.append(f"Prediction {number} {verdict}. It said: {prediction.sentence}{why}")
    return sentences


def make_same_part_rows(content: Content) -> list[tuple[str, ...]]:
    """Return one row for each model and k: the errors of pairs of one class and of two."""
    rows = []
    for variant, model in content["models"].items():
        for k in _PARTS:
            keys = ("models", variant, "same_part", f"k = {k}")
            same, other = (
                find_estimate(content, *keys, f"one_class/{where}").show()
                for where in ("same", "other")
            )
            differences = [
                find_estimate(content, *keys, "one_class/difference"),
                find_estimate(content, *keys, "two_classes/difference"),
                *(
                    find_estimate(content, "contrasts", "same_part", what, variant, f"k = {k}")
                    for what in ("classes", "control")
                ),
            ]
            shown = (estimate.show(signed=True) for estimate in differences)
            rows.append((model["name"], f"k = {k}", same, other, *shown))
    return rows


def make_own_rows(content: Content) -> list[tuple[str, ...]]:
    """Return one row for each model's own detections, for FCIS before and after mask voting."""
    rows = []
    for model in content["models"].values():
        voted = model.get("voted")
        for found, masks in (
            (model.get("own_proposals"), "before voting" if voted else "no voting"),
            (voted, "after voting"),
        ):
            if not found:
                continue
            same_part = (
                find_estimate(found, "same_part", f"k = {k}", "one_class/difference").show(
                    signed=True
                )
                for k in _PARTS
            )
            keys = [("errors", "leak"), ("errors", "double_claim")]
            keys += [("box_sides", "on_sides"), ("box_sides", "wrong_on_sides")]
            objects, matched = found.get("objects"), found.get("matched")
            share = 100 * matched / objects if objects and matched is not None else None
            shown = (find_estimate(found, *key).show() for key in keys)
            rows.append((model["name"], masks, to_text(share), *same_part, *shown))
    return rows


def make_line_rows(content: Content) -> list[tuple[str, ...]]:
    """Return one row for each model: axis excess, and how many axis runs lie near g/7 and g/3."""
    rows = []
    for variant, model in content["models"].items():
        ratio = find_estimate(content, "contrasts", "axis", "control", variant, "excess")
        cells = [find_estimate(model, "axis", "excess").show(2), ratio.show(2)]
        for k in _PARTS:
            share, _ = find_near_share(model["places"], k)
            cells += [to_text(share), find_estimate(model, "axis", f"lines_{k}").show(2)]
        rows.append((model["name"], *cells))
    return rows


def make_ap_rows(content: Content) -> list[tuple[str, ...]]:
    """Return one row for each model: AP, its mean over trainings, and AP during training."""
    rows = []
    for model in content["models"].values():
        runs = model["runs"]
        cells = [average_aps(runs, task) for task in ("segm", "bbox")]
        course = _find_course(runs)
        during = " / ".join(to_text(ap) for ap in course.values()) or NO_NUMBER
        gain = _find_last_gain(course)
        rows.append((model["name"], str(len(runs)), *cells, during, to_text(gain, signed=True)))
    return rows


def make_run_rows(content: Content) -> list[tuple[str, ...]]:
    """Return one row for each training: model, seed, mask AP, box AP, seconds."""
    return [
        (
            model["name"],
            str(run["seed"]),
            *(to_text(run["metrics"].get(task, {}).get("AP")) for task in ("segm", "bbox")),
            to_text(run.get("train_seconds"), 0),
        )
        for model in content["models"].values()
        for run in model["runs"]
    ]


def average_aps(runs: Sequence[Content], task: str) -> str:
    """Return "AP / AP50 / AP75" of a task, the means over the trainings."""
    aps = [_mean(run["metrics"].get(task, {}).get(metric) for run in runs) for metric in AP_METRICS]
    return " / ".join(to_text(ap) for ap in aps)


def _mean(values: Any) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _find_course(runs: Sequence[Content]) -> dict[int, float | None]:
    """Return iteration -> mean mask AP, of the evaluations that all trainings have."""
    found = [
        {entry["iteration"]: entry.get("segm") for entry in run.get("evaluations", [])}
        for run in runs
    ]
    common = set.intersection(*(set(of_run) for of_run in found)) if found else set()
    return {iteration: _mean(of_run[iteration] for of_run in found) for iteration in sorted(common)}


def _find_last_gain(course: Mapping[int, float | None]) -> float | None:
    aps = list(course.values())
    if len(aps) < 2 or aps[-1] is None or aps[-2] is None:
        return None
    return aps[-1] - aps[-2]


def describe_training(content: Content) -> str:
    """Return sentences: how much the models still learned, and what this does not show."""
    courses = {m["name"]: _find_course(m["runs"]) for m in content["models"].values()}
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


def describe_data(content: Content) -> str:
    """Return a sentence: the share of their common area that nested pairs read from one part."""
    shares = content.get("part_shares", {}).get("val", {})
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


def describe_chance(content: Content) -> str:
    """Return sentences that explain the columns on lines."""
    places = next(iter(content["models"].values()))["places"]
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


def describe_growth(content: Content) -> str:
    """Return sentences: how the same-part error grows from k = 7 to k = 3, and Mask R-CNN's."""
    growth = {
        name: find_estimate(content, "contrasts", "same_part", "growth", name).show(signed=True)
        for name in ("fcis", "mask_rcnn", "minus")
    }
    return (
        f"From k = 7 to k = 3, the same-part error changes by {growth['fcis']} points for FCIS, "
        f"and by {growth['mask_rcnn']} points for Mask R-CNN on the same pixels. The first change "
        f"minus the second is {growth['minus']} points."
    )


def describe_time(content: Content) -> str:
    """Return a phrase: how many trainings there were, and how long they took."""
    runs = [run for model in content["models"].values() for run in model["runs"]]
    seconds = [run["train_seconds"] for run in runs if run.get("train_seconds")]
    each = (
        f"{min(seconds) / 60:.0f} to {max(seconds) / 60:.0f} minutes each, "
        f"{sum(seconds) / 3600:.1f} hours in all"
        if seconds
        else ""
    )
    devices = " and ".join(sorted({str(run["device"]) for run in runs if run.get("device")}))
    return ", ".join(
        part
        for part in (count_noun(len(runs), "training"), each, f"on {devices}" if devices else "")
        if part
    )
