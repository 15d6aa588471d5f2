"""The results of the comparison: every metric over seeds, before and after voting."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from mask_rcnn_ext.data.catalog import find_truth
from mask_rcnn_ext.overlap.average_precision import AP_METRICS
from mask_rcnn_ext.overlap.comparison import (
    Detections,
    ImageRecord,
    SeedComparison,
    compare_seeds,
    compute_difference,
    compute_metrics,
    load_results,
    load_truth,
    measure,
)
from mask_rcnn_ext.report.comparison_page import Difference, SeedDifferences
from mask_rcnn_ext.report.json_records import from_json, to_json

from ..intervals import BOOTSTRAP_SEED, DRAWS, LEVEL, IntervalSettings
from ..run_entries import RunEntry, describe_run
from .runs import MODELS, ComparisonRun, compare_fcis_configs

__all__ = [
    "Answer",
    "ComparisonResults",
    "JudgedDifference",
    "Measured",
    "Settings",
    "collect",
    "measure_runs",
]

logger = logging.getLogger(__name__)

_Records = list[list[ImageRecord]]  # of one model, run by run

_OF_THE_DATA = ("images", "objects", "crowds")  # counts, by their beginning, that no model changes
_DECIMALS = 4
# Answer -> its metric. All are errors: more is worse.
_ANSWERS = {
    "overlap_loss": "overlap/AP_drop",
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
class Answer(JudgedDifference):
    """An answer of the comparison."""

    metric: str | None = None  # in `METRICS`; None: made of several


@dataclass(frozen=True)
class Settings(IntervalSettings):
    """How the intervals were computed."""

    seeds: list[int]


@dataclass(frozen=True)
class ComparisonResults:
    """The content of `fcis_comparison.json`; "a" is Mask R-CNN, "b" FCIS."""

    dataset: str  # the data set of the measurement
    names: list[str]  # names of the two models
    settings: Settings
    configs: dict[str, Any]  # config file of each variant, and what `compare_fcis_configs` returns
    method: str  # how the intervals of `metrics` were computed
    answers: dict[str, Answer]
    before_voting: dict[str, JudgedDifference]  # "b" is FCIS before mask voting
    counts: dict[str, dict[str, float]]  # the data's once, the others over all runs
    metrics: dict[str, JudgedDifference]  # as in `METRICS`, over all runs
    seeds: list[SeedDifferences]
    runs: list[RunEntry]


@dataclass(frozen=True)
class Measured:
    """The measurements of both models, in the order of `MODELS`."""

    truth: COCO = field(repr=False)
    images: str  # the folder of the images
    detections: tuple[Detections, Detections] = field(repr=False)  # of the first runs
    records: tuple[_Records, _Records] = field(repr=False)
    unvoted: _Records = field(repr=False)  # FCIS before mask voting


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
    for index, variant in enumerate(MODELS):
        for run in (run for run in runs if run.variant == variant):
            logger.info("measuring %s ...", run.title)
            found = load_results(run.predictions, truth)
            if not records[index]:
                detections.append(found)
            records[index].append(measure(truth, found, processes=processes))
            if run.is_fcis:
                found = load_results(run.unvoted_predictions, truth)
                unvoted.append(measure(truth, found, processes=processes))
    return Measured(truth, images, (detections[0], detections[1]), records, unvoted)


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
        settings=Settings(LEVEL, DRAWS, BOOTSTRAP_SEED, seeds),
        configs={
            **{variant: f"configs/shapes/{variant}.yaml" for variant in MODELS},
            **compare_fcis_configs(),
        },
        method=_describe_intervals(len(seeds)),
        answers=_answers(pooled, metrics),
        before_voting=_before_voting(measured),
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


def _describe_intervals(trainings: int) -> str:
    """Return in words what the intervals cover, with so many trainings of each model."""
    images = (
        f"percentiles of a bootstrap ({DRAWS} draws, seed {BOOTSTRAP_SEED}). Each draw takes as "
        "many images as there are, with replacement, the same for both models and all trainings"
    )
    if trainings == 1:
        return (
            f"{images}; with one training of each model they cover the choice of the images, not "
            "the chance in training"
        )
    return (
        f"{images}, and {trainings} of the {trainings} trainings of each model, with replacement, "
        "for each model by itself. They cover the choice of the images and the chance in training, "
        f"the latter only as far as {trainings} trainings show it: a bootstrap of {trainings} has "
        f"on average {trainings - 1}/{trainings} of their variance"
    )


def _judge(entry: dict[str, float]) -> JudgedDifference:
    low, high = entry["low"], entry["high"]
    known = not (math.isnan(low) or math.isnan(high))
    return JudgedDifference(**entry, excludes_zero=low > 0 or high < 0 if known else None)


def _answers(pooled: SeedComparison, metrics: dict[str, JudgedDifference]) -> dict[str, Answer]:
    """Return the answers, with the relative loss from no overlap to heavy."""
    answers = {
        name: Answer(**vars(metrics[metric]), metric=metric) for name, metric in _ANSWERS.items()
    }
    none, heavy = "overlap/AP_none", "overlap/AP_heavy"
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (100 * (1 - side[heavy] / side[none]) for side in (pooled.a, pooled.b))
    relative = _judge(compute_difference(first, second))
    return {**answers, "relative_overlap_loss": Answer(**vars(relative))}


def _before_voting(measured: Measured) -> dict[str, JudgedDifference]:
    """Return the mask AP and the answers' metrics with FCIS's masks before voting as "b"."""
    pooled = compare_seeds(measured.records[0], measured.unvoted, draws=DRAWS, seed=BOOTSTRAP_SEED)
    return {name: _judge(pooled.metrics[name]) for name in ("AP/AP", *_ANSWERS.values())}


def _counts(trainings: Sequence[Sequence[ImageRecord]]) -> dict[str, float]:
    """Return a model's counts: of the data once, of its detections summed over all runs."""
    each = [compute_metrics(records)["counts"] for records in trainings]
    return {
        name: int(
            each[0][name] if name.startswith(_OF_THE_DATA) else sum(count[name] for count in each)
        )
        for name in each[0]
    }
