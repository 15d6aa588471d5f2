"""Writes the report of a run: `report.html`, `predictions.png`, and the numbers as json."""

import logging
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import say_are
from ..files import atomic_open, write_json
from ..overlap.analysis.analysis import Analysis
from ..overlap.analysis.run_analysis import NO_THRESHOLD
from .analysis_view import draw_extremes, view_analysis
from .charts import run_charts
from .drawing.pictures import save_png
from .gallery import NO_PICTURE, Pair, choose_samples, make_pairs, make_prediction_sheet
from .instances import DatasetSummary, count_instances, count_sizes
from .json_records import to_json
from .render import render_page
from .run_analysis import analyze_run
from .run_data import (
    TASK_TITLES,
    RunFolder,
    list_changed_keys,
    read_exported_evaluations,
    read_predictions,
    read_run,
)
from .text import NO_NUMBER, to_text

__all__ = ["write_report"]

logger = logging.getLogger(__name__)

_MOST_PROBLEMS = 3  # pictures that could not be read and are named
_AP_COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def write_report(
    folder: str | Path,
    *,
    train_names: Sequence[str] = (),
    test_names: Sequence[str] = (),
    num_images: int = 12,
    score_threshold: float | None = None,
    notes: Sequence[str] = (),
    data_warnings: Sequence[str] = (),
) -> list[Path]:
    """Write `report.html`, `analysis.json` and `predictions.png` into a run's folder.

    The page names the parts that the run lacks. Without predictions, or if the test set cannot be
    read, only the page is written, and it says which files are of an earlier report.

    Args:
        folder: `OUTPUT_DIR` of the run.
        train_names: the training sets of the run that are registered and on disk.
        test_names: the same of its test sets. Pictures and the analysis, see `analyze`, are of the
            first test set with predictions.
        num_images: how many images are drawn, spread evenly over the test set.
        score_threshold: 0-1. Predictions below it are not drawn, and do not count in the confusion
            matrix and for the quality of an image. None: the best threshold, see `analyze`.
        notes: sentences to add to the list of missing parts.
        data_warnings: the warnings of the check of the data, see `OwnData.warnings`.

    Returns:
        The paths written.

    Raises:
        UserError: the folder is no run, or a file in it cannot be read.
    """
    run = read_run(folder)
    test = [count_instances(name) for name in test_names]
    data = [("training", count_instances(name)) for name in train_names]
    data += [("test", summary) for summary in test]
    shown = _show_predictions(run, test, num_images, score_threshold)
    missing = [*run.missing, *notes, *_shorten(shown.missing)]
    new = {"analysis.json": shown.analysis, "predictions.png": shown.sheet}
    kept = [name for name, part in new.items() if part is None and (run.folder / name).exists()]
    missing += [f"{name} in this folder is of an earlier report." for name in kept]
    page = _render(run, data, shown, missing, list(data_warnings))
    written = [run.folder / "report.html"]
    with atomic_open(written[0], "w") as file:
        file.write(page)
    if shown.analysis is not None:
        written.append(run.folder / "analysis.json")
        write_json(written[-1], to_json(shown.analysis))
    if shown.sheet is not None:
        written.append(run.folder / "predictions.png")
        save_png(written[-1], shown.sheet)
    for path in written:
        logger.info("wrote %s", path)
    return written


@dataclass
class _Shown:
    """The part of a report about the first test set that has predictions."""

    analysis: Analysis | None = None
    view: dict[str, Any] | None = None  # see `view_analysis`, with pictures of images
    sheet: npt.NDArray[np.uint8] | None = None
    pairs: list[Pair] = field(default_factory=list)  # the pictures of the sheet, for the page
    caption: str = ""
    missing: list[str] = field(default_factory=list)


def _shorten(sentences: list[str]) -> list[str]:
    """Return each sentence once, and of the sentences on missing pictures only the first ones."""
    found = list(dict.fromkeys(sentences))
    pictures = [sentence for sentence in found if sentence.startswith(NO_PICTURE)]
    if len(pictures) <= _MOST_PROBLEMS:
        return found
    rest = [sentence for sentence in found if sentence not in pictures]
    more = f"{say_are(len(pictures) - _MOST_PROBLEMS, 'more picture')} left out in the same way."
    return [*pictures[:_MOST_PROBLEMS], more, *rest]


