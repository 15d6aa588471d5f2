"""The ablations to look at: a chart of our differences beside the paper's, and a page with it."""

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mask_rcnn_ext.files import atomic_open
from mask_rcnn_ext.report.run_data import TASK_TITLES
from mask_rcnn_ext.report.text import reading

__all__ = ["ablation_chart", "write_ablation_report"]

_NONE, _MINUS = "\u2013", "\u2212"  # the dash stands where there is no number
_METRICS = ("AP", "AP50", "AP75")
_CHARTED = ("AP", "AP75")
_OURS, _PAPER, _MUTED, _BAND = "#2f5fd0", "#d9480f", "#606a76", "#f1f3f6"
_ROW, _HEADING = 1.0, 1.15  # heights on the chart
_BOOTSTRAPPED = "bootstrap"  # what a method's name holds when the interval is not over seeds


def write_ablation_report(
    content: Mapping[str, Any], page: str | Path, chart: str | Path
) -> list[Path]:
    """Write the page, one self-contained HTML file, and the chart.

    Args:
        content: of `ablations.json`.
        page: path of the page.
        chart: path of the PNG.

    Returns:
        The paths written.

    Raises:
        UserError: a file cannot be written.
    """
    png = ablation_chart(content)
    html = _render(content, png)
    with atomic_open(chart) as file:
        file.write(png)
    with atomic_open(page, "w") as file:
        file.write(html)
    return [Path(page), Path(chart)]


def _by_table(content: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (title, rows) of every table."""
    return [
        (title, rows)
        for table, title in content["settings"]["tables"].items()
        if (rows := [row for row in content["rows"] if row["table"] == table])
    ]


def ablation_chart(content: Mapping[str, Any]) -> bytes:
    """Return a PNG: one line per comparison, our difference with its interval, and the paper's."""
    places: list[tuple[float, dict[str, Any]]] = []
    headings: list[tuple[float, str]] = []
    y = 0.0
    for title, rows in _by_table(content):
        headings.append((y, title))
        y += _HEADING
        for row in rows:
            places.append((y, row))
            y += _ROW
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)
    figure = Figure(figsize=(11.5, 1.35 + 0.3 * y), dpi=150, layout=layout)
    panels = figure.subplots(1, len(_CHARTED), sharey=True)
    for axes, metric in zip(panels, _CHARTED, strict=True):
        _panel(axes, metric, places, headings)
        axes.set_ylim(y - 0.3, -0.75)
    labels = [row["label"].replace(" - ", f" {_MINUS} ") for _, row in places]
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
    figure.legend(handles=_legend(content), loc="outside lower center", ncols=3, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _panel(
    axes: Axes,
    metric: str,
    places: Sequence[tuple[float, dict[str, Any]]],
    headings: Sequence[tuple[float, str]],
) -> None:
    """Draw the differences of one metric."""
    centres = [row["ours"][metric]["difference"] for _, row in places if row["ours"]]
    centres += [row["paper"]["difference"].get(metric) for _, row in places]
    limit = max(2.0, 1.45 * max((abs(value) for value in centres if value is not None), default=0))
    axes.set_xlim(-limit, limit)
    for place, _ in headings:
        axes.axhspan(place - 0.5, place + 0.5, color=_BAND, zorder=0, linewidth=0)
    axes.axvline(0, color=_MUTED, linewidth=1, zorder=1)
    for place, row in places:
        if row["ours"]:
            _interval(axes, place, row["ours"][metric], row["method"], limit)
        else:
            axes.text(-0.97 * limit, place, row["method"], color=_MUTED, fontsize=10, va="center")
        if (paper := row["paper"]["difference"].get(metric)) is not None:
            axes.plot(paper, place, "D", color=_PAPER, markersize=6, mfc="white", mew=1.6, zorder=4)
    axes.set_title(f"difference in {metric}, with its 95 % interval", fontsize=12)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True))
    axes.xaxis.set_major_formatter(lambda value, _: _signed(value, 0) if value else "0")
    axes.grid(axis="x", color="#e3e6ea", zorder=0)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, labelsize=11)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _interval(
    axes: Axes, place: float, ours: Mapping[str, float | None], method: str, limit: float
) -> None:
    """Draw our difference; an arrow tells that the interval goes on outside the panel."""
    difference, low, high = ours["difference"], ours["low"], ours["high"]
    if difference is None:
        return
    if low is not None and high is not None:
        edge = 0.97 * limit
        shown = [max(low, -edge), min(high, edge)]
        axes.plot(shown, [place] * 2, color=_OURS, linewidth=2, solid_capstyle="butt", zorder=2)
        for end, cut, arrow in ((shown[0], low < -edge, "<"), (shown[1], high > edge, ">")):
            mark = arrow if cut else "|"
            axes.plot(end, place, mark, color=_OURS, markersize=7, mew=1.6, zorder=2)
    marker = "s" if _BOOTSTRAPPED in method else "o" if low is not None else "x"
    axes.plot(difference, place, marker, color=_OURS, markersize=6.5, mew=1.8, zorder=3)


