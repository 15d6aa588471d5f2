"""What the comparison's runs measured: every metric over seeds, the lattice check, the answers."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO

from mask_rcnn_ext.data.catalog import find_truth
from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.overlap.average_precision import AP_METRICS
from mask_rcnn_ext.overlap.comparison import (
    Detections,
    ImageRecord,
    SeedComparison,
    compare_seeds,
    compute_difference,
    compute_metrics,
    describe_intervals,
    load_results,
    load_truth,
    measure,
)
from mask_rcnn_ext.overlap.intervals import compute_percentile_interval
from mask_rcnn_ext.overlap.lattice import (
    LatticeRecord,
    measure_lattice,
    pool_records,
    summarize_lattice,
)
from mask_rcnn_ext.report.comparison_page import Difference, SeedDifferences
from mask_rcnn_ext.report.json_records import from_json, to_json

from ..run_entries import RunEntry, describe_run
from .runs import MODELS, ComparisonRun, compare_configs

__all__ = [
    "DRAWS",
    "Answer",
    "ComparisonResults",
    "Estimate",
    "JudgedDifference",
    "Lattice",
    "LatticeSide",
    "Measured",
    "Ratio",
    "Settings",
    "collect",
    "measure_runs",
    "result_files",
    "write_comparison_results",
]

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]
_Records = list[list[ImageRecord]]  # of one model, run by run
_LatticeRecords = list[list[LatticeRecord]]

LEVEL, DRAWS, BOOTSTRAP_SEED = 0.95, 1000, 0
_OF_THE_DATA = ("images", "objects", "crowds")  # counts, by their beginning, that no model changes
_DECIMALS = 4
_ENDLESS = 1e15  # in place of infinity; an interpolation with it is above a millionth of it
# Answer -> its metric. All are errors: more is worse.
_ANSWERS = {
    "overlap_loss": "overlap/AP_drop",
    "seam_share": "errors/seam_share",
    "seam_length": "errors/seam_length",
    "leak": "errors/leak",
    "miss": "errors/miss",
    "double_claim": "errors/double_claim",
    "spurious_edge": "errors/spurious_edge",
}


@dataclass(frozen=True)
class JudgedDifference(Difference):
    """A difference, and whether its interval excludes zero; None without an interval."""

    excludes_zero: bool | None


@dataclass(frozen=True)
class Estimate:
    """A number with a 95 % interval.

    Each may be None: there is nothing to measure, or, for `high` alone, the interval has no end.
    """

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Ratio(Estimate):
    """A ratio, and whether its interval excludes 1; None without an interval."""

    excludes_one: bool | None


@dataclass(frozen=True)
class Answer(JudgedDifference):
    """An answer of the comparison."""

    metric: str | None = None  # in `METRICS`; None: made of several
    ratio_b_to_a: Ratio | None = None  # FCIS / Mask R-CNN, where it is reported


@dataclass(frozen=True)
class LatticeSide:
    """The lattice check of one model, see `overlap.lattice`: of all its runs, and of each."""

    share: Estimate  # of the spurious contour that lies on lattice lines
    chance: Estimate  # the same by chance
    ratio: Estimate  # share / chance
    density_ratio: Estimate  # contour on a lattice line / on the lines next to it
    # The same four of the straight seams.
    seam_share: Estimate = field(metadata={"key": "seams/share"})
    seam_chance: Estimate = field(metadata={"key": "seams/chance"})
    seam_ratio: Estimate = field(metadata={"key": "seams/ratio"})
    seam_density_ratio: Estimate = field(metadata={"key": "seams/density_ratio"})
    counts: dict[str, float]  # what was counted
    seeds: list[dict[str, float | None]]  # the first four of each run
    excludes_one: dict[str, bool | None]  # whether the intervals of the ratios exclude 1


@dataclass(frozen=True)
class Lattice:
    """The lattice check of Mask R-CNN, of FCIS before mask voting, and how its intervals came."""

    a: LatticeSide
    b: LatticeSide
    method: str


@dataclass(frozen=True)
class Settings:
    """How the intervals were computed, and k and the mask cells of the models."""

    level: float
    bootstrap_draws: int
    bootstrap_seed: int
    seeds: list[int]
    lattice_bins: int
    mask_cells: dict[str, int]


@dataclass(frozen=True)
class ComparisonResults:
    """The content of `fcis_comparison.json`; "a" is Mask R-CNN, "b" FCIS."""

    dataset: str  # the data set that was measured on
    names: list[str]  # of the two models
    settings: Settings
    configs: dict[str, Any]  # config file of each variant, and what `compare_configs` returns
    method: str  # how the intervals of `metrics` came about
    answers: dict[str, Answer]
    before_voting: dict[str, JudgedDifference]  # "b" is FCIS before mask voting
    lattice: Lattice
    counts: dict[str, dict[str, float]]  # of the data once, of the rest over all runs
    metrics: dict[str, JudgedDifference]  # as in `METRICS`, over all runs
    seeds: list[SeedDifferences]
    runs: list[RunEntry]


@dataclass(frozen=True)
class Measured:
    """What was measured, side by side in the order of `MODELS`."""

    truth: COCO = field(repr=False)
    images: str  # the folder of the images
    detections: tuple[Detections, Detections] = field(repr=False)  # of the first runs
    records: tuple[_Records, _Records] = field(repr=False)
    unvoted: _Records = field(repr=False)  # FCIS before mask voting
    lattice: tuple[_LatticeRecords, _LatticeRecords] = field(repr=False)  # FCIS: before mask voting


def measure_runs(runs: Sequence[ComparisonRun], processes: int = 1) -> Measured:
    """Measure finished runs.

    Args:
        runs: runs of both models, as `runs.plan` returns them.
        processes: see `evaluation.comparison.measure`.

    Raises:
        UserError: a result file is broken.
    """
    cfg = runs[0].config()
    json_file, images = find_truth(cfg.DATASETS.TEST[0])
    truth = load_truth(json_file)
    detections: list[Detections] = []
    records: tuple[_Records, _Records] = ([], [])
    unvoted: _Records = []
    lattice: tuple[_LatticeRecords, _LatticeRecords] = ([], [])
    for index, variant in enumerate(MODELS):
        for run in (run for run in runs if run.variant == variant):
            logger.info("measuring %s ...", run.title)
            rois = load_results(run.rois_file, truth, with_boxes=True)
            found = load_results(run.predictions, truth) if run.is_fcis else rois
            if not records[index]:
                detections.append(found)
            records[index].append(measure(truth, found, processes=processes))
            if run.is_fcis:
                unvoted.append(measure(truth, rois, processes=processes))
            found_on = measure_lattice(truth, rois, k=_bins(), cells=_mask_side(variant))
            lattice[index].append(found_on)
    return Measured(truth, images, (detections[0], detections[1]), records, unvoted, lattice)


def _bins() -> int:
    """Return k of the FCIS model."""
    return int(ComparisonRun.under("", list(MODELS)[1], 1).config().MODEL.FCIS.NUM_BINS)


def _mask_side(variant: str) -> int:
    """Return on how many cells, in each direction, a model makes its masks; see `lattice`."""
    model = ComparisonRun.under("", variant, 1).config().MODEL
    if variant == list(MODELS)[1]:
        return int(model.FCIS.POOLED_SIZE)
    return int(model.ROI_MASK_HEAD.POOLER_RESOLUTION)


def collect(runs: Sequence[ComparisonRun], measured: Measured) -> ComparisonResults:
    """Return the results of the runs, with the decimals that the file has.

    Args:
        runs: the runs that were measured.
        measured: what `measure_runs` returned for them.
    """
    seeds = sorted({run.seed for run in runs})
    pooled = compare_seeds(*measured.records, draws=DRAWS, seed=BOOTSTRAP_SEED)
    metrics = {name: _judge(entry) for name, entry in pooled.metrics.items()}
    results = ComparisonResults(
        dataset=runs[0].config().DATASETS.TEST[0],
        names=list(MODELS.values()),
        settings=Settings(
            level=LEVEL,
            bootstrap_draws=DRAWS,
            bootstrap_seed=BOOTSTRAP_SEED,
            seeds=seeds,
            lattice_bins=_bins(),
            mask_cells={s: _mask_side(v) for s, v in zip("ab", MODELS, strict=True)},
        ),
        configs={
            **{variant: f"configs/shapes/{variant}.yaml" for variant in MODELS},
            **compare_configs(),
        },
        method=describe_intervals(len(seeds), DRAWS, BOOTSTRAP_SEED),
        answers=_answers(pooled, metrics),
        before_voting=_before_voting(measured),
        lattice=Lattice(
            _lattice_side(measured.lattice[0]),
            _lattice_side(measured.lattice[1]),
            method="bootstrap over the images, all trainings pooled; it does not cover the chance "
            "in training",
        ),
        counts={s: _counts(records) for s, records in zip("ab", measured.records, strict=True)},
        metrics=metrics,
        seeds=[
            SeedDifferences(seed, {name: Difference(**entry) for name, entry in found.items()})
            for seed, found in zip(seeds, pooled.seeds, strict=True)
        ],
        runs=[
            describe_run(run, ("segm", "bbox"), (*AP_METRICS, "APs"), model=run.model)
            for run in runs
        ],
    )
    return from_json(ComparisonResults, to_json(results, _DECIMALS))


def _judge(entry: dict[str, float]) -> JudgedDifference:
    return JudgedDifference(**entry, excludes_zero=_excludes(0, entry["low"], entry["high"]))


def _excludes(value: float, low: float | None, high: float | None) -> bool | None:
    """Return whether an interval excludes `value`; None without an interval."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return None
    return bool(low > value or high < value)