def _show_predictions(
    run: RunFolder, test: list[DatasetSummary], num_images: int, score_threshold: float | None
) -> _Shown:
    """Analyze the predictions of the first test set that has any, and draw `num_images` of it."""
    for data in test:
        if data.images and (predictions := read_predictions(run, data.name)) is not None:
            break
    else:
        lacking = "No pictures and no analysis: there are no predictions for a test set that can "
        return _Shown(missing=[f"{lacking}be read."])
    shown = _Shown(analyze_run(run, data.name, predictions, score_threshold))
    threshold = NO_THRESHOLD if score_threshold is None else score_threshold
    if shown.analysis is not None:
        threshold = shown.analysis.chosen.threshold
    samples, shown.missing = choose_samples(data.name, predictions, num_images, threshold)
    if shown.analysis is None:
        lacking = f"No analysis: data set {data.name} has no annotations in COCO's format."
        shown.missing.append(lacking)
    else:
        worst, best, problems = draw_extremes(shown.analysis, data, predictions, samples)
        shown.view = {**view_analysis(shown.analysis), "worst": worst, "best_images": best}
        shown.missing += problems
    if not samples:
        return shown
    shown.caption = (
        f"{len(samples)} of the {data.images} images of {data.name}, spread evenly over the data "
        f"set and not chosen by result. Predictions of {_name(run)} with a score >= "
        f"{threshold:.4g}. A prediction has the colour of the object that it lies on (IoU >= "
        "0.5), or another one if there is none. Where objects crowd, the labels of the lowest "
        "scores are left out."
    )
    heading = f"Ground truth next to prediction: {data.name}\n{shown.caption}"
    shown.sheet = make_prediction_sheet(samples, data.class_names, heading)
    shown.pairs = make_pairs(samples, data.class_names)
    if left_out := len(samples) - len(shown.pairs):
        shown.missing.append(
            f"{left_out} picture(s), to keep the page small; they are in predictions.png."
        )
    return shown


def _name(run: RunFolder) -> str:
    return run.folder.resolve().name or str(run.folder)


def _render(
    run: RunFolder,
    data: list[tuple[str, DatasetSummary]],
    shown: _Shown,
    missing: list[str],
    data_warnings: list[str],
) -> str:
    counts = {s.name: dict(zip(s.class_names, s.per_class, strict=True)) for _, s in data}
    info = dict(run.info)
    versions, skipped = info.pop("versions", {}), info.pop("skipped_images", {})
    best = _read_best(run)
    small = all(max(pair.width, pair.height) < 500 for pair in shown.pairs)
    return render_page(
        "report.html.j2",
        name=_name(run),
        model=f"{run.config.MODEL.META_ARCHITECTURE}, {run.config.MODEL.BACKBONE.NAME}",
        headline=_headline(run),
        missing=missing,
        skipped=list(skipped.values()),
        data_warnings=data_warnings,
        data=[(role, s, list(counts[s.name].items()), count_sizes(s.sizes)) for role, s in data],
        charts=run_charts(run.history, best["iteration"] if best else None),
        has_validation=any("validation_loss/" in name for name in run.history),
        results=[
            (name, _ap_rows(tasks), _class_rows(tasks, counts.get(name, {})), _other_tables(tasks))
            for name, tasks in run.results.items()
        ],
        ap_columns=list(_AP_COLUMNS),
        exported=_exported_rows(run),
        analysis=shown.analysis,
        view=shown.view,
        pairs=shown.pairs,
        pair_width=480 if small else 760,
        caption=shown.caption,
        changed=list_changed_keys(run.config),
        config_text=run.config_text,
        run_facts=_facts(run, info),
        versions=versions,
        command=_command(run),
    )


