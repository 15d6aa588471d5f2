"""What the comparison's runs measured: every metric over seeds, the lattice check, the answers."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO

from mask_rcnn_ext.data.catalog import find_truth
from mask_rcnn_ext.files import make_jsonable, write_json
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

from .runs import MODELS, ComparisonRun, compare_configs

__all__ = [
    "DRAWS",
    "Measured",
    "collect",
    "measure_runs",
    "result_files",
    "write_comparison_results",
]

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

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
class Measured:
    """What was measured, side by side in the order of `MODELS`.

    Attributes:
        truth: the data set.
        images: folder of its images.
        detections: of the first run of each model.
        records: of each model, those of its runs.
        unvoted: of FCIS before mask voting, those of its runs.
        lattice: of each model, those of its runs; of FCIS before mask voting.
    """

    truth: COCO = field(repr=False)
    images: str
    detections: tuple[Detections, Detections] = field(repr=False)
    records: tuple[list[list[ImageRecord]], list[list[ImageRecord]]] = field(repr=False)
    unvoted: list[list[ImageRecord]] = field(repr=False)
    lattice: tuple[list[list[LatticeRecord]], list[list[LatticeRecord]]] = field(repr=False)


def measure_runs(runs: Sequence[ComparisonRun], processes: int = 1) -> Measured:
    """Measure finished runs.

    Args:
        runs: of both models, as of `runs.plan`.
        processes: see `comparison.measure`.

    Raises:
        UserError: a result file is broken.
    """
    cfg = runs[0].config()
    json_file, images = find_truth(cfg.DATASETS.TEST[0])
    truth = load_truth(json_file)
    detections: list[Detections] = []
    records: tuple[list[list[ImageRecord]], list[list[ImageRecord]]] = ([], [])
    unvoted: list[list[ImageRecord]] = []
    lattice: tuple[list[list[LatticeRecord]], list[list[LatticeRecord]]] = ([], [])
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


def collect(runs: Sequence[ComparisonRun], measured: Measured) -> dict[str, Any]:
    """Return the content of `fcis_comparison.json`, which is that of the page, too.

    Args:
        runs: those that were measured.
        measured: of `measure_runs`.
    """
    seeds = sorted({run.seed for run in runs})
    pooled = compare_seeds(*measured.records, draws=DRAWS, seed=BOOTSTRAP_SEED)
    content = {
        "dataset": runs[0].config().DATASETS.TEST[0],
        "names": list(MODELS.values()),
        "settings": {
            "level": LEVEL,
            "bootstrap_draws": DRAWS,
            "bootstrap_seed": BOOTSTRAP_SEED,
            "seeds": seeds,
            "lattice_bins": _bins(),
            "mask_cells": {s: _mask_side(v) for s, v in zip(("a", "b"), MODELS, strict=True)},
        },
        "configs": {
            **{variant: f"configs/shapes/{variant}.yaml" for variant in MODELS},
            **compare_configs(),
        },
        "method": describe_intervals(len(seeds), DRAWS, BOOTSTRAP_SEED),
        "answers": {
            name: _told(pooled.metrics[metric]) | {"metric": metric}
            for name, metric in _ANSWERS.items()
        },
        "before_voting": _before_voting(measured),
        "lattice": _lattice(measured),
        "counts": {
            side: _counts(records)
            for side, records in zip(("a", "b"), measured.records, strict=True)
        },
        "metrics": {name: _told(entry) for name, entry in pooled.metrics.items()},
        "seeds": [
            {"seed": seed, "metrics": metrics}
            for seed, metrics in zip(seeds, pooled.seeds, strict=True)
        ],
        "runs": [_entry(run) for run in runs],
    }
    _add_ratios(content["answers"], pooled)
    rounded: dict[str, Any] = make_jsonable(content, _DECIMALS)
    return rounded


def _told(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Add whether the interval excludes zero; None without an interval."""
    low, high = entry["low"], entry["high"]
    known = math.isfinite(low) and math.isfinite(high)
    return {**entry, "excludes_zero": bool(low > 0 or high < 0) if known else None}


