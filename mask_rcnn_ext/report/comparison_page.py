"""Writes the comparison of two models on overlapping instances: page, json, sheet of pictures."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..errors import count_noun
from ..files import atomic_open, write_json
from ..overlap.comparison import METRICS
from ..overlap.lines import LINE_METRICS
from ..overlap.matching import LEVELS
from .charts import COLORS, INK, Chart, finish_chart, make_axes
from .comparison_gallery import CasePictures, make_case_sheet
from .drawing.pictures import encode_jpegs, save_png
from .json_records import to_json
from .render import render_page
from .text import judge_interval, to_text

__all__ = [
    "Comparison",
    "Difference",
    "MetricRow",
    "SeedDifferences",
    "draw_levels",
    "format_interval",
    "label_metric",
    "print_comparison",
    "write_comparison",
]

_PAGE_BYTES = 6_000_000  # of base64 pictures
_SHEET_CASES = 6  # on the sheet; the page has all
_TEMPLATE = Path(__file__).parent / "templates" / "comparison.html.j2"
_LEVEL_NAMES = {"none": "no overlap", "partial": "partial overlap", "heavy": "heavy overlap"}
_TASK_TITLES = {
    "AP": "Average precision of masks, 0 to 100",
    "boundary": "Boundary average precision, 0 to 100",
    "overlap": "Mask AP by overlap with any other object",
    "overlap_same": "Mask AP by overlap with another object of the same class",
    "errors": "Errors where objects meet; lower is better",
}
# The metrics that are printed; everything is in comparison.json and on the page.
_PRINTED = (
    *("AP/AP", "overlap/AP_none", "overlap/AP_partial", "overlap/AP_heavy", "overlap/AP_drop"),
    *("errors/leak", "errors/miss", "errors/double_claim", "errors/spurious_edge"),
)
_BOLD = ("/AP", "/AP_none", "/AP_partial", "/AP_heavy", "/AP_drop")


@dataclasses.dataclass(frozen=True)
class Difference:
    """A metric of two models, and the first minus the second with a 95 % interval.

    A number is NaN or None where there is nothing to measure.
    """

    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None


@dataclasses.dataclass(frozen=True)
class SeedDifferences:
    """Every metric of one seed of training."""

    seed: int
    metrics: dict[str, Difference]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The content of the page."""

    dataset: str  # name of the data set, or of its file
    names: list[str]  # names of the two models
    files: list[list[str]]  # result files of each model
    counts: dict[str, dict[str, float]]  # "a" and "b" -> counts of `compute_metrics`
    draws: int  # number of draws of the bootstrap over the images
    seed: int  # seed of that bootstrap
    method: str  # how the intervals of `metrics` were computed
    metrics: Mapping[str, Difference]  # by name in `METRICS`
    seeds: Sequence[SeedDifferences]  # empty for two files
    notes: list[str]  # sentences for the reader
    # Name in `LINE_METRICS` -> see `compare_lines`. Empty where they were not measured.
    lines: Mapping[str, Mapping[str, Mapping[str, float | None]]] = dataclasses.field(
        default_factory=dict
    )
    parts: int | None = None  # k of the same-part errors


def write_comparison(
    folder: str | Path,
    comparison: Comparison,
    drawn: Sequence[CasePictures],
    *,
    results: Any = None,
    template: Path = _TEMPLATE,
    **values: Any,
) -> list[Path]:
    """Write `comparison.json`, `comparison.html`, and `comparison.png` when there are pictures.

    Args:
        folder: made if missing.
        comparison: the content.
        drawn: the gallery, in its order.
        results: a record whose fields are added to `comparison.json`.
        template: a template that extends `comparison.html.j2`.
        values: further names that the template reads.

    Returns:
        The paths written.

    Raises:
        UserError: a file cannot be written.
    """
    folder = Path(folder)
    content = {**(to_json(results) or {}), **to_json(comparison)}
    first, second = comparison.names
    page = render_page(
        template.name,
        template.parent,
        content=comparison,
        first=first,
        second=second,
        chart=draw_levels(comparison),
        counts=comparison.counts["a"],
        pairs=" and ".join(
            f"{c['matched']:,} objects, {c['pairs']:,} pairs with overlapping boxes ({name})"
            for name, c in zip(comparison.names, comparison.counts.values(), strict=True)
        ),
        tables=[
            (title, [_make_row(n, comparison) for n in METRICS if n.startswith(f"{task}/")])
            for task, title in _TASK_TITLES.items()
        ],
        line_tables=_make_line_tables(comparison),
        line_metrics=[LINE_METRICS[name] for name in comparison.lines],
        errors=[metric for name, metric in METRICS.items() if name.startswith("errors/")],
        cases=list(
            zip(drawn, encode_jpegs([case.tiles for case in drawn], 90, _PAGE_BYTES), strict=True)
        ),
        **values,
    )
    written = [folder / "comparison.json", folder / "comparison.html"]
    if written[1].is_file():  # of an earlier comparison, and so is its picture
        (folder / "comparison.png").unlink(missing_ok=True)
    write_json(written[0], content)
    with atomic_open(written[1], "w") as file:
        file.write(page)
    if drawn:
        written.append(folder / "comparison.png")
        heading = (
            f"{first} and {second} on {comparison.dataset}, where they differ most\n"
            "Dashed: contested region, where the boxes of two objects overlap. An object "
            "and the prediction matched with it have one colour; a prediction that is matched with "
            "none has another."
        )
        save_png(written[2], make_case_sheet(drawn[:_SHEET_CASES], comparison.names, heading))
    return written