def _number(value: Any) -> float | None:
    """Return `value` if it is a finite number, else None: a metric may be null or NaN."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _duration(seconds: Any) -> str:
    """Return seconds as "6 min 12 s"."""
    number = _number(seconds)
    if number is None:
        return NO_NUMBER
    if number < 60:
        return f"{number:.1f} s" if number < 10 else f"{number:.0f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _headline(run: RunFolder) -> list[tuple[str, str, str]]:
    """Return (label, value, detail) of the figures at the top of the page."""
    tasks = next(iter(run.results.values()), {})
    cards = []
    for task in ("segm", "bbox"):
        if task in tasks:
            ap50 = _number(tasks[task].get("AP50"))
            detail = "AP, IoU 0.50 to 0.95" if ap50 is None else f"AP50 {ap50:.1f}"
            value = to_text(_number(tasks[task].get("AP")))
            cards.append((f"{TASK_TITLES[task]} AP", value, detail))
    if not cards:
        cards.append(("Mask AP", NO_NUMBER, "not evaluated"))
    iterations = run.history.get("total_loss", ([], []))[0]
    detail = f"{iterations[-1] + 1:,} iterations" if iterations else "not trained in this folder"
    cards.append(("Training time", _duration(run.info.get("train_seconds")), detail))
    device = str(run.info.get("device") or run.config.MODEL.DEVICE)
    memory = _number(run.info.get("peak_memory_mb"))
    cards.append(("Device", device, "" if memory is None else f"peak memory {memory:,.0f} MB"))
    return cards


def _format_metric(metric: str, value: Any) -> str:
    """Return an AP with one decimal, another number with four digits, anything else as text."""
    number = _number(value)
    if number is None:
        return NO_NUMBER if value is None or isinstance(value, float) else str(value)
    return to_text(number) if "AP" in metric else f"{number:.4g}"


def _ap_rows(tasks: dict[str, Any]) -> list[list[str]]:
    return [
        [title, *(_format_metric(column, tasks[task].get(column)) for column in _AP_COLUMNS)]
        for task, title in TASK_TITLES.items()
        if task in tasks
    ]


def _exported_rows(run: RunFolder) -> list[list[str]]:
    """Return file, data, mask AP and box AP of each exported model that was evaluated."""
    return [
        [file, data, *(_format_metric("AP", tasks.get(t, {}).get("AP")) for t in TASK_TITLES)]
        for file, data, tasks in read_exported_evaluations(run)
    ]


def _class_rows(tasks: dict[str, Any], counts: dict[str, int]) -> list[tuple[Any, ...]]:
    """Return (class, instances in the test set or None, mask AP, box AP) of each class."""
    names = [
        key.removeprefix("AP-")
        for task in TASK_TITLES
        for key in tasks.get(task, {})
        if key.startswith("AP-")
    ]
    return [
        (
            name,
            counts.get(name),
            *(_number(tasks.get(t, {}).get(f"AP-{name}")) for t in TASK_TITLES),
        )
        for name in dict.fromkeys(names)
    ]


def _other_tables(tasks: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return (title, header, rows) of every task but masks and boxes."""
    tables = []
    for task, values in tasks.items():
        if task in TASK_TITLES or not isinstance(values, dict) or not values:
            continue
        title, corner = task, ""
        if task == "validation_loss":
            title = "Loss on the test set"
        if task == "overlap":
            title, corner = "By overlap with other objects", "level"
        levels = {key: value for key, value in values.items() if isinstance(value, dict)}
        if levels:
            columns = list(dict.fromkeys(metric for row in levels.values() for metric in row))
            rows = [
                [level, *(_format_metric(c, row.get(c)) for c in columns)]
                for level, row in levels.items()
            ]
            tables.append((title, [corner, *columns], rows))
        plain = [[k, _format_metric(k, value)] for k, value in values.items() if k not in levels]
        if plain:
            tables.append((title, [corner, "value"], plain))
    return tables


def _read_best(run: RunFolder) -> dict[str, Any] | None:
    """Return the measurement that chose `model_best.pth` of the run, if it has one."""
    best = run.info.get("best", {})
    known = isinstance(best.get("iteration"), int) and _number(best.get("value")) is not None
    return best if known and "metric" in best else None


def _facts(run: RunFolder, info: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (name, value) of the facts about the run: folder, seed, device, times, memory."""
    given = info.pop("seed", None)
    seed = given if isinstance(given, int) else int(run.config.SEED)
    facts = [
        ("Folder", str(run.folder)),
        ("Seed", str(seed) if seed >= 0 else "not fixed"),
        ("Device", str(info.pop("device", run.config.MODEL.DEVICE))),
        ("Training", _duration(info.pop("train_seconds", None))),
        ("Evaluation", _duration(info.pop("eval_seconds", None))),
    ]
    if best := _read_best(run):
        number = format(best["value"], ".4g")
        text = f"after {best['iteration'] + 1:,} iterations, {best['metric']} {number}"
        facts.append(("model_best.pth", text))
    memory = _number(info.pop("peak_memory_mb", None))
    facts.append(("Peak memory", NO_NUMBER if memory is None else f"{memory:,.0f} MB"))
    for shown_elsewhere in ("data_sha256", "best"):
        info.pop(shown_elsewhere, None)
    return facts + [(str(key).replace("_", " "), str(value)) for key, value in info.items()]


def _command(run: RunFolder) -> str:
    config = shlex.quote(str(run.folder / "config.yaml"))
    again = shlex.quote(f"{run.folder}_again")
    seed = run.info.get("seed")
    suffix = f" SEED {seed}" if isinstance(seed, int) and seed >= 0 else ""
    name = "evaluate" if "weights_sha256" in run.info else "train"
    return f"mask-rcnn-ext {name} --config-file {config} OUTPUT_DIR {again}{suffix}"