def _answers(pooled: SeedComparison, metrics: dict[str, JudgedDifference]) -> dict[str, Answer]:
    """Return the answers, with the relative loss from no overlap to heavy."""
    none, heavy = "overlap/AP_none", "overlap/AP_heavy"
    with np.errstate(divide="ignore", invalid="ignore"):
        answers = {
            name: Answer(
                **vars(metrics[metric]),
                metric=metric,
                ratio_b_to_a=_ratio(pooled.b[metric] / pooled.a[metric])
                if name in ("seam_share", "seam_length")
                else None,
            )
            for name, metric in _ANSWERS.items()
        }
        first, second = (100 * (1 - side[heavy] / side[none]) for side in (pooled.a, pooled.b))
    relative = _judge(compute_difference(first, second))
    return {**answers, "relative_overlap_loss": Answer(**vars(relative))}


def _ratio(values: Floats) -> Ratio:
    """Return the ratio and its interval of (1 + D,), the number and the draws."""
    # A draw in which the first model has none is above every other. Percentiles interpolate, which
    # infinity does not allow.
    ends = compute_percentile_interval(np.nan_to_num(values[1:], nan=np.nan, posinf=_ENDLESS))
    low, high = (end if not end >= _ENDLESS / 1e6 else math.inf for end in ends)
    return Ratio(float(values[0]), low, high, _excludes(1, low, high))