def _add_ratios(answers: dict[str, Any], pooled: SeedComparison) -> None:
    """Add the relative loss from no overlap to heavy, and FCIS's seams over Mask R-CNN's."""
    none, heavy = "overlap/AP_none", "overlap/AP_heavy"
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (100 * (1 - side[heavy] / side[none]) for side in (pooled.a, pooled.b))
        answers["relative_overlap_loss"] = _told(compute_difference(first, second))
        for name in ("seam_share", "seam_length"):
            metric = _ANSWERS[name]
            answers[name]["ratio_b_to_a"] = _ratio(pooled.b[metric] / pooled.a[metric])


def _ratio(values: Floats) -> dict[str, Any]:
    """Return {"value", "low", "high", "excludes_one"} of (1 + D,), the number and the draws."""
    # A draw in which the first model has none is above every other. Percentiles interpolate, which
    # infinity does not allow.
    ends = compute_percentile_interval(np.nan_to_num(values[1:], nan=np.nan, posinf=_ENDLESS))
    low, high = (end if not end >= _ENDLESS / 1e6 else math.inf for end in ends)
    known = not math.isnan(low)
    return {
        "value": float(values[0]),
        "low": low,
        "high": high,
        "excludes_one": bool(low > 1 or high < 1) if known else None,
    }


def _before_voting(measured: Measured) -> dict[str, Any]:
    """Return the mask AP and the answers' metrics with FCIS's masks before voting as "b"."""
    pooled = compare_seeds(measured.records[0], measured.unvoted, draws=DRAWS, seed=BOOTSTRAP_SEED)
    names = ("AP/AP", *_ANSWERS.values())
    return {name: _told(pooled.metrics[name]) for name in names}


def _lattice(measured: Measured) -> dict[str, Any]:
    """Return the lattice check of both models: pooled over the runs, and of each."""
    sides: dict[str, Any] = {}
    for side, trainings in zip(("a", "b"), measured.lattice, strict=True):
        summary: dict[str, Any] = _summary(pool_records(trainings))
        shares = ("share", "chance", "ratio", "density_ratio")
        each = [_summary(records) for records in trainings]
        summary["seeds"] = [{name: one[name]["value"] for name in shares} for one in each]
        summary["excludes_one"] = {
            name: _excludes_one(summary[name]) for name in ("ratio", "density_ratio")
        }
        sides[side] = summary
    return {
        **sides,
        "method": "bootstrap over the images, all trainings pooled; it does not cover the chance "
        "in training",
    }


def _excludes_one(entry: Mapping[str, Any]) -> bool | None:
    low, high = entry["low"], entry["high"]
    return None if low is None or high is None else bool(low > 1 or high < 1)


def _summary(records: Sequence[LatticeRecord]) -> dict[str, Any]:
    return dict(summarize_lattice(records, draws=DRAWS, seed=BOOTSTRAP_SEED))


def _counts(trainings: Sequence[Sequence[ImageRecord]]) -> dict[str, int]:
    """Return the counts of a model: those of the data once, of what it found over all its runs."""
    each = [compute_metrics(records)["counts"] for records in trainings]
    return {
        name: int(
            each[0][name] if name.startswith(_OF_THE_DATA) else sum(count[name] for count in each)
        )
        for name in each[0]
    }


def _entry(run: ComparisonRun) -> dict[str, Any]:
    results = run.results()
    assert results is not None, run.title
    info = results["run"]
    return {
        "model": run.model,
        "variant": run.variant,
        "seed": run.seed,
        "config_sha256": run.sha256(),
        "metrics": {
            task: {metric: results[task].get(metric) for metric in (*AP_METRICS, "APs")}
            for task in ("segm", "bbox")
        },
        **{
            key: info.get(key)
            for key in ("train_seconds", "eval_seconds", "peak_memory_mb", "device", "versions")
        },
    }


def result_files(runs: Sequence[ComparisonRun]) -> list[list[str]]:
    """Return the paths of each model's result files, in the order of `MODELS`."""
    return [[str(run.predictions) for run in runs if run.variant == v] for v in MODELS]


def write_comparison_results(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write `fcis_comparison.json`.

    Raises:
        UserError: it cannot be written.
    """
    write_json(path, content)
