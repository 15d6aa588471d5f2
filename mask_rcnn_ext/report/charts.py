"""Draws charts as SVG with matplotlib, in the colours of the pages' stylesheet."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .run_data import TASK_TITLES

__all__ = [
    "COLORS",
    "INK",
    "MUTED",
    "Chart",
    "finish_chart",
    "label_axes",
    "make_axes",
    "mark_place",
    "run_charts",
    "smooth",
]

Series = tuple[list[int], list[float]]  # iterations, values

INK, MUTED, _RULE, _CARD = "#1b2027", "#606a76", "#e3e6ea", "#fffffe"
COLORS = (
    *("#2f5fd0", "#d9480f", "#14866d", "#9c36b5"),
    *("#b58100", "#c2255c", "#0b7fa5", "#5c6b7a"),
)
# Drawn with colours of the light page; the stylesheet has others for a dark one.
_VARIABLES = {INK: "--ink", MUTED: "--muted", _RULE: "--rule", _CARD: "--card"}
_VARIABLES |= {color: f"--s{index}" for index, color in enumerate(COLORS)}
_MAX_MARKERS = 40
_MAX_POINTS = 500  # of a noisy curve: about as many as the page has pixels for


@dataclass(frozen=True)
class Chart:
    """A chart of a page."""

    title: str  # "" if the page has a heading for it
    alt: str  # a description for readers who do not see the chart
    svg: str = field(repr=False)
    legend: list[tuple[int, str, str]]  # (index in `COLORS`, name, last value or "")


def make_axes(
    width: float = 4.8, height: float = 2.6, grid: Literal["x", "y"] = "y"
) -> tuple[Figure, Axes]:
    """Return a figure of (width, height) inches, and its empty axes with lines across `grid`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes: Axes = figure.subplots()
    axes.tick_params(colors=MUTED, length=0, labelsize=9)
    axes.grid(axis=grid, color=_RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    return figure, axes


def label_axes(axes: Axes, x_label: str, y_label: str) -> None:
    """Write the names of the axes."""
    axes.set_xlabel(x_label, color=MUTED, fontsize=9)
    axes.set_ylabel(y_label, color=MUTED, fontsize=9)


def mark_place(axes: Axes, x: float, text: str, *, on_the_left: bool) -> None:
    """Draw a dotted line across the plot at `x`, and a text at the foot of one of its sides."""
    axes.axvline(x, color=MUTED, linestyle=":", linewidth=1.4, zorder=2)
    axes.annotate(
        text,
        (x, 0),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if on_the_left else 4, 3),
        textcoords="offset points",
        ha="right" if on_the_left else "left",
        va="bottom",
        color=MUTED,
        fontsize=9,
    )


