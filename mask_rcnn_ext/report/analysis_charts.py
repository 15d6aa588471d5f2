"""Draws the charts of an analysis: precision over recall, score thresholds, calibration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..overlap.analysis.analysis import Analysis
from .charts import COLORS, INK, MUTED, Chart, finish_chart, label_axes, make_axes, mark_place
from .text import to_text

__all__ = ["draw_analysis"]

_MOST_CURVES = len(COLORS)


def draw_analysis(analysis: Analysis) -> dict[str, list[Chart]]:
    """Return the charts "precision_recall", "threshold" and "calibration" of an analysis.

    A list is empty where nothing is defined.

    Args:
        analysis: see `overlap.analysis.run_analysis.analyze`.
    """
    return {
        "precision_recall": _draw_precision_recall(analysis),
        "threshold": _draw_threshold(analysis),
        "calibration": _draw_calibration(analysis),
    }


def _make_square(x_label: str, y_label: str) -> tuple[Any, Axes]:
    figure, axes = make_axes(height=3.2)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    label_axes(axes, x_label, y_label)
    return figure, axes


def _draw_precision_recall(analysis: Analysis) -> list[Chart]:
    found = analysis.precision_recall
    classes = analysis.classes
    means = {f"IoU {iou}": curve for iou, curve in found.mean.items()}
    aps = {name: classes[name].AP50.value for name in classes}
    most = sorted(classes, key=lambda name: -classes[name].objects)[:_MOST_CURVES]
    by_class = {name: found.classes[name] for name in classes if name in most}
    charts = [_draw_curves("All classes", found.recall, means, {})]
    if len(classes) > 1:
        shown = "Each class" if len(most) == len(classes) else f"The {len(most)} largest classes"
        charts.append(_draw_curves(f"{shown}, IoU 0.5", found.recall, by_class, aps))
    return [chart for chart in charts if chart is not None]


def _draw_curves(
    title: str,
    recall: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    numbers: Mapping[str, float],
) -> Chart | None:
    """Draw a curve for each name; the numbers stand in the legend."""
    defined = {name: curve for name, curve in curves.items() if not np.isnan(curve).any()}
    if not defined:
        return None
    figure, axes = _make_square("recall", "precision")
    legend = []
    for index, (name, curve) in enumerate(defined.items()):
        values = np.asarray(curve, dtype=np.float64)
        end = int(np.count_nonzero(values)) + 1  # the first recall that is not reached
        axes.plot(recall[:end], values[:end], color=COLORS[index % _MOST_CURVES], zorder=3)
        number = numbers.get(name)
        legend.append((index % _MOST_CURVES, name, "" if number is None else to_text(number)))
    names = ", ".join(defined)
    return finish_chart(figure, title, f"{title}: precision over recall; {names}", legend)


def _draw_threshold(analysis: Analysis) -> list[Chart]:
    found, best = analysis.threshold_curve, analysis.best
    threshold = best.threshold
    if math.isnan(threshold):
        return []
    figure, axes = _make_square("score threshold", "share")
    legend = []
    for index, (name, key) in enumerate(
        (("F1", "f1"), ("precision", "precision"), ("recall", "recall"))
    ):
        points = zip(found.threshold, getattr(found, key), strict=True)
        known = [(x, y) for x, y in points if not math.isnan(y)]
        axes.plot(*zip(*known, strict=True), color=COLORS[index], zorder=3)
        legend.append((index, name, f"{getattr(best, key):.2f}"))
    mark_place(axes, threshold, f"best {threshold:.3g}", on_the_left=threshold > 0.75)
    alt = f"F1, precision and recall over the score threshold; the best F1 is at {threshold:.3g}"
    return [finish_chart(figure, "All classes together", alt, legend)]


def _draw_calibration(analysis: Analysis) -> list[Chart]:
    bins = [each for each in analysis.calibration.bins if each.detections]
    if not bins:
        return []
    figure, axes = _make_square("score of a detection", "share that is right")
    axes.set_ylim(0, 1.1)
    axes.plot([0, 1], [0, 1], color=INK, linestyle="--", linewidth=1.2, zorder=4)
    for each in bins:
        width = each.high - each.low
        center = each.low + width / 2
        bar = axes.bar(center, each.right, width * 0.86, color=COLORS[0], alpha=0.75, zorder=3)
        label = [_shorten(each.detections)]
        axes.bar_label(bar, label, padding=2, color=MUTED, fontsize=8, zorder=5)
    shares = ", ".join(f"{each.right:.2f} at {each.score:.2f}" for each in bins)
    alt = f"Reliability diagram: the share of right detections by mean score: {shares}"
    return [finish_chart(figure, "Scores and what comes true", alt)]


def _shorten(count: int) -> str:
    """Return a count in at most four characters: 950, 1.2k, 38k, 1.5M."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.{1 if count < 10 * size else 0}f}{unit}"
    return str(count)
