"""`results/ablations.json`: the numbers of the runs, and each difference with its interval."""

import functools
import json
import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog

from mask_rcnn_ext.config import config_hash
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.overlap.analysis.tables import read_ap_table
from mask_rcnn_ext.overlap.average_precision import AP_METRICS, APTable
from mask_rcnn_ext.overlap.intervals import bootstrap_ap_difference, compute_t_interval
from mask_rcnn_ext.paper import ROWS
from mask_rcnn_ext.report.json_records import from_json, to_json

from ..intervals import BOOTSTRAP_SEED, DRAWS, LEVEL, IntervalSettings
from ..run_entries import RunEntry, describe_run
from .runs import AblationRun
from .tables import COMPARISONS, TABLES, VARIANTS, VariantPair

__all__ = [
    "AblationResults",
    "AblationSettings",
    "IntervalMethod",
    "MeasuredDifference",
    "PublishedDifference",
    "ResultRow",
    "Variant",
    "collect",
    "find_published",
    "read_ablation_results",
    "write_ablation_results",
]

logger = logging.getLogger(__name__)

_Runs = dict[tuple[str, int], RunEntry]  # by variant and seed
_Tables = Callable[[str, int, str], APTable | None]  # of variant, seed, task
_Bounds = tuple[float | None, float | None]  # low, high


class IntervalMethod(Enum):
    """How the interval of a row was computed."""

    STUDENT_T = "Student t over per-seed differences"
    BOOTSTRAP = "paired bootstrap over the validation images"
    NO_PREDICTIONS = "no interval: the runs' predictions are gone"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class AblationSettings(IntervalSettings):
    """The settings of the intervals, and the title of each of the paper's tables."""

    tables: dict[str, str]


@dataclass(frozen=True)
class Variant:
    """A model: its name in `VARIANTS`, and how it is trained."""

    name: str
    label: str
    config: str
    train: str
    val: str
    image_size: int
    iterations: int
    images_per_batch: int
    learning_rate: float


@dataclass(frozen=True)
class PublishedDifference:
    """The paper's numbers for a comparison, in AP points."""

    table: str  # the paper's table
    split: str  # the data of the paper's measurement
    of: dict[str, Any]  # "name" of its row, and each printed metric
    minus: dict[str, Any]  # the same for the row that is subtracted
    difference: dict[str, float]  # by metric, where the paper printed both


@dataclass(frozen=True)
class MeasuredDifference:
    """Our difference in a metric and its interval, in AP points; None where there is none."""

    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class ResultRow:
    """A row of the results: a `VariantPair` with the numbers of the paper and of our runs.

    See `VariantPair` for the other attributes.
    """

    name: str
    table: str
    label: str
    of: str
    minus: str
    task: str
    keys: list[str]
    note: str
    paper: PublishedDifference
    seeds: list[int]  # that both variants were trained with
    method: IntervalMethod  # how the intervals were computed
    ours: dict[str, MeasuredDifference] | None  # by metric; None: no runs


@dataclass(frozen=True)
class AblationResults:
    """The content of `ablations.json`."""

    settings: AblationSettings
    variants: list[Variant]
    rows: list[ResultRow]
    runs: list[RunEntry]


def collect(root: str | Path, earlier: AblationResults | None = None) -> AblationResults:
    """Return the results of the runs.

    Args:
        root: folder of the runs.
        earlier: the results so far. A run stays if its config has not changed and the folder has no
            run of this variant and seed. An interval stays if its difference has not changed.
    """
    runs = _find_runs(Path(root), earlier)
    old_rows = {row.name: row for row in earlier.rows} if earlier else {}

    @functools.cache
    def tables(variant: str, seed: int, task: str) -> APTable | None:
        return _read_table(AblationRun.under(root, variant, seed), task, runs)

    return AblationResults(
        settings=AblationSettings(LEVEL, DRAWS, BOOTSTRAP_SEED, TABLES),
        variants=[_describe(variant) for variant in VARIANTS],
        rows=[_make_row(c, runs, tables, old_rows.get(c.name)) for c in COMPARISONS],
        runs=list(runs.values()),
    )


def _find_runs(root: Path, earlier: AblationResults | None) -> _Runs:
    """Return the runs in the order of `VARIANTS`."""
    found: _Runs = {}
    for variant in VARIANTS:
        for folder in (root / variant).glob("seed*"):
            if not folder.name.removeprefix("seed").isdecimal():
                continue
            run = AblationRun.under(root, variant, int(folder.name.removeprefix("seed")))
            if run.folder == folder and run.state() == "done":
                entry = describe_run(run, ("segm", "bbox"), (*AP_METRICS, "APs"))
                found[variant, run.seed] = entry
    for entry in earlier.runs if earlier else ():
        key = entry.variant, entry.seed
        if key[0] in VARIANTS and key not in found:
            run = AblationRun.under(root, *key)
            if entry.config_sha256 == config_hash(run.config(), run.seed):
                found[key] = entry
    order = list(VARIANTS)
    return dict(sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1])))


def _describe(variant: str) -> Variant:
    cfg = AblationRun.under("", variant, 1).config()
    return Variant(
        name=variant,
        label=VARIANTS[variant],
        config=f"configs/shapes/ablations/{variant}.yaml",
        train=", ".join(cfg.DATASETS.TRAIN),
        val=", ".join(cfg.DATASETS.TEST),
        image_size=cfg.INPUT.MIN_SIZE_TEST,
        iterations=cfg.SOLVER.MAX_ITER,
        images_per_batch=cfg.SOLVER.IMS_PER_BATCH,
        learning_rate=cfg.SOLVER.BASE_LR,
    )


