"""The page of the ablations, with a chart of our differences next to the paper's."""

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mask_rcnn_ext.errors import count_noun
from mask_rcnn_ext.files import atomic_open
from mask_rcnn_ext.overlap.average_precision import AP_METRICS
from mask_rcnn_ext.report.render import render_page
from mask_rcnn_ext.report.run_data import TASK_TITLES
from mask_rcnn_ext.report.text import NO_NUMBER, judge_interval, to_text

from .results import AblationResults, IntervalMethod, MeasuredDifference, ResultRow, Variant

__all__ = ["draw_differences", "write_ablation_report"]

_CHARTED = ("AP", "AP75")
_OURS, _PAPER, _MUTED, _BAND = "#2f5fd0", "#d9480f", "#606a76", "#f1f3f6"
_ROW, _HEADING = 1.0, 1.15  # heights on the chart


def write_ablation_report(
    results: AblationResults, page: str | Path, chart: str | Path
) -> list[Path]:
    """Write the page, one self-contained HTML file, and the chart.

    Args:
        results: the results.
        page: path of the page.
        chart: path of the PNG.

    Returns:
        The paths written.

    Raises:
        UserError: a file cannot be written.
    """
    png = draw_differences(results)
    html = _render(results, png)
    with atomic_open(chart) as file:
        file.write(png)
    with atomic_open(page, "w") as file:
        file.write(html)
    return [Path(page), Path(chart)]


def _group_rows(results: AblationResults) -> list[tuple[str, list[ResultRow]]]:
    """Return (title, rows) of every table."""
    return [
        (title, rows)
        for table, title in results.settings.tables.items()
        if (rows := [row for row in results.rows if row.table == table])
    ]


