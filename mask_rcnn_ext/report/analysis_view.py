"""The tables, texts and pictures of an analysis for the page of a run."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from detectron2.data import DatasetCatalog

from ..errors import count_noun
from ..overlap.analysis.analysis import Analysis, Confusion
from ..overlap.analysis.curves import Operation
from ..overlap.analysis.error_types import ERROR_TYPES, ErrorCost
from ..overlap.analysis.image_quality import ImageQuality
from .analysis_charts import draw_analysis
from .gallery import PAGE_BYTES, Pair, Sample, load_samples, make_pairs
from .instances import DatasetSummary
from .text import NO_NUMBER, to_text

__all__ = ["draw_extremes", "view_analysis", "view_confusion"]

_EXTREMES = 6  # images that are shown as the worst ones, and as the best ones
_MOST_CLASSES = 12  # of a confusion matrix on the page
_MOST_CONFUSIONS = 10
_RIGHT, _WRONG = "47, 95, 208", "217, 72, 15"  # RGB of the cells of a confusion matrix

# What to do about each type of `ERROR_TYPES`.
_ADVICE = {
    "localization": "Train longer or with larger images, and check how exact the annotations are.",
    "classification": "Look in the confusion matrix which classes are mixed up; add examples of "
    "them, or merge them.",
    "duplicate": "Lower MODEL.ROI_HEADS.NMS_THRESH_TEST.",
    "background": "Look for objects that nobody annotated; add images without objects.",
    "both": "Few are usual. Many come from classes that look alike: see the confusion matrix.",
    "missed": "Look at the sizes and overlaps below; add examples of what is missed, or use larger "
    "images.",
}
_PARTS = {
    "small": "small: up to 32² pixels",
    "medium": "medium: up to 96² pixels",
    "large": "large: above 96² pixels",
    "none": "no overlap: IoU below 0.05",
    "partial": "partial: below 0.3",
    "heavy": "heavy: 0.3 or more",
}


def view_analysis(analysis: Analysis) -> dict[str, Any]:
    """Return what the page shows of an analysis next to its own numbers.

    `draw_extremes` makes the pictures.

    Args:
        analysis: the result of `analyze_run`.

    Returns:
        The numbers are texts, if not said otherwise.

        - charts: see `draw_analysis`.
        - errors: (type, meaning, advice, count, cost, share of the largest cost in percent); count
          and share are numbers.
        - best: threshold, F1, precision and recall of all classes together.
        - thresholds: (class, threshold, F1, precision, recall).
        - columns, matrix, left_out: see `view_confusion`.
        - confusions: (true class, detected class, number) of the most frequent ones.
        - parts: name of a size or an overlap level -> its description.
    """
    columns, matrix, left_out = view_confusion(analysis.confusion)
    return {
        "charts": draw_analysis(analysis),
        "errors": _view_errors(analysis.error_types.types),
        "best": _view_operation(analysis.best),
        "thresholds": [
            (name, *_view_operation(entry.best)) for name, entry in analysis.classes.items()
        ],
        "columns": columns,
        "matrix": matrix,
        "left_out": left_out,
        "confusions": _list_confusions(analysis.confusion),
        "parts": _PARTS,
    }


def _view_operation(operation: Operation) -> tuple[str, ...]:
    threshold = operation.threshold
    shown = NO_NUMBER if math.isnan(threshold) else f"{threshold:.4g}"
    values = (operation.f1, operation.precision, operation.recall)
    return (shown, *(to_text(value, 2) for value in values))


def _view_errors(
    types: Mapping[str, ErrorCost],
) -> list[tuple[str, str, str, int, str, float]]:
    costs = {name: max(0.0, entry.cost) for name, entry in types.items()}  # 0 in place of NaN
    most = max(costs.values())
    return [
        (
            name,
            ERROR_TYPES[name],
            _ADVICE[name],
            entry.count,
            to_text(entry.cost),
            100 * costs[name] / most if most else 0.0,
        )
        for name, entry in types.items()
    ]


def view_confusion(
    confusion: Confusion,
) -> tuple[list[str], list[tuple[str, list[tuple[int | None, str]]]], int]:
    """Return the names and cells of a confusion matrix as the page shows them.

    Returns:
        The names of the columns, which are classes and the background; the rows, (true class,
        cells), the last one of the background; and how many classes are left out. A cell has its
        number, None where nothing is counted, and its colour as CSS.
    """
    names, counts = confusion.classes, confusion.counts
    background = len(names)
    wrong = [
        sum(counts[k][:k] + counts[k][k + 1 :]) + sum(row[k] for row in counts) - counts[k][k]
        for k in range(background)
    ]
    shown = sorted(sorted(range(background), key=lambda k: -wrong[k])[:_MOST_CLASSES])
    places = [*shown, background]
    titles = [*names, "background"]
    rows = []
    for k in places:
        total = sum(counts[k]) or 1
        cells = []
        for j in places:
            share, color = counts[k][j] / total, _RIGHT if j == k else _WRONG
            empty = j == k == background  # what is neither an object nor detected is not counted
            style = "" if empty else f"background: rgba({color}, {0.65 * share:.2f})"
            cells.append((None if empty else counts[k][j], style))
        rows.append((titles[k], cells))
    return [titles[k] for k in places], rows, background - len(shown)


def _list_confusions(confusion: Confusion) -> list[tuple[str, str, int]]:
    """Return the most frequent pairs of two classes: true, detected, number."""
    names, counts = confusion.classes, confusion.counts
    pairs = [
        (names[k], names[j], counts[k][j])
        for k in range(len(names))
        for j in range(len(names))
        if j != k and counts[k][j]
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:_MOST_CONFUSIONS]


def draw_extremes(
    analysis: Analysis, data: DatasetSummary, predictions: dict[Any, Any], drawn: Iterable[Sample]
) -> tuple[list[Pair], list[Pair], list[str]]:
    """Return pictures of the worst and of the best images, and sentences on what is missing.

    Args:
        analysis: the result of `analyze_run`.
        data: the data set.
        predictions: see `read_predictions`.
        drawn: samples with the threshold of the analysis, which are not loaded again.
    """
    known = {sample.image_id: sample for sample in drawn}
    ranked = [each for each in analysis.per_image if each.quality is not None]
    number = min(_EXTREMES, (len(ranked) + 1) // 2)
    records = {record["image_id"]: record for record in DatasetCatalog.get(data.name)}
    found: list[list[Pair]] = []
    missing: list[str] = []
    for chosen in (ranked[:number], ranked[number:][::-1][:number]):
        samples, problems = load_samples(
            data.name,
            [records[each.image_id] for each in chosen],
            predictions,
            analysis.chosen.threshold,
            known,
        )
        texts = {each.image_id: _describe_image(each) for each in chosen}
        titled = [replace(s, name=f"{s.name} · {texts[s.image_id]}") for s in samples]
        found.append(make_pairs(titled, data.class_names, PAGE_BYTES // 2))
        missing += problems
    return found[0], found[1], missing


def _describe_image(entry: ImageQuality) -> str:
    found = f"{entry.right} of {count_noun(entry.objects, 'object')} found"
    return f"quality {entry.quality:.2f}: {found}, {entry.wrong} wrong"