def _read_table(run: AblationRun, task: str, runs: _Runs) -> APTable | None:
    """Return the run's table; None if its predictions are gone or do not give its AP."""
    name = run.config().DATASETS.TEST[0]
    if run.state() != "done" or not run.predictions.is_file():
        return None
    table = read_ap_table(_annotations(name), run.predictions, task)
    measured = runs[run.variant, run.seed].metrics[task]["AP"]
    if measured is None or abs(table.compute_ap()[0, 0] - measured) > 0.01:
        logger.warning("%s: the predictions in its folder do not give its %s AP", run.title, task)
        return None
    return table


def _annotations(name: str) -> str:
    path: str = MetadataCatalog.get(name).json_file
    if not os.path.isfile(path):
        DatasetCatalog.get(name)  # the embedded data set is drawn at its first use
    return path


def _make_row(
    comparison: VariantPair, runs: _Runs, tables: _Tables, old: ResultRow | None
) -> ResultRow:
    of, minus, task = comparison.of, comparison.minus, comparison.task
    seeds = sorted({s for v, s in runs if v == of} & {s for v, s in runs if v == minus})
    method, ours = IntervalMethod.NOT_RUN, None
    if seeds:
        differences = {
            metric: [
                _subtract(*(runs[v, seed].metrics.get(task, {}).get(metric) for v in (of, minus)))
                for seed in seeds
            ]
            for metric in AP_METRICS
        }
        means = {metric: _round(float(np.mean(found))) for metric, found in differences.items()}
        method, bounds = _find_interval(comparison, seeds, differences, means, tables, old)
        ours = {
            metric: MeasuredDifference(means[metric], _round(low), _round(high))
            for metric, (low, high) in zip(AP_METRICS, bounds, strict=True)
        }
    plain = {**vars(comparison), "keys": list(comparison.keys), "paper": find_published(comparison)}
    return ResultRow(name=comparison.name, **plain, seeds=seeds, method=method, ours=ours)


def _subtract(of: float | None, minus: float | None) -> float:
    return math.nan if of is None or minus is None else of - minus


def _round(value: float | None) -> float | None:
    """Return `value` with three decimals; JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else round(value, 3)


def _find_interval(
    comparison: VariantPair,
    seeds: list[int],
    differences: dict[str, list[float]],
    means: dict[str, float | None],
    tables: _Tables,
    old: ResultRow | None,
) -> tuple[IntervalMethod, list[_Bounds]]:
    """Return the interval of each of `AP_METRICS`, and how it was computed."""
    if len(seeds) > 1:
        bounds = [compute_t_interval(differences[metric], LEVEL) for metric in AP_METRICS]
        return IntervalMethod.STUDENT_T, list(bounds)
    if old and old.method == IntervalMethod.BOOTSTRAP and old.seeds == seeds:
        kept = [(old.ours or {})[metric] for metric in AP_METRICS]
        if [entry.difference for entry in kept] == [means[metric] for metric in AP_METRICS]:
            return IntervalMethod.BOOTSTRAP, [(entry.low, entry.high) for entry in kept]
    of, minus = (tables(v, seeds[0], comparison.task) for v in (comparison.of, comparison.minus))
    if of is None or minus is None:
        return IntervalMethod.NO_PREDICTIONS, [(None, None)] * len(AP_METRICS)
    resampled = bootstrap_ap_difference(of, minus, draws=DRAWS, seed=BOOTSTRAP_SEED, level=LEVEL)
    return IntervalMethod.BOOTSTRAP, list(resampled)


def find_published(comparison: VariantPair) -> PublishedDifference:
    """Return the paper's numbers for both sides, and their difference if it printed both.

    Raises:
        ValueError: the paper's table has no such row.
    """
    table, *names = comparison.paper
    printed = {row.name: row for row in ROWS if row.table == table}
    for name in names:
        if name not in printed:
            raise ValueError(f"expected a row {name!r} in the paper's table {table}")
    of, minus = (
        {
            metric: printed[name].published[key]
            for metric in AP_METRICS
            if (key := f"{comparison.task}/{metric}") in printed[name].published
        }
        for name in names
    )
    return PublishedDifference(
        table=table,
        split=printed[names[0]].split,
        of={"name": names[0], **of},
        minus={"name": names[1], **minus},
        difference={m: round(of[m] - minus[m], 1) for m in AP_METRICS if m in of and m in minus},
    )


def read_ablation_results(path: str | Path) -> AblationResults | None:
    """Return the results in `ablations.json`; None if there is no such file.

    Raises:
        UserError: the file contains something else.
    """
    try:
        results = from_json(AblationResults, json.loads(Path(path).read_text("utf-8")))
        if {run.variant for run in results.runs} <= {v.name for v in results.variants}:
            return results
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


def write_ablation_results(path: str | Path, root: str | Path) -> AblationResults:
    """Collect the results of the runs under `root`, write them to `path` and return them.

    Raises:
        UserError: `path` contains something else, or cannot be written.
    """
    results = collect(root, read_ablation_results(path))
    write_json(str(path), to_json(results))
    return results
