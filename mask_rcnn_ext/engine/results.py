"""Writes `results.json` of a run: metrics, times, memory, device, seed and versions."""

import json
import logging
import os
import resource
import sys
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode

from ..checkpoint.description import get_versions
from ..data.catalog import find_annotation_files
from ..errors import count_noun, name_some
from ..files import atomic_open, file_sha256, make_jsonable

__all__ = ["write_results"]

logger = logging.getLogger(__name__)


def write_results(
    cfg: CfgNode,
    results: Mapping[str, Any],
    *,
    train_seconds: float | None,
    eval_seconds: float,
    seed: int,
    peak_mb: float = 0.0,
    weights: str = "",
    best: Mapping[str, Any] | None = None,
    skipped: Mapping[str, str] | None = None,
) -> str:
    """Write `OUTPUT_DIR/results.json` atomically and return its path.

    The file is `{"task": {"metric": number}, ..., "run": {...}}`, AP in 0-100. "run" has the
    SHA-256 of the annotations, by data set, and in an evaluation of the weights. A metric that
    cannot be computed is null. With several test sets, their names are one more level.

    Args:
        cfg: the config of the run.
        results: the metrics, as `Trainer.test` returns them.
        train_seconds: wall-clock time of training; None if nothing was trained.
        eval_seconds: wall-clock time of all evaluations of the run.
        seed: the seed of the run; negative if it had none.
        peak_mb: peak memory of earlier parts of the run, in MB.
        weights: the file of the weights, if they are not this run's own.
        best: what `model_best.pth` was measured at, if there is one.
        skipped: images that could not be used, with the reasons; they are logged too.
    """
    if skipped:
        logger.warning(
            "%d image(s) could not be used and were skipped: %s",
            *(len(skipped), name_some(list(skipped))),
        )
    run = {
        "train_seconds": None if train_seconds is None else round(train_seconds, 3),
        "eval_seconds": round(eval_seconds, 3),
        "peak_memory_mb": round(max(peak_mb, _peak_memory_mb(cfg.MODEL.DEVICE)), 1),
        "device": _device_name(cfg.MODEL.DEVICE),
        "seed": seed,
        "data_sha256": {k: file_sha256(path) for k, path in find_annotation_files(cfg).items()},
        **({"weights_sha256": file_sha256(weights)} if weights else {}),
        **({"best": dict(best)} if best else {}),
        **({"skipped_images": dict(skipped)} if skipped else {}),
        "versions": get_versions(),
    }
    path = os.path.join(cfg.OUTPUT_DIR, "results.json")
    with atomic_open(path, "w") as f:
        json.dump(make_jsonable({**results, "run": run}), f, indent=2, allow_nan=False)
        f.write("\n")
    return path


def _peak_memory_mb(device: str) -> float:
    """Return the peak memory of this process in MB: allocated on the GPU, or resident on a CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"cpu, {count_noun(threads, 'thread')}"
