"""`results/ablations.json`: what the runs measured, and each difference with its interval."""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import make_jsonable, write_json
from mask_rcnn_ext.overlap.average_precision import AP_METRICS, APTable, read_ap_table
from mask_rcnn_ext.overlap.intervals import bootstrap_ap_difference, compute_t_interval

from .published import PaperRow, published_difference
from .runs import AblationRun, config_hash
from .tables import COMPARISONS, TABLES, VARIANTS, Comparison

__all__ = [
    "BOOTSTRAP",
    "NOT_RUN",
    "NO_PREDICTIONS",
    "STUDENT_T",
    "collect",
    "read_results",
    "write_ablation_results",
]

logger = logging.getLogger(__name__)

# How the interval of a row came about, `rows[i]["method"]`.
STUDENT_T = "Student t over per-seed differences"
BOOTSTRAP = "paired bootstrap over the validation images"
NO_PREDICTIONS = "no interval: the runs' predictions are gone"
NOT_RUN = "not run"

LEVEL, DRAWS, BOOTSTRAP_SEED = 0.95, 1000, 0
_DECIMALS = 3  # of AP points
_RUN_METRICS = (*AP_METRICS, "APs")
# What the page reads of each entry of the file.
_ENTRY_KEYS: dict[str, set[str]] = {
    "variants": {"name", "label", "config", "train", "val", "image_size", "iterations"},
    "rows": {"name", "table", "label", "task", "note", "paper", "seeds", "method", "ours"},
    "runs": {"variant", "seed", "config_sha256", "metrics", "train_seconds", "eval_seconds"},
}
_Tables = Callable[[str, int, str], APTable | None]  # of variant, seed, task