def _legend(content: Mapping[str, Any]) -> list[Line2D]:
    used = [row for row in content["rows"] if row["ours"]]
    bounded = [row["method"] for row in used if row["ours"]["AP"]["low"] is not None]
    style: dict[str, Any] = {"color": _OURS, "markersize": 6.5, "linewidth": 2}
    handles = []
    if any(_BOOTSTRAPPED not in method for method in bounded):
        handles.append(Line2D([], [], marker="o", label="here, over seeds", **style))
    if any(_BOOTSTRAPPED in method for method in bounded):
        label = "here, one seed, over images"
        handles.append(Line2D([], [], marker="s", label=label, **style))
    if len(bounded) < len(used):
        style |= {"linestyle": "", "mew": 1.8}
        handles.append(Line2D([], [], marker="x", label="here, no interval", **style))
    paper: dict[str, Any] = {"color": _PAPER, "mfc": "white", "mew": 1.6, "linestyle": ""}
    handles.append(Line2D([], [], marker="D", label="the paper, on COCO", **paper))
    return handles


def _render(content: Mapping[str, Any], png: bytes) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["signed"] = _signed
    labels = {variant["name"]: variant["label"] for variant in content["variants"]}
    runs = content["runs"]
    return environment.get_template("ablations.html.j2").render(
        chart=base64.b64encode(png).decode("ascii"),
        metrics=_METRICS,
        titles=TASK_TITLES,
        labels=labels,
        settings=content["settings"],
        tables=[
            (title, [(row, reading(row["ours"]["AP"]) if row["ours"] else _NONE) for row in rows])
            for title, rows in _by_table(content)
        ],
        methods=Counter(row["method"] for row in content["rows"]),
        absolute=[line for v in content["variants"] if (line := _absolute(v, content))],
        variants=content["variants"],
        runs=[(labels[run["variant"]], run) for run in runs],
        devices=sorted({str(run["device"]) for run in runs}),
        versions=sorted(
            {", ".join(f"{k} {v}" for k, v in (run["versions"] or {}).items()) for run in runs}
        ),
        hours=sum((run["train_seconds"] or 0) + (run["eval_seconds"] or 0) for run in runs) / 3600,
    )


def _signed(value: float | None, decimals: int = 1) -> str:
    """Return AP points with their sign, and a minus in place of the hyphen."""
    if value is None:
        return _NONE
    return f"{round(value, decimals) + 0.0:+.{decimals}f}".replace("-", _MINUS)  # no minus zero


def _absolute(variant: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a variant's numbers: the mean over its seeds, and the spread; None: no run."""
    runs = [run for run in content["runs"] if run["variant"] == variant["name"]]
    if not runs:
        return None
    seconds = [(run["train_seconds"] or 0) + (run["eval_seconds"] or 0) for run in runs]
    return {
        "label": variant["label"],
        "config": variant["config"],
        "seeds": len(runs),
        "cells": [
            _mean([run["metrics"].get(task, {}).get(metric) for run in runs])
            for task, metrics in (("segm", (*_METRICS, "APs")), ("bbox", (*_METRICS, "APs")))
            for metric in metrics
        ],
        "seconds": f"{np.mean(seconds):.0f}",
    }


def _mean(values: Sequence[float | None]) -> str:
    """Return the mean, with the standard deviation over two or more values."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return _NONE
    spread = f" \u00b1 {np.std(known, ddof=1):.1f}" if len(known) > 1 else ""
    return f"{np.mean(known):.1f}{spread}"
