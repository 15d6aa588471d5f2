"""A run's two pages to show: `predictions.png` and `report.html`, one self-contained file."""

import itertools
import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..files import atomic_open
from .charts import run_charts
from .drawing.pictures import save_png
from .gallery import Pair, as_pairs, choose_samples, predictions_sheet
from .instances import DatasetSummary, summarize
from .run_data import TASK_TITLES, Run, changed_keys, read_predictions, read_run

__all__ = ["write_report"]

logger = logging.getLogger(__name__)

_NONE = "\u2013"  # a dash, where there is no number
_AP_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_SIZE_STEPS = (0, 16, 32, 48, 64, 96, 128, 192, 256, 384)  # pixels; the last bin is open


def write_report(
    folder: str | Path,
    *,
    train_names: Sequence[str] = (),
    test_names: Sequence[str] = (),
    num_images: int = 12,
    score_threshold: float = 0.5,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Write `predictions.png` and `report.html` into a run's folder.

    What the run lacks is said on the page. `predictions.png` is not written when there are no
    predictions, or when the test set cannot be read.

    Args:
        folder: `OUTPUT_DIR` of the run.
        train_names: its training sets, those of them that are registered and on disk.
        test_names: the same of its test sets. Pictures come from the first one with predictions.
        num_images: images to draw, spread evenly over the test set.
        score_threshold: predictions below it are not drawn; 0-1.
        notes: sentences to show among what is missing.

    Returns:
        The paths written.

    Raises:
        UserError: the folder is no run, or a file in it cannot be read.
    """
    run = read_run(folder)
    missing = [*run.missing, *notes]
    test = [summarize(name) for name in test_names]
    data = [("training", summarize(name)) for name in train_names]
    data += [("test", summary) for summary in test]
    gallery = _gallery(run, test, num_images, score_threshold)
    missing += gallery.missing
    page = _render(run, data, gallery.pairs, gallery.caption, missing)
    written = [run.folder / "report.html"]
    with atomic_open(written[0], "w") as file:
        file.write(page)
    if gallery.sheet is not None:
        written.append(run.folder / "predictions.png")
        save_png(written[1], gallery.sheet)
    for path in written:
        logger.info("wrote %s", path)
    return written


@dataclass
class _Gallery:
    """The pictures of a report: the sheet, the same as pairs for the page, and what is missing."""

    sheet: npt.NDArray[np.uint8] | None = None
    pairs: list[Pair] = field(default_factory=list)
    caption: str = ""
    missing: list[str] = field(default_factory=list)


def _gallery(
    run: Run, test: list[DatasetSummary], num_images: int, score_threshold: float
) -> _Gallery:
    """Draw `num_images` of the first test set that has predictions."""
    shown, predictions = _first_predicted(run, test)
    if shown is None or predictions is None:
        lacking = "No pictures: there are no predictions for a test set that can be read."
        return _Gallery(missing=[lacking])
    samples, missing = choose_samples(shown.name, predictions, num_images, score_threshold)
    caption = _caption(run, shown, len(samples), score_threshold)
    if not samples:
        return _Gallery(caption=caption, missing=missing)
    heading = f"Ground truth beside prediction: {shown.name}\n{caption}"
    sheet = predictions_sheet(samples, shown.class_names, heading)
    pairs = as_pairs(samples, shown.class_names)
    if len(pairs) < len(samples):
        missing.append(
            f"{len(samples) - len(pairs)} picture(s) left out to keep the page small; "
            "they are in predictions.png."
        )
    return _Gallery(sheet, pairs, caption, missing)


def _first_predicted(
    run: Run, test: list[DatasetSummary]
) -> tuple[DatasetSummary | None, dict[Any, list[dict[str, Any]]] | None]:
    for summary in test:
        if summary.images and (predictions := read_predictions(run, summary.name)) is not None:
            return summary, predictions
    return None, None


def _caption(run: Run, data: DatasetSummary, count: int, threshold: float) -> str:
    return (
        f"{count} of the {data.images} images of {data.name}, spread evenly over the data set and "
        f"not chosen by result. Predictions of {_name(run)} with a score >= {threshold:g}. "
        "A prediction has the colour of the object it lies on (IoU >= 0.5), else a colour of its "
        "own; where objects crowd, the labels of the lowest scores are left out."
    )


def _name(run: Run) -> str:
    return run.folder.resolve().name or str(run.folder)


def _render(
    run: Run,
    data: list[tuple[str, DatasetSummary]],
    pairs: list[Pair],
    caption: str,
    missing: list[str],
) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ap"] = lambda value: _NONE if _number(value) is None else f"{value:.1f}"
    environment.filters["zip_with"] = lambda first, second: list(zip(first, second, strict=True))
    environment.filters["count"] = lambda value: f"{value:,}"
    counts = {s.name: dict(zip(s.class_names, s.per_class, strict=True)) for _, s in data}
    info = dict(run.info)
    versions = info.pop("versions", None)
    return environment.get_template("report.html.j2").render(
        name=_name(run),
        model=f"{run.config.MODEL.META_ARCHITECTURE}, {run.config.MODEL.BACKBONE.NAME}",
        headline=_headline(run),
        missing=missing,
        data=[(role, summary, _histogram(summary.sizes)) for role, summary in data],
        charts=run_charts(run.history),
        results=[
            (name, _ap_table(tasks), _per_class(tasks, counts.get(name, {})), _other_tables(tasks))
            for name, tasks in run.results.items()
        ],
        ap_columns=_AP_COLUMNS,
        pairs=pairs,
        pair_width=480 if all(max(p.width, p.height) < 500 for p in pairs) else 760,
        caption=caption,
        changed=changed_keys(run.config),
        config_text=run.config_text,
        facts=_facts(run, info),
        versions=versions if isinstance(versions, dict) else {},
        command=_command(run),
    )


def _number(value: Any) -> float | None:
    """Return `value` if it is a finite number; a metric without a value is null or NaN."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _duration(seconds: Any) -> str:
    """Return seconds as "6 min 12 s"."""
    number = _number(seconds)
    if number is None:
        return _NONE
    if number < 60:
        return f"{number:.1f} s" if number < 10 else f"{number:.0f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _headline(run: Run) -> list[tuple[str, str, str]]:
    """Return (label, value, detail) of the figures at the top of the page."""
    tasks = next(iter(run.results.values()), {})
    cards = []
    for task in ("segm", "bbox"):
        values = tasks.get(task, {})
        if task in tasks:
            value, ap50 = _number(values.get("AP")), _number(values.get("AP50"))
            shown = _NONE if value is None else f"{value:.1f}"
            detail = "AP, IoU 0.50 to 0.95" if ap50 is None else f"AP50 {ap50:.1f}"
            cards.append((f"{TASK_TITLES[task]} AP", shown, detail))
    if not cards:
        cards.append(("Mask AP", _NONE, "not evaluated"))
    train = _number(run.info.get("train_seconds"))
    iterations = run.history.get("total_loss", ([], []))[0]
    detail = f"{iterations[-1] + 1:,} iterations" if iterations else "not trained in this folder"
    cards.append(("Training time", _duration(train), detail))
    device = str(run.info.get("device") or run.config.MODEL.DEVICE)
    memory = _number(run.info.get("peak_memory_mb"))
    cards.append(("Device", device, "" if memory is None else f"peak memory {memory:,.0f} MB"))
    return cards


def _shown(metric: str, value: Any) -> str:
    """Return an AP with one decimal, any other number with what it needs, and else text."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return _NONE
    number = _number(value)
    if number is None:
        return str(value)
    return f"{number:.1f}" if "AP" in metric else f"{number:.4g}"


def _ap_table(tasks: dict[str, Any]) -> list[tuple[str, list[str]]]:
    return [
        (title, [_shown(column, tasks[task].get(column)) for column in _AP_COLUMNS])
        for task, title in TASK_TITLES.items()
        if task in tasks
    ]


def _per_class(
    tasks: dict[str, Any], counts: dict[str, int]
) -> list[tuple[str, int | None, list[Any]]]:
    """Return (class, instances in the test set or None, [mask AP, box AP])."""
    names = [
        key.removeprefix("AP-")
        for task in TASK_TITLES
        for key in tasks.get(task, {})
        if key.startswith("AP-")
    ]
    return [
        (name, counts.get(name), [tasks.get(t, {}).get(f"AP-{name}") for t in TASK_TITLES])
        for name in dict.fromkeys(names)
    ]


def _other_tables(
    tasks: dict[str, Any],
) -> list[tuple[str, list[str], list[tuple[str, list[str]]]]]:
    """Return (task, columns, rows) of every task but masks and boxes."""
    tables = []
    for task, values in tasks.items():
        if task in TASK_TITLES or not isinstance(values, dict) or not values:
            continue
        levels = {key: value for key, value in values.items() if isinstance(value, dict)}
        if levels:
            columns = list(dict.fromkeys(metric for row in levels.values() for metric in row))
            rows = [
                (level, [_shown(c, row.get(c)) for c in columns]) for level, row in levels.items()
            ]
            tables.append((task, columns, rows))
        plain = [(key, [_shown(key, value)]) for key, value in values.items() if key not in levels]
        if plain:
            tables.append((task, ["value"], plain))
    return tables


def _histogram(sizes: list[float]) -> list[tuple[str, int]]:
    """Return (range in pixels, count) of the square roots of the box areas."""
    edges = [*_SIZE_STEPS, math.inf]
    counts, _ = np.histogram(sizes, bins=edges)
    names = [f"{low} to {high}" for low, high in itertools.pairwise(_SIZE_STEPS)]
    bins = list(zip([*names, f"{_SIZE_STEPS[-1]}+"], counts.tolist(), strict=True))
    while bins and not bins[-1][1]:
        bins.pop()
    return bins


def _facts(run: Run, info: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) of the run's circumstances."""
    given = info.pop("seed", None)
    seed = given if isinstance(given, int) else int(run.config.SEED)
    facts = [
        ("Folder", str(run.folder)),
        ("Seed", str(seed) if seed >= 0 else "not fixed"),
        ("Device", str(info.pop("device", run.config.MODEL.DEVICE))),
        ("Training", _duration(info.pop("train_seconds", None))),
        ("Evaluation", _duration(info.pop("eval_seconds", None))),
    ]
    memory = _number(info.pop("peak_memory_mb", None))
    facts.append(("Peak memory", _NONE if memory is None else f"{memory:,.0f} MB"))
    info.pop("command", None)
    return facts + [(str(key).replace("_", " "), str(value)) for key, value in info.items()]


def _command(run: Run) -> str:
    if run.info.get("command"):
        return str(run.info["command"])
    config = shlex.quote(str(run.folder / "config.yaml"))
    again = shlex.quote(f"{run.folder}_again")
    seed = run.info.get("seed")
    suffix = f" SEED {seed}" if isinstance(seed, int) and seed >= 0 else ""
    return f"python train_net.py --config-file {config} OUTPUT_DIR {again}{suffix}"