def collect(
    root: str | Path, paper: Sequence[PaperRow], earlier: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the content of `ablations.json`.

    Args:
        root: folder of the runs.
        paper: the paper's rows.
        earlier: the file's content until now. Its runs stay, where their config is what it was and
            the folder has none of that variant and seed; so do its intervals, where the difference
            is what it was.
    """
    earlier = earlier or {}
    runs = _all_runs(Path(root), earlier)
    old_rows = {row["name"]: row for row in earlier.get("rows", ())}
    cache: dict[tuple[str, int, str], APTable | None] = {}

    def tables(variant: str, seed: int, task: str) -> APTable | None:
        if (key := (variant, seed, task)) not in cache:
            cache[key] = _ap_table(AblationRun.under(root, variant, seed), task, runs)
        return cache[key]

    return {
        "settings": {
            "level": LEVEL,
            "bootstrap_draws": DRAWS,
            "bootstrap_seed": BOOTSTRAP_SEED,
            "tables": TABLES,
        },
        "variants": [_describe(variant) for variant in VARIANTS],
        "rows": [_row(c, runs, paper, tables, old_rows.get(c.name)) for c in COMPARISONS],
        "runs": list(runs.values()),
    }


def _all_runs(root: Path, earlier: Mapping[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """Return (variant, seed) -> the run's entry, in the order of `VARIANTS`."""
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for variant in VARIANTS:
        for folder in (root / variant).glob("seed*"):
            if not folder.name.removeprefix("seed").isdecimal():
                continue
            run = AblationRun.under(root, variant, int(folder.name.removeprefix("seed")))
            if run.folder == folder and run.state() == "done":
                found[variant, run.seed] = _entry(run)
    for entry in earlier.get("runs", ()):
        key = entry["variant"], entry["seed"]
        if key[0] in VARIANTS and key not in found:
            run = AblationRun.under(root, *key)
            if entry["config_sha256"] == config_hash(run.config(), run.seed):
                found[key] = entry
    order = list(VARIANTS)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def _entry(run: AblationRun) -> dict[str, Any]:
    results = run.results()
    assert results is not None, run.title
    info = results["run"]
    return {
        "variant": run.variant,
        "seed": run.seed,
        "config_sha256": config_hash(run.config(), run.seed),
        "metrics": {
            task: {metric: results[task].get(metric) for metric in _RUN_METRICS}
            for task in ("segm", "bbox")
            if results.get(task)
        },
        **{
            key: info.get(key)
            for key in ("train_seconds", "eval_seconds", "peak_memory_mb", "device", "versions")
        },
    }


def _describe(variant: str) -> dict[str, Any]:
    cfg = AblationRun.under("", variant, 1).config()
    return {
        "name": variant,
        "label": VARIANTS[variant],
        "config": f"configs/shapes/ablations/{variant}.yaml",
        "train": ", ".join(cfg.DATASETS.TRAIN),
        "val": ", ".join(cfg.DATASETS.TEST),
        "image_size": cfg.INPUT.MIN_SIZE_TEST,
        "iterations": cfg.SOLVER.MAX_ITER,
        "images_per_batch": cfg.SOLVER.IMS_PER_BATCH,
        "learning_rate": cfg.SOLVER.BASE_LR,
    }


def _ap_table(
    run: AblationRun, task: str, runs: Mapping[tuple[str, int], dict[str, Any]]
) -> APTable | None:
    """Return the run's table; None when its predictions are not there or not those of its AP."""
    name = run.config().DATASETS.TEST[0]
    predictions = run.folder / "inference" / name / "coco_instances_results.json"
    if run.state() != "done" or not predictions.is_file():
        return None
    table = read_ap_table(_annotations(name), predictions, task)
    measured = runs[run.variant, run.seed]["metrics"][task]["AP"]
    if measured is None or abs(table.compute_ap()[0, 0] - measured) > 0.01:
        logger.warning("%s: its %s AP is not that of its predictions", run.title, task)
        return None
    return table


def _annotations(name: str) -> str:
    path: str = MetadataCatalog.get(name).json_file
    if not os.path.isfile(path):
        DatasetCatalog.get(name)  # the embedded data set is drawn at its first use
    return path


def _row(
    comparison: Comparison,
    runs: Mapping[tuple[str, int], dict[str, Any]],
    paper: Sequence[PaperRow],
    tables: _Tables,
    old: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the entry of a comparison; every number is in AP points."""
    of, minus, task = comparison.of, comparison.minus, comparison.task
    seeds = sorted({s for v, s in runs if v == of} & {s for v, s in runs if v == minus})
    row: dict[str, Any] = {
        "name": comparison.name,
        "table": comparison.table,
        "label": comparison.label,
        **{"of": of, "minus": minus, "task": task, "keys": list(comparison.keys)},
        "note": comparison.note,
        "paper": published_difference(comparison, paper),
        "seeds": seeds,
        "method": NOT_RUN,
        "ours": None,
    }
    if not seeds:
        return row
    differences = {
        m: [_difference(runs, comparison, seed, m) for seed in seeds] for m in AP_METRICS
    }
    means = {
        metric: make_jsonable(np.mean(found), _DECIMALS) for metric, found in differences.items()
    }
    row["method"], bounds = _interval(comparison, differences, means, row, tables, old)
    ours = {
        metric: {"difference": means[metric], "low": low, "high": high}
        for metric, (low, high) in zip(AP_METRICS, bounds, strict=True)
    }
    row["ours"] = make_jsonable(ours, _DECIMALS)
    return row


def _difference(
    runs: Mapping[tuple[str, int], dict[str, Any]], comparison: Comparison, seed: int, metric: str
) -> float:
    of, minus = (
        runs[variant, seed]["metrics"].get(comparison.task, {}).get(metric)
        for variant in (comparison.of, comparison.minus)
    )
    return math.nan if of is None or minus is None else float(of) - float(minus)


def _interval(
    comparison: Comparison,
    differences: Mapping[str, Sequence[float]],
    means: Mapping[str, float | None],
    row: Mapping[str, Any],
    tables: _Tables,
    old: Mapping[str, Any] | None,
) -> tuple[str, Sequence[tuple[float | None, float | None]]]:
    """Return how the interval was had, and (low, high) of each of `AP_METRICS`."""
    seeds: list[int] = row["seeds"]
    if len(seeds) > 1:
        return STUDENT_T, [compute_t_interval(differences[metric], LEVEL) for metric in AP_METRICS]
    if old and old["method"] == BOOTSTRAP and old["seeds"] == seeds:
        kept = old["ours"]
        if all(kept[metric]["difference"] == means[metric] for metric in AP_METRICS):
            return BOOTSTRAP, [(kept[metric]["low"], kept[metric]["high"]) for metric in AP_METRICS]
    of, minus = (tables(v, seeds[0], comparison.task) for v in (comparison.of, comparison.minus))
    if of is None or minus is None:
        return NO_PREDICTIONS, [(None, None)] * len(AP_METRICS)
    bounds = bootstrap_ap_difference(of, minus, draws=DRAWS, seed=BOOTSTRAP_SEED, level=LEVEL)
    return BOOTSTRAP, bounds


def read_results(path: str | Path) -> dict[str, Any] | None:
    """Return the content of `ablations.json`, None when there is no such file.

    Raises:
        UserError: it is something else.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
        variants = {variant["name"] for variant in content["variants"]}
        if (
            isinstance(content["settings"]["tables"], dict)
            and all(keys <= set(e) for part, keys in _ENTRY_KEYS.items() for e in content[part])
            and all(run["variant"] in variants for run in content["runs"])
        ):
            return dict(content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"{path} is not what projects/reproduction/run_ablations.py writes: expected settings, "
        "and complete entries under variants, rows and runs. Give another --results, or delete it"
    )


def write_ablation_results(
    path: str | Path, root: str | Path, paper: Sequence[PaperRow]
) -> dict[str, Any]:
    """Collect what the runs under `root` measured, write it to `path` and return it.

    Raises:
        UserError: `path` holds something else, or cannot be written.
    """
    content = collect(root, paper, read_results(path))
    write_json(path, content)
    return content