def draw_differences(results: AblationResults) -> bytes:
    """Return a PNG: one line per comparison, our difference with its interval, and the paper's."""
    places: list[tuple[float, ResultRow]] = []
    headings: list[tuple[float, str]] = []
    y = 0.0
    for title, rows in _group_rows(results):
        headings.append((y, title))
        y += _HEADING
        for row in rows:
            places.append((y, row))
            y += _ROW
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
    figure = Figure(figsize=(11.5, 1.35 + 0.3 * y), dpi=150, layout=layout)
    panels = figure.subplots(1, len(_CHARTED), sharey=True)
    for axes, metric in zip(panels, _CHARTED, strict=True):
        _draw_panel(axes, metric, places, headings)
        axes.set_ylim(y - 0.3, -0.75)
    labels = [row.label.replace(" - ", " \u2212 ") for _, row in places]
    panels[0].set_yticks([place for place, _ in places], labels)
    for place, title in headings:
        panels[0].annotate(
            title,
            (0, place),
            xycoords=("axes fraction", "data"),
            xytext=(-3.5, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            weight="bold",
            fontsize=11,
        )
    figure.legend(handles=_make_legend(results), loc="outside lower center", ncols=3, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw_panel(
    axes: Axes,
    metric: str,
    places: Sequence[tuple[float, ResultRow]],
    headings: Sequence[tuple[float, str]],
) -> None:
    """Draw the differences of one metric."""
    centres = [row.ours[metric].difference for _, row in places if row.ours]
    centres += [row.paper.difference.get(metric) for _, row in places]
    limit = max(2.0, 1.45 * max((abs(value) for value in centres if value is not None), default=0))
    axes.set_xlim(-limit, limit)
    for place, _ in headings:
        axes.axhspan(place - 0.5, place + 0.5, color=_BAND, zorder=0, linewidth=0)
    axes.axvline(0, color=_MUTED, linewidth=1, zorder=1)
    for place, row in places:
        if row.ours:
            _draw_interval(axes, place, row.ours[metric], row.method, limit)
        else:
            text = row.method.value
            axes.text(-0.97 * limit, place, text, color=_MUTED, fontsize=10, va="center")
        if (paper := row.paper.difference.get(metric)) is not None:
            axes.plot(paper, place, "D", color=_PAPER, markersize=6, mfc="white", mew=1.6, zorder=4)
    axes.set_title(f"difference in {metric}, with its 95 % interval", fontsize=12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    axes.xaxis.set_major_formatter(
        lambda value, _: to_text(value, 0, signed=True) if value else "0"
    )
    axes.grid(axis="x", color="#e3e6ea", zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, labelsize=11)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_interval(
    axes: Axes, place: float, ours: MeasuredDifference, method: IntervalMethod, limit: float
) -> None:
    """Draw our difference; an arrow says that the interval goes on outside the panel."""
    if ours.difference is None:
        return
    if ours.low is not None and ours.high is not None:
        edge = 0.97 * limit
        ends = [max(ours.low, -edge), min(ours.high, edge)]
        axes.plot(ends, [place] * 2, color=_OURS, linewidth=2, solid_capstyle="butt", zorder=2)
        for end, cut, arrow in ((ends[0], ours.low < -edge, "<"), (ends[1], ours.high > edge, ">")):
            mark = arrow if cut else "|"
            axes.plot(end, place, mark, color=_OURS, markersize=7, mew=1.6, zorder=2)
    resampled = method == IntervalMethod.BOOTSTRAP
    marker = "s" if resampled else "o" if ours.low is not None else "x"
    axes.plot(ours.difference, place, marker, color=_OURS, markersize=6.5, mew=1.8, zorder=3)


def _make_legend(results: AblationResults) -> list[Line2D]:
    used = [(row.method, row.ours["AP"].low is not None) for row in results.rows if row.ours]
    methods = {method for method, bounded in used if bounded}
    style: dict[str, Any] = {"color": _OURS, "markersize": 6.5, "linewidth": 2}
    handles = []
    if methods - {IntervalMethod.BOOTSTRAP}:
        handles.append(Line2D([], [], marker="o", label="here, over seeds", **style))
    if IntervalMethod.BOOTSTRAP in methods:
        label = "here, one seed, over images"
        handles.append(Line2D([], [], marker="s", label=label, **style))
    if not all(bounded for _, bounded in used):
        style |= {"linestyle": "", "mew": 1.8}
        handles.append(Line2D([], [], marker="x", label="here, no interval", **style))
    paper: dict[str, Any] = {"color": _PAPER, "mfc": "white", "mew": 1.6, "linestyle": ""}
    handles.append(Line2D([], [], marker="D", label="the paper, on COCO", **paper))
    return handles


def _render(results: AblationResults, png: bytes) -> str:
    labels = {variant.name: variant.label for variant in results.variants}
    runs = results.runs
    tables = [
        (title, [(row, _read_interval(row), count_noun(len(row.seeds), "seed")) for row in rows])
        for title, rows in _group_rows(results)
    ]
    return render_page(
        "ablations.html.j2",
        Path(__file__).parent,
        chart=base64.b64encode(png).decode("ascii"),
        metrics=AP_METRICS,
        titles=TASK_TITLES,
        settings=results.settings,
        tables=tables,
        absolute=[line for v in results.variants if (line := _average(v, results))],
        variants=results.variants,
        run_rows=[
            [
                labels[run.variant],
                run.seed,
                *(
                    to_text(run.metrics.get(task, {}).get(metric))
                    for task, metric in (("segm", "AP"), ("segm", "AP75"), ("bbox", "AP"))
                ),
                run.train_seconds,
                run.eval_seconds,
            ]
            for run in runs
        ],
        devices=sorted({str(run.device) for run in runs}),
        versions=sorted(
            {", ".join(f"{k} {v}" for k, v in (run.versions or {}).items()) for run in runs}
        ),
        hours=sum(run.seconds for run in runs) / 3600,
    )


def _read_interval(row: ResultRow) -> str:
    return judge_interval(row.ours["AP"].low, row.ours["AP"].high) if row.ours else NO_NUMBER


def _average(variant: Variant, results: AblationResults) -> list[str] | None:
    """Return a row of a variant's numbers, means over its seeds with their spread; None: no run."""
    runs = [run for run in results.runs if run.variant == variant.name]
    if not runs:
        return None
    means = [
        _format_mean([run.metrics.get(task, {}).get(metric) for run in runs])
        for task in ("segm", "bbox")
        for metric in (*AP_METRICS, "APs")
    ]
    seconds = f"{np.mean([run.seconds for run in runs]):.0f}"
    return [variant.label, str(len(runs)), *means, seconds]


def _format_mean(values: Sequence[float | None]) -> str:
    """Return the mean, with the standard deviation over two or more values."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return NO_NUMBER
    spread = f" \u00b1 {np.std(known, ddof=1):.1f}" if len(known) > 1 else ""
    return f"{np.mean(known):.1f}{spread}"
