"""Line charts as plain geometry: the page's template turns a `Chart` into an SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.ticker import MaxNLocator

from .run_data import TASK_TITLES

__all__ = ["Chart", "Line", "Tick", "line_chart", "run_charts", "smooth"]

Series = tuple[list[int], list[float]]  # iterations, values
Floats = npt.NDArray[np.float64]

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 14, 12, 44  # room around the plot, for ticks and labels
_MAX_POINTS = 400  # more than the plot has pixels for
_MAX_MARKERS = 40


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in the SVG's units, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One curve; `points` and `faint` (the curve before smoothing, or "") are SVG polylines."""

    name: str
    points: str
    faint: str
    markers: list[tuple[float, float]]
    last: str


@dataclass(frozen=True)
class Chart:
    """A chart in the SVG's units; the plot is `left, top, right, bottom`."""

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    top: int = _TOP
    right: int = _WIDTH - _RIGHT
    bottom: int = _HEIGHT - _BOTTOM


def smooth(values: Sequence[float]) -> Floats:
    """Return the centred running mean over about a twentieth of the curve, the same length."""
    array = np.asarray(values, dtype=np.float64)
    window = max(1, len(array) // 20) | 1  # odd, so that the mean does not shift
    kernel = np.ones(window)
    inside = np.convolve(np.ones(len(array)), kernel)[window // 2 :][: len(array)]
    return np.convolve(array, kernel)[window // 2 :][: len(array)] / inside


def _thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Return means of neighbours, at most `_MAX_POINTS`, and the last point as it is."""
    step = -(-len(x) // _MAX_POINTS)
    if step == 1:
        return x, y
    starts = np.arange(0, len(x), step)
    sizes = np.diff(np.append(starts, len(x)))
    thin_x, thin_y = np.add.reduceat(x, starts) / sizes, np.add.reduceat(y, starts) / sizes
    thin_x[-1], thin_y[-1] = x[-1], y[-1]
    return thin_x, thin_y


def line_chart(
    title: str,
    series: Mapping[str, Series],
    y_label: str,
    *,
    smoothed: bool = False,
    raw: bool = False,
    markers: bool = False,
    number: str = ".3g",
) -> Chart:
    """Return a chart of `series`, name -> (iterations, values), with y from 0.

    Args:
        title: of the chart.
        series: at least one; no curve is empty.
        y_label: with the unit.
        smoothed: draw running means.
        raw: with `smoothed`, draw the values as well, faint; peaks may leave the plot.
        markers: mark the points, where there are few.
        number: format of the last value of a curve.
    """
    curves = []
    for name, (iterations, values) in series.items():
        x, y = np.asarray(iterations, dtype=np.float64), np.asarray(values, dtype=np.float64)
        curves.append((name, x, y, smooth(values) if smoothed else y))
    last_x = max(1.0, max(float(x[-1]) for _, x, _, _ in curves))
    top_y = max(float(drawn.max()) for _, _, _, drawn in curves)
    low_y = min(0.0, min(float(drawn.min()) for _, _, _, drawn in curves))
    y_marks = MaxNLocator(nbins=5).tick_values(low_y, top_y if top_y > low_y else low_y + 1.0)
    low_y, high_y = float(y_marks[0]), float(y_marks[-1])
    plot_w, plot_h = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(x: Floats, y: Floats) -> list[tuple[float, float]]:
        across = _LEFT + x / last_x * plot_w
        down = _TOP + (high_y - y) / (high_y - low_y) * plot_h
        return [(round(float(a), 1), round(float(d), 1)) for a, d in zip(across, down, strict=True)]

    def polyline(x: Floats, y: Floats) -> str:
        return " ".join(f"{a:g},{d:g}" for a, d in place(*_thin(x, y)))

    lines = [
        Line(
            name,
            polyline(x, drawn),
            polyline(x, y) if smoothed and raw else "",
            place(x, drawn) if markers and len(x) <= _MAX_MARKERS else [],
            format(float(drawn[-1]), number),
        )
        for name, x, y, drawn in curves
    ]
    x_marks = [v for v in MaxNLocator(nbins=6, integer=True).tick_values(0, last_x) if v <= last_x]
    x_ticks = [Tick(round(_LEFT + v / last_x * plot_w, 1), f"{v:.0f}") for v in x_marks]
    y_ticks = [
        Tick(round(_TOP + (high_y - v) / (high_y - low_y) * plot_h, 1), f"{v:.4g}") for v in y_marks
    ]
    return Chart(title, "iteration", y_label, lines, x_ticks, y_ticks)


def run_charts(history: Mapping[str, Series]) -> list[Chart]:
    """Return the charts of a run's metrics: losses, AP, learning rate; those that there are."""
    charts = []
    if "total_loss" in history:
        total = {"total_loss": history["total_loss"]}
        charts.append(line_chart("Total loss", total, "loss", smoothed=True, raw=True))
    parts = {k: v for k, v in history.items() if k.startswith("loss_") and "/" not in k}
    if parts:
        charts.append(line_chart("Losses by part", parts, "loss", smoothed=True))
    quality = {
        key.removesuffix(f"{task}/AP") + f"{TASK_TITLES[task].lower()} AP": history[key]
        for task in TASK_TITLES
        for key in sorted(history)
        if key == f"{task}/AP" or key.endswith(f"/{task}/AP")
    }
    if quality:
        charts.append(line_chart("Test AP", quality, "AP (0 to 100)", markers=True, number=".1f"))
    if "lr" in history:
        charts.append(line_chart("Learning rate", {"lr": history["lr"]}, "learning rate"))
    return charts
