"""The comparison of two models on overlapping instances: a page, its json, a sheet of pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.ticker import MaxNLocator

from ..files import atomic_open, make_jsonable, write_json
from ..overlap.comparison import METRICS
from ..overlap.matching import LEVELS
from .charts import Tick
from .comparison_answers import answer_rows, lattice_rows, sentences
from .comparison_pictures import Drawn, cases_sheet
from .drawing.pictures import jpeg_url, save_png
from .text import reading, shown

__all__ = ["level_chart", "shown", "write_comparison"]

_PAGE_BYTES = 6_000_000  # of base64 pictures
_SHEET_CASES = 6  # on the sheet, the picture for a README; the page has all


_LEVEL_NAMES = {"none": "no overlap", "partial": "partial overlap", "heavy": "heavy overlap"}
_TASK_TITLES = {
    "AP": "Average precision of masks, 0 to 100",
    "boundary": "Boundary average precision, 0 to 100",
    "overlap": "Mask AP by overlap with any other object",
    "overlap_same": "Mask AP by overlap with another object of the same class",
    "errors": "Errors where objects meet; lower is better",
}


def write_comparison(
    folder: str | Path, content: Mapping[str, Any], drawn: Sequence[Drawn]
) -> list[Path]:
    """Write `comparison.json`, `comparison.html`, and `comparison.png` when there are pictures.

    Args:
        folder: made if missing.
        content: "dataset"; "names", "files" of the two models; "draws", "seed" of the bootstrap;
            "counts": "a" and "b" -> the counts of `overlap.comparison.compute_metrics`; "metrics":
            its `compare`; "method": of the intervals; "seeds": per seed of training
            {"seed", "metrics"}, or empty; "notes": sentences to know. Of a comparison over seeds
            also "answers", "lattice" and "settings", see `comparison_answers`. What else there is
            goes to the json.
        drawn: the gallery, in its order.

    Returns:
        The paths written.

    Raises:
        UserError: a file cannot be written.
    """
    folder, content = Path(folder), make_jsonable(content)
    page = _render(content, drawn)
    write_json(folder / "comparison.json", content)
    written = [folder / "comparison.json", folder / "comparison.html"]
    with atomic_open(written[1], "w") as file:
        file.write(page)
    (folder / "comparison.png").unlink(missing_ok=True)  # of an earlier comparison
    if drawn:
        written.append(folder / "comparison.png")
        save_png(written[2], cases_sheet(drawn[:_SHEET_CASES], content["names"], _heading(content)))
    return written


def _heading(content: Mapping[str, Any]) -> str:
    first, second = content["names"]
    return (
        f"{first} and {second} on {content['dataset']}, where they differ most\n"
        "Dashed: contested region, where the boxes of two objects overlap. Red: straight seam. "
        "An object and what is matched with it have one colour; what is matched with none has its "
        "own."
    )


def _data_urls(drawn: Sequence[Drawn]) -> list[list[str]]:
    """Return the tiles of each case as JPEGs; their quality falls until the page is small."""
    urls: list[list[str]] = []
    for quality in (90, 75, 60, 45):
        urls = [[jpeg_url(tile, quality) for tile in case.tiles] for case in drawn]
        if sum(len(url) for case in urls for url in case) <= _PAGE_BYTES:
            break
    return urls


@dataclass(frozen=True)
class Bar:
    """One bar of the chart, in the SVG's units; `text` stands above it."""

    x: float
    y: float
    height: float
    text: str
    series: int


@dataclass(frozen=True)
class LevelChart:
    """AP by overlap level as bars, the two models side by side; in the SVG's units."""

    bars: list[Bar]
    groups: list[tuple[float, str, str]]  # centre, level, difference with interval
    y_ticks: list[Tick]
    bar_width: float
    width: int = 760
    height: int = 340
    left: int = 52
    top: int = 22
    right: int = 750
    bottom: int = 280