def draw_levels(comparison: Comparison) -> Chart:
    """Return the chart of the mask AP at each overlap level, with the number of objects there."""
    figure, axes = make_axes(5.4, 3.0)
    rows = [comparison.metrics[f"overlap/AP_{level}"] for level in LEVELS]
    labels = []
    for level, row in zip(LEVELS, rows, strict=True):
        count = comparison.counts["a"][f"objects_{level}"]
        labels.append(
            f"{_LEVEL_NAMES[level]}\n{count_noun(int(count), 'object')}\n{_format_difference(row)}"
        )
    top = 1.0
    for series, values in enumerate(([row.a for row in rows], [row.b for row in rows])):
        heights = [0.0 if value is None or math.isnan(value) else value for value in values]
        places = [index + 0.37 * (series - 0.5) for index in range(len(rows))]
        bars = axes.bar(places, heights, 0.34, color=COLORS[series])
        axes.bar_label(
            bars, [to_text(value) for value in values], padding=2, color=INK, fontsize=10
        )
        top = max(top, *heights)
    axes.set_ylim(0, 1.1 * top)
    axes.set_xticks(range(len(rows)), labels)
    axes.yaxis.set_major_formatter("{x:g}")
    alt = f"Mask AP of {' and '.join(comparison.names)} on objects by their overlap with others; "
    legend = [(series, name, "") for series, name in enumerate(comparison.names)]
    return finish_chart(figure, "", f"{alt}the numbers are in the table below", legend)


def label_metric(name: str) -> str:
    """Return the label of one of `METRICS`, with its unit."""
    metric = METRICS[name]
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label


def format_interval(row: Difference, form: str = "{} to {}") -> str:
    """Return the two ends of an interval, formatted with `form`; "" if there is no interval."""
    return "" if row.high is None else _format_ends(row.low, row.high, form)


def _format_ends(
    low: float | None, high: float | None, form: str, decimals: int = 1, signed: bool = True
) -> str:
    if low is None or math.isnan(low):
        return ""
    return form.format(*(to_text(end, decimals, signed) for end in (low, high)))


def _format_difference(row: Difference) -> str:
    interval = format_interval(row, " ({} to {})")
    return to_text(row.difference, signed=True) + interval


@dataclasses.dataclass(frozen=True)
class MetricRow:
    """A row of the page's tables, its numbers as text."""

    label: str  # with the unit
    meaning: str
    bold: bool  # whether it is one of the main rows
    a: str
    b: str
    difference: str
    interval: str  # 95 %; "": none
    verdict: str  # "better", "worse", "not told apart" or a dash
    seeds: list[str]  # the difference of each seed of training


def _make_row(name: str, comparison: Comparison) -> MetricRow:
    metric, values = METRICS[name], comparison.metrics[name]
    verdict = judge_interval(values.low, values.high)
    if verdict in ("higher", "lower"):
        verdict = "better" if metric.higher_is_better == (verdict == "higher") else "worse"
    return MetricRow(
        label=label_metric(name),
        meaning=metric.meaning,
        bold=name.endswith(_BOLD),
        a=to_text(values.a),
        b=to_text(values.b),
        difference=to_text(values.difference, signed=True),
        interval=format_interval(values),
        verdict=verdict,
        seeds=[_format_difference(seed.metrics[name]) for seed in comparison.seeds],
    )


def _make_line_tables(comparison: Comparison) -> list[tuple[str, list[MetricRow]]]:
    """Return the title and the rows of the axis excess, and of the same-part errors."""
    titles = {"axis": "Contour along the axes; the last columns have the ratio"}
    if comparison.parts is not None:
        titles["same_part"] = f"Errors where two RoIs read the same part, k = {comparison.parts}"
    return [
        (title, [_make_line_row(n, comparison) for n in comparison.lines if n.startswith(task)])
        for task, title in titles.items()
        if comparison.lines
    ]


def _make_line_row(name: str, comparison: Comparison) -> MetricRow:
    metric, values = LINE_METRICS[name], comparison.lines[name]
    is_ratio = "ratio" in values
    compared = values["ratio" if is_ratio else "difference"]
    verdict = judge_interval(compared["low"], compared["high"], neutral=1 if is_ratio else 0)
    if verdict in ("higher", "lower") and not is_ratio:  # objects may have lines along the axes
        verdict = "better" if verdict == "lower" else "worse"
    decimals = 2 if is_ratio else 1
    change = to_text(compared["value"], decimals, not is_ratio)
    a, b = (
        to_text(entry["value"], decimals)
        + _format_ends(entry["low"], entry["high"], " ({} to {})", decimals, signed=False)
        for entry in (values["a"], values["b"])
    )
    return MetricRow(
        label=f"{metric.label}, {metric.unit}" if metric.unit else metric.label,
        meaning=metric.meaning,
        bold=name.endswith(("excess", "difference")),
        a=a,
        b=b,
        difference=f"\u00d7 {change}" if is_ratio and compared["value"] is not None else change,
        interval=_format_ends(
            compared["low"], compared["high"], "{} to {}", decimals, not is_ratio
        ),
        verdict=verdict,
        seeds=[],
    )


def print_comparison(comparison: Comparison) -> None:
    """Print the main metrics as a table, and the meanings of the metrics of lines."""
    rows = [_make_row(name, comparison) for name in _PRINTED]
    rows += [row for _, found in _make_line_tables(comparison) for row in found]
    cells = [[row.label, row.a, row.b, row.difference, row.interval] for row in rows]
    header = ["", *comparison.names, "difference", "95 % interval"]
    align = ("left", *["right"] * 4)
    print(tabulate(cells, header, "plain", colalign=align, disable_numparse=True))
    for name in comparison.lines:
        if name.endswith(("excess", "one_class/difference")):
            metric = LINE_METRICS[name]
            print(f"{metric.label.partition(',')[0]}: {metric.meaning}")
