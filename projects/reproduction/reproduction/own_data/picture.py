"""The curves: mask AP over the minutes of training, for each variant."""

import io
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .markdown import DATA_TITLES, name_variant, select_runs
from .results_file import OwnDataResults
from .runs import DATA

__all__ = ["draw_curves"]

_COLOURS = {"lite0": "#2f5fd0", "scratch": "#d9480f"}
_DASHES = {"hand": "-", "auto": "--"}
_MUTED = "#606a76"


def draw_curves(results: OwnDataResults) -> bytes:
    """Return a PNG with a panel for each data set.

    Thick lines are means over the seeds, thin lines are single runs. The minutes follow from the
    iterations and the planned minutes, so the load of the machine does not show.
    """
    figure = Figure(figsize=(15, 4.2), layout="constrained", dpi=110)
    for axes, data in zip(figure.subplots(1, len(DATA)), DATA, strict=True):
        _draw_panel(axes, data, results)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    for axes in figure.axes[1:]:
        more = axes.get_legend_handles_labels()
        for handle, label in zip(*more, strict=True):
            if label not in labels:
                handles, labels = [*handles, handle], [*labels, label]
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _draw_panel(axes: Axes, data: str, results: OwnDataResults) -> None:
    facts = results.data[data]
    for start, settings in DATA[data].variants:
        runs = select_runs(results.runs, data, start, settings)
        style = {"color": _COLOURS[start], "linestyle": _DASHES[settings]}
        curves = [[each.score("scoring") for each in run.evaluations] for run in runs]
        if not curves:
            continue
        times = [
            facts.minutes * each.iteration / runs[0].iterations for each in runs[0].evaluations
        ]
        for curve in curves:
            axes.plot(times, curve, alpha=0.35, linewidth=0.8, **style)
        means = [fmean(values) for values in zip(*curves, strict=True)]
        name = name_variant(start, settings)
        axes.plot(times, means, marker="o", markersize=3.5, label=name, **style)
    axes.set_title(f"{DATA_TITLES[data]}: AP of {facts.scoring.images} validation images")
    axes.set_xlabel("minutes of training on two CPU cores")
    axes.set_ylabel("mask AP")
    axes.set_xlim(0, facts.minutes * 1.03)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=_MUTED, alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