def level_chart(
    metrics: Mapping[str, Mapping[str, float | None]], counts: Mapping[str, int]
) -> LevelChart:
    """Return the chart of the mask AP at each overlap level, with the number of objects there."""
    found = [
        (metrics[f"overlap/AP_{level}"], f"{_LEVEL_NAMES[level]}: {counts[f'objects_{level}']:,}")
        for level in LEVELS
    ]
    values = [row[side] for row, _ in found for side in ("a", "b")]
    top = max([1.0, *(value for value in values if value is not None)])
    marks = [m for m in MaxNLocator(nbins=5).tick_values(0, top) if m >= 0]
    empty = LevelChart([], [], [], 84)
    left, right, bottom = empty.left, empty.right, empty.bottom
    unit = (bottom - empty.top) / marks[-1]
    bars, groups = [], []
    for index, (row, label) in enumerate(found):
        centre = round(left + (right - left) * (index + 0.5) / len(found), 1)
        for series, side in enumerate(("a", "b")):
            value = row[side]
            height = round(unit * max(0.0, value or 0.0), 1)
            x = centre + (series - 1) * (empty.bar_width + 3) + 1.5
            bars.append(Bar(x, bottom - height, height, shown(value), series))
        groups.append((centre, label, _difference_text(row)))
    ticks = [Tick(round(bottom - unit * mark, 1), f"{mark:.4g}") for mark in marks]
    return LevelChart(bars, groups, ticks, empty.bar_width)


def _difference_text(row: Mapping[str, float | None], decimals: int = 1) -> str:
    low, high = row["low"], row["high"]
    text = shown(row["difference"], decimals, signed=True)
    if low is None or high is None:
        return text
    return f"{text} ({shown(low, decimals, True)} to {shown(high, decimals, True)})"


def _tables(content: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return (title, rows) of every group of metrics."""
    return [
        (title, [_row(name, content) for name in METRICS if name.startswith(f"{task}/")])
        for task, title in _TASK_TITLES.items()
    ]


def _row(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    metric, values = METRICS[name], content["metrics"][name]
    digits = 1 if metric.unit in ("", "%") else 3
    good = "higher" if metric.higher_is_better else "lower"
    said = reading(values)
    low, high = (shown(values[end], digits, signed=True) for end in ("low", "high"))
    return {
        "label": f"{metric.label}, {metric.unit}" if metric.unit else metric.label,
        "meaning": metric.meaning,
        "main": name.endswith(
            ("/AP", "/AP_none", "/AP_partial", "/AP_heavy", "/AP_drop", "/seam_share")
        ),
        "a": shown(values["a"], digits),
        "b": shown(values["b"], digits),
        "difference": shown(values["difference"], digits, signed=True),
        "interval": "" if values["low"] is None else f"{low} to {high}",
        "told": said in ("higher", "lower"),
        "reading": said
        if said not in ("higher", "lower")
        else "better"
        if said == good
        else "worse",
        "seeds": [_difference_text(seed["metrics"][name], digits) for seed in content["seeds"]],
    }


def _render(content: Mapping[str, Any], drawn: Sequence[Drawn]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    first, second = content["names"]
    return environment.get_template("comparison.html.j2").render(
        content=content,
        first=first,
        second=second,
        chart=level_chart(content["metrics"], content["counts"]["a"]),
        counts=content["counts"]["a"],
        pairs=" and ".join(
            f"{c['matched']:,} objects, {c['pairs']:,} pairs with overlapping boxes ({name})"
            for name, c in zip(content["names"], content["counts"].values(), strict=True)
        ),
        tables=_tables(content),
        sentences=sentences(content) if "answers" in content else [],
        answers=answer_rows(content) if "answers" in content else [],
        lattice=lattice_rows(content) if "answers" in content else [],
        errors=[metric for name, metric in METRICS.items() if name.startswith("errors/")],
        cases=list(zip(drawn, _data_urls(drawn), strict=True)),
    )
