"""Where in the RoI the axis runs lie: a chart for each model, and the share near g / k."""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from mask_rcnn_ext.report.charts import COLORS, INK, MUTED, Chart, finish_chart
from mask_rcnn_ext.report.drawing.pictures import save_png

from .axis_records import PLACES
from .experiment_results import ModelNumbers

__all__ = ["draw_places", "find_near_share", "save_places"]


_FIRST, _LAST = 2, 19  # the sides of the 21 cells that count; objects end at those outside
_PER_CELL = PLACES // 21
# The places within half a cell of a side that counts, and those between.
_INNER = slice(_FIRST * _PER_CELL - _PER_CELL // 2, _LAST * _PER_CELL + _PER_CELL // 2)
_LINES = {7: (COLORS[1], "-"), 3: (COLORS[3], "--")}  # k -> colour and style of its lines


def find_near_share(places: list[int], k: int) -> tuple[float | None, float]:
    """Return the share of axis runs within a quarter of a cell of the lines g / k, and by chance.

    Args:
        places: (84,), the length of axis runs at each place, see `AxisRecord`.
        k: 7 or 3.

    Returns:
        Both in percent, of the runs between the second cell and the last but one; None without
        runs there. Chance is the share of places.
    """
    near = np.zeros(PLACES, dtype=bool)
    for line in range(1, k):
        at = line * PLACES // k
        near[at - 1 : at + 1] = True
    found = np.array(places, dtype=np.float64)
    total = found[_INNER].sum()
    share = 100 * float(found[_INNER][near[_INNER]].sum() / total) if total else None
    return share, 100 * float(near[_INNER].mean())


def draw_places(models: Mapping[str, ModelNumbers]) -> Chart:
    """Return the chart of where the axis runs of each model lie, for a page.

    Args:
        models: `ExperimentResults.models`.
    """
    names = ", ".join(model.name for model in models.values())
    alt = f"Where in the RoI axis runs lie, for {names}: length at each place divided by the mean"
    return finish_chart(_draw(models), "", alt)


def save_places(path: str | Path, models: Mapping[str, ModelNumbers]) -> None:
    """Write the same chart as a PNG.

    Args:
        path: the path of the file.
        models: see `draw_places`.
    """
    buffer = io.BytesIO()
    _draw(models).savefig(buffer, format="png", dpi=150)
    save_png(path, np.array(Image.open(buffer).convert("RGB")))


def _draw(models: Mapping[str, ModelNumbers]) -> Figure:
    figure = Figure(figsize=(6.4, 0.7 + 1.2 * len(models)), layout="constrained")
    rows = figure.subplots(len(models), 1, sharex=True, squeeze=False)[:, 0]
    highest = 1.0
    for axes, model in zip(rows, models.values(), strict=True):
        highest = max(highest, _draw_model(axes, model))
    for axes in rows:
        axes.set_ylim(0, 1.05 * highest)
    rows[-1].set_xlabel(
        "place in the RoI, in units of its side; solid lines: g/7, dashed lines: g/3",
        color=MUTED,
        fontsize=9,
    )
    return figure


def _draw_model(axes: Axes, model: ModelNumbers) -> float:
    """Draw one model's places; return the highest value."""
    found = np.array(model.places, dtype=np.float64)
    values = found[_INNER] / max(found[_INNER].mean(), 1e-9)
    edges = np.arange(_INNER.start, _INNER.stop + 1) / PLACES
    axes.stairs(values, edges, fill=True, color=COLORS[0], alpha=0.75)
    for k, (color, style) in _LINES.items():
        for line in range(1, k):
            axes.axvline(line / k, color=color, linestyle=style, linewidth=0.9)
    axes.axhline(1, color=MUTED, linewidth=0.6)
    axes.set_title(model.name, fontsize=9.5, color=INK, loc="left")
    axes.tick_params(colors=MUTED, length=0, labelsize=9)
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.set_xlim(0, 1)
    return float(values.max())
