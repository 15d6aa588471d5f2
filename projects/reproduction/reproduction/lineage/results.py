"""What the lineage's runs measured: accuracy, time, and what each was made from."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import DatasetCatalog

from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import read_json
from mask_rcnn_ext.overlap.average_precision import AP_METRICS

from .runs import LineageRun, Method, compare_configs, methods, proposal_sets

__all__ = ["TASKS", "collect", "require_proposals"]

TASKS = ("bbox", "segm")
_DECIMALS = 4
_METRICS = (*AP_METRICS, "APs", "APm")  # APs: objects under 32 pixels; APm: larger ones
_OF_PROPOSALS = (
    "proposals_per_image",
    "recall",
    "seconds_per_image",
)  # what is read of the json beside the proposals


def require_proposals(runs: Sequence[LineageRun]) -> dict[str, dict[str, Any]]:
    """Return what the json beside each proposal file says: data set -> its content.

    Args:
        runs: of one root.

    Raises:
        UserError: a file is missing, or is not what `tools/compute_proposals.py` writes.
    """
    folder = runs[0].root / "proposals"
    found = {}
    for name in proposal_sets(runs):
        path = folder / f"{name}.json"
        content = read_json(str(path))
        if not isinstance(content, dict) or any(key not in content for key in _OF_PROPOSALS):
            raise UserError(
                f"{path}: expected what tools/compute_proposals.py says of the proposals for "
                f"{name} ({', '.join(_OF_PROPOSALS)}); leave out --only-report to compute them"
            )
        found[name] = content
    return found


def collect(
    runs: Sequence[LineageRun], timing: Mapping[str, Any], proposals: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of `lineage.json`, which is that of the page, too.

    Args:
        runs: finished ones, as of `runs.plan`.
        timing: of `inference.measure_seconds`, of the first seed.
        proposals: of `require_proposals`.
    """
    configs = compare_configs()
    test = runs[0].config().DATASETS.TEST[0]
    return {
        "dataset": test,
        "seeds": sorted({run.seed for run in runs}),
        "shared": configs["shared"],
        "differing": configs["differing"],
        "proposals": dict(proposals),
        "timing": {key: value for key, value in timing.items() if key != "seconds"},
        "methods": [
            _method(
                method,
                [run for run in runs if run.variant == method.variant],
                timing["seconds"][method.variant],
                proposals,
            )
            for method in methods()
        ],
        "runs": [_entry(run) for run in runs],
    }


def _method(
    method: Method,
    runs: Sequence[LineageRun],
    seconds: Mapping[str, float],
    proposals: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a row of the page's table: means over the seeds, None where there is no number."""
    cfg = runs[0].config()
    stored = cfg.MODEL.LOAD_PROPOSALS
    topk = cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST if stored else 0
    test = cfg.DATASETS.TEST[0]
    return {
        "variant": method.variant,
        "name": method.name,
        "added": method.added,
        "base": method.base,
        "variation": method.variation,
        "config": f"configs/shapes/lineage/{method.variant}.yaml",
        "metrics": {task: _means(runs, task) for task in TASKS},
        "proposals": "stored" if stored else "RPN",
        "proposals_per_image": int(topk or cfg.MODEL.RPN.POST_NMS_TOPK_TEST),
        "seconds_per_image": {key: round(value, _DECIMALS) for key, value in seconds.items()},
        "proposal_seconds_per_image": proposals[test]["seconds_per_image"] if stored else None,
        "train_seconds": _mean([_info(run).get("train_seconds") for run in runs], 1),
        "iterations": None if method.base else int(cfg.SOLVER.MAX_ITER),
        "images_per_batch": None if method.base else int(cfg.SOLVER.IMS_PER_BATCH),
        "train_images": sum(len(DatasetCatalog.get(name)) for name in cfg.DATASETS.TRAIN),
    }


def _means(runs: Sequence[LineageRun], task: str) -> dict[str, float | None] | None:
    """Return the mean of each AP over the runs; None when they have no such task."""
    found = [(run.results() or {}).get(task) for run in runs]
    if not all(found):
        return None
    return {metric: _mean([(entry or {}).get(metric) for entry in found]) for metric in _METRICS}


def _mean(values: Sequence[float | None], decimals: int = _DECIMALS) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.fmean(known), decimals) if len(known) == len(values) else None


def _info(run: LineageRun) -> dict[str, Any]:
    return dict((run.results() or {})["run"])


def _entry(run: LineageRun) -> dict[str, Any]:
    results, info = run.results() or {}, _info(run)
    return {
        "variant": run.variant,
        "seed": run.seed,
        "config_sha256": run.sha256(),
        "inputs": run.inputs(),
        "metrics": {
            task: {metric: results[task].get(metric) for metric in _METRICS}
            for task in TASKS
            if task in results
        },
        **{
            key: info.get(key)
            for key in ("train_seconds", "eval_seconds", "peak_memory_mb", "device", "versions")
        },
    }