def finish_chart(
    figure: Figure, title: str, alt: str, legend: Sequence[tuple[int, str, str]] = ()
) -> Chart:
    """Return the chart of a figure; the same drawing gives the same SVG."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": alt, "path.simplify_threshold": 1}
    ):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (?:xmlns(?::\w+)?|id)="(?:http[^"]*|[\w.]+_\d+)"', "", svg)  # one page has many
    for color, name in _VARIABLES.items():
        svg = svg.replace(color, f"var({name})")
    return Chart(title, alt, svg, list(legend))


def smooth(values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the centred running mean over about a twentieth of the curve, the same length."""
    array = np.asarray(values, dtype=np.float64)
    window = max(1, len(array) // 20) | 1  # odd, so that the mean does not shift
    kernel = np.ones(window)
    inside = np.convolve(np.ones(len(array)), kernel)[window // 2 :][: len(array)]
    return np.convolve(array, kernel)[window // 2 :][: len(array)] / inside


def _line_chart(
    title: str,
    series: Mapping[str, Series],
    y_label: str,
    *,
    validation: Mapping[str, Series] | None = None,
    best: int | None = None,
    smoothed: bool = False,
    raw: bool = False,
    markers: bool = False,
    number: str = ".3g",
) -> Chart:
    """Return a chart over the iterations, with y from 0.

    Args:
        title: its title.
        series: name -> (iterations, values); at least one, and none is empty.
        y_label: name of the y axis, with the unit.
        validation: the same on validation images: dashed, with points, in the colour of the series
            of that name, or in one of its own.
        best: the iteration to mark as the best one.
        smoothed: draw running means.
        raw: with `smoothed`, draw the values as well, faint; peaks may leave the plot.
        markers: mark the points, where there are few. A single point is always marked.
        number: format of the last value of a curve.
    """
    figure, axes = make_axes()
    legend, drawn = [], [0.0]
    for index, (name, (iterations, values)) in enumerate(series.items()):
        curve, color = smooth(values) if smoothed else np.asarray(values), COLORS[index % 8]
        most = _MAX_MARKERS if markers else 1  # a line through one point would not be seen
        marker = "o" if len(values) <= most else ""
        axes.plot(iterations, curve, color=color, marker=marker, mec=_CARD, markersize=6, zorder=3)
        if smoothed and raw:
            step = len(values) // _MAX_POINTS + 1
            axes.plot(iterations[::step], values[::step], color=color, alpha=0.28, linewidth=1)
        drawn += [float(curve.min()), float(curve.max())]
        legend.append((index % 8, name, format(float(curve[-1]), number)))
    for name, (iterations, values) in (validation or {}).items():
        index = list(series).index(name) if name in series else len(legend)
        marker = "o" if len(values) <= _MAX_MARKERS else ""
        style: Any = {"linestyle": "--", "linewidth": 1.2, "marker": marker, "markersize": 5}
        axes.plot(iterations, values, color=COLORS[index % 8], mec=_CARD, zorder=3, **style)
        drawn += [min(values), max(values)]
        if name not in series:
            legend.append((index % 8, name, format(values[-1], number)))
    if best is not None:
        mark_place(axes, best, "best", on_the_left=best > axes.get_xlim()[1] / 4)
    low, high = min(drawn), max(drawn)
    axes.set_ylim(low, high + 0.05 * (high - low) or 1.0)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    label_axes(axes, "iteration", y_label)
    ends = ", ".join(f"{name} {last}" for _, name, last in legend)
    marked = "" if best is None else f"; the best iteration is {best}"
    return finish_chart(
        figure, title, f"{title}: {y_label} over iterations; at the end {ends}{marked}", legend
    )


def run_charts(history: Mapping[str, Series], best: int | None = None) -> list[Chart]:
    """Return the charts of a run's metrics: losses, AP and learning rate, where there are any.

    Args:
        history: metric -> (iterations, values). Losses on validation images are drawn next to those
            of training.
        best: the iteration of the best evaluation, to mark it; None: nothing is marked.
    """
    charts = []
    validation = _validation_losses(history)
    totals = {name: line for name, line in validation.items() if name.endswith("total_loss")}
    if "total_loss" in history:
        total = {"training" if totals else "total_loss": history["total_loss"]}
        named = {name.replace("total_loss", "validation"): line for name, line in totals.items()}
        options: Any = {"validation": named, "best": best, "smoothed": True, "raw": True}
        charts.append(_line_chart("Total loss", total, "loss", **options))
    parts = {k: v for k, v in history.items() if k.startswith("loss_") and "/" not in k}
    if parts:
        rest = {name: line for name, line in validation.items() if name not in totals}
        charts.append(_line_chart("Losses by part", parts, "loss", validation=rest, smoothed=True))
    quality = {
        key.removesuffix(f"{task}/AP") + f"{TASK_TITLES[task].lower()} AP": history[key]
        for task in TASK_TITLES
        for key in sorted(history)
        if key == f"{task}/AP" or key.endswith(f"/{task}/AP")
    }
    if quality:
        marked: Any = {"best": best, "markers": True, "number": ".1f"}
        charts.append(_line_chart("Test AP", quality, "AP (0 to 100)", **marked))
    if "lr" in history:
        charts.append(_line_chart("Learning rate", {"lr": history["lr"]}, "learning rate"))
    return charts


def _validation_losses(history: Mapping[str, Series]) -> dict[str, Series]:
    """Return the losses on validation images; with several test sets, of the first by name."""
    found: dict[str, Series] = {}
    for key in history:
        *_, task, name = ["", *key.split("/")]
        if task == "validation_loss":
            found.setdefault(name, history[key])
    return found
