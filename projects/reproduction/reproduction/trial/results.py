"""`results/trainer_trial.json`: the numbers of the runs, and the paired differences."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mask_rcnn_ext.files import write_json
from mask_rcnn_ext.overlap.intervals import compute_t_interval

from ..run_entries import describe_run
from .runs import TRAINERS, TRIAL_DATA, TrialRun

__all__ = ["TrainerDifference", "collect_trial", "describe_trial", "write_trial_results"]

_TASKS, _METRICS = ("segm", "bbox"), ("AP", "AP50")
_LAST = 100  # iterations; the training loss is the mean over them


@dataclass(frozen=True)
class TrainerDifference:
    """Our trainer minus detectron2's in one number, over runs with the same seed.

    Attributes:
        data: one of `TRIAL_DATA`.
        metric: "segm/AP" and so on, in AP points, or "loss".
        ours, plain: the means over the seeds.
        difference: the difference of the means.
        low, high: Student's 95 % interval of the mean difference.
        by_seed: the difference of each seed.
    """

    data: str
    metric: str
    ours: float
    plain: float
    difference: float
    low: float
    high: float
    by_seed: list[float]


def collect_trial(runs: Sequence[TrialRun]) -> list[TrainerDifference]:
    """Return the differences of finished runs, data set by data set."""
    numbers: dict[tuple[str, str, str], list[float]] = {}
    for run in runs:
        for metric, value in _read_numbers(run).items():
            numbers.setdefault((run.data, metric, run.trainer), []).append(value)
    found = []
    for data in TRIAL_DATA:
        for metric in dict.fromkeys(metric for _, metric, _ in numbers):
            ours, plain = (numbers[data, metric, trainer] for trainer in TRAINERS)
            by_seed = [a - b for a, b in zip(ours, plain, strict=True)]
            means = fmean(ours), fmean(plain), fmean(by_seed)
            found.append(
                TrainerDifference(data, metric, *means, *compute_t_interval(by_seed), by_seed)
            )
    return found


def _read_numbers(run: TrialRun) -> dict[str, float]:
    results = run.results()
    assert results is not None, run.title
    numbers = {
        f"{task}/{metric}": float(results[task][metric] or 0.0)
        for task in _TASKS
        for metric in _METRICS
    }
    return {**numbers, "loss": _read_loss(run.folder / "metrics.json")}


def _read_loss(path: Path) -> float:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    losses = [line for line in lines if "total_loss" in line]
    last = max(line["iteration"] for line in losses)
    return fmean(line["total_loss"] for line in losses if line["iteration"] > last - _LAST)


def write_trial_results(path: str | Path, runs: Sequence[TrialRun]) -> list[TrainerDifference]:
    """Write the file, and return the differences."""
    found = collect_trial(runs)
    content: dict[str, Any] = {
        "interval": "Student's t, 95 %, over the differences of runs with the same seed",
        "differences": [asdict(difference) for difference in found],
        "runs": [asdict(describe_run(run, _TASKS, _METRICS)) for run in runs],
    }
    write_json(path, content)
    return found


def describe_trial(differences: Sequence[TrainerDifference]) -> list[str]:
    """Return a line of text for each difference."""
    return [
        f"{d.data:8} {d.metric:9} ours {d.ours:7.3f}  detectron2's {d.plain:7.3f}  difference "
        f"{d.difference:+.3f}  95 % interval {d.low:+.3f} to {d.high:+.3f}"
        for d in differences
    ]