def _before_voting(measured: Measured) -> dict[str, JudgedDifference]:
    """Return the mask AP and the answers' metrics with FCIS's masks before voting as "b"."""
    pooled = compare_seeds(measured.records[0], measured.unvoted, draws=DRAWS, seed=BOOTSTRAP_SEED)
    return {name: _judge(pooled.metrics[name]) for name in ("AP/AP", *_ANSWERS.values())}


def _lattice_side(trainings: Sequence[Sequence[LatticeRecord]]) -> LatticeSide:
    """Return the lattice check of a model: pooled over its runs, and of each."""

    def summarize_records(records: Sequence[LatticeRecord]) -> dict[str, Any]:
        return dict(summarize_lattice(records, draws=DRAWS, seed=BOOTSTRAP_SEED))

    summary = summarize_records(pool_records(trainings))
    each = [summarize_records(records) for records in trainings]
    shares = ("share", "chance", "ratio", "density_ratio")
    summary["seeds"] = [{name: one[name]["value"] for name in shares} for one in each]
    summary["excludes_one"] = {
        name: _excludes(1, summary[name]["low"], summary[name]["high"])
        for name in ("ratio", "density_ratio")
    }
    return from_json(LatticeSide, summary)


def _counts(trainings: Sequence[Sequence[ImageRecord]]) -> dict[str, float]:
    """Return a model's counts: of the data once, of its detections summed over all runs."""
    each = [compute_metrics(records)["counts"] for records in trainings]
    return {
        name: int(
            each[0][name] if name.startswith(_OF_THE_DATA) else sum(count[name] for count in each)
        )
        for name in each[0]
    }


def result_files(runs: Sequence[ComparisonRun]) -> list[list[str]]:
    """Return the paths of each model's result files, in the order of `MODELS`."""
    return [[str(run.predictions) for run in runs if run.variant == v] for v in MODELS]


def write_comparison_results(path: str | Path, results: ComparisonResults) -> None:
    """Write `fcis_comparison.json`.

    Raises:
        UserError: it cannot be written.
    """
    write_json(str(path), to_json(results))
