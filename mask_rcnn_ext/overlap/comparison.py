"""Two models on overlapping instances: metrics, and differences with 95 % intervals.

    truth = load_truth("annotations.json")
    first, second = (measure(truth, load_results(path, truth)) for path in (a, b))
    compute_metrics(first)["overlap"]["AP_heavy"]
    compare(first, second)["errors/leak"]  # a, b, difference, low, high

`METRICS` has the meaning of each number. All numbers come from masks, none from predicted boxes.

A difference between two models has two sources of chance: the choice of the images, and the
training. `compare` covers the images. `compare_seeds` covers both, by a bootstrap over the images
and over several trainings of each model.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ..arrays import Floats, Weights
from .average_precision import APTable
from .detections import Detection, Detections, load_results, load_truth
from .image_records import ImageRecord, measure
from .intervals import compute_percentile_interval, compute_weighted_mean, draw_weights
from .metrics import AP_TASKS, COUNTS, METRICS, RATIOS, Metric

__all__ = [
    "METRICS",
    "Detection",
    "Detections",
    "ImageRecord",
    "Metric",
    "SeedComparison",
    "compare",
    "compare_seeds",
    "compute_difference",
    "compute_metrics",
    "load_results",
    "load_truth",
    "measure",
]

Trainings = Sequence[Sequence[ImageRecord]]  # the records of each training of one model


@dataclass(frozen=True)
class SeedComparison:
    """Two models, trained several times each.

    Attributes:
        metrics: "task/metric" -> {"a", "b", "difference" (a minus b), "low", "high"}, see
            `compare`; "a" and "b" are means over the trainings.
        seeds: `compare` of the first training of each model, of the second, ...
        a, b: "task/metric" -> (1 + D,): the mean over the trainings, then the mean in each of D
            draws. A number that is computed from them can get its interval from the same draws.
    """

    metrics: dict[str, dict[str, float]]
    seeds: list[dict[str, dict[str, float]]] = field(repr=False)
    a: dict[str, Floats] = field(repr=False)
    b: dict[str, Floats] = field(repr=False)


def compute_metrics(records: Sequence[ImageRecord]) -> dict[str, dict[str, float]]:
    """Return every metric of a model: task -> metric -> number.

    The tasks are "AP", "boundary", "overlap", "overlap_same", "errors" and "counts", see `METRICS`.
    A number is NaN if the data set has no objects for it or if the model has matched none. Without
    detections, every AP is 0.

    Args:
        records: the records of one model, from `measure`.
    """
    values = _compute_weighted_metrics(records, np.ones((1, len(records)), dtype=np.int32))
    found: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        task, metric = name.split("/")
        found.setdefault(task, {})[metric] = float(value[0])
    found["counts"] = {
        name: sum(record.counts.get(name, 0) for record in records) for name in COUNTS
    }
    return found


def compare(
    records_a: Sequence[ImageRecord],
    records_b: Sequence[ImageRecord],
    *,
    draws: int = 1000,
    seed: int = 0,
    threads: int = 1,
) -> dict[str, dict[str, float]]:
    """Return every metric of two models and the difference, with a 95 % interval.

    The interval has the percentiles of a paired bootstrap over images: each draw takes as many
    images as there are, with replacement, the same for both models. It covers the choice of the
    images, not the randomness of training.

    Args:
        records_a: the records of one model, from `measure`.
        records_b: the records of another model on the same images.
        draws: how many times to resample.
        seed: the seed of the draws; the same seed gives the same interval.
        threads: how many threads share the work.

    Returns:
        "task/metric" -> {"a", "b", "difference" (a minus b), "low", "high"}, in the order of
        `METRICS`; NaN as in `compute_metrics`, and for an interval when the metric can be computed
        for fewer than half of the draws.

    Raises:
        ValueError: the records are of different images, or there are none.
    """
    return compare_seeds([records_a], [records_b], draws=draws, seed=seed, threads=threads).metrics


def compare_seeds(
    records_a: Trainings,
    records_b: Trainings,
    *,
    draws: int = 1000,
    seed: int = 0,
    threads: int = 1,
) -> SeedComparison:
    """Return every metric of two models with several trainings each, and the difference.

    Each draw takes as many images as there are, with replacement, the same for all trainings of
    both models. It also takes as many trainings of each model as there are, with replacement, and
    independently for each model, since equal seeds do not make two trainings a pair. The number of
    a model is the mean over its trainings. The 95 % intervals are percentiles of the draws.

    With S trainings, a bootstrap shows on average only (S - 1) / S of the variance of training, so
    with few trainings the interval is too small. With one training of each model it is the interval
    of `compare`.

    Args:
        records_a: the records of each training of one model, from `measure`.
        records_b: the records of as many trainings of another model, on the same images.
        draws: how many times to resample.
        seed: the seed of the draws; the same seed gives the same intervals.
        threads: how many threads share the work.

    Raises:
        ValueError: there is no training, the models have different numbers of trainings, or the
            records are of different images or of none.
    """
    count = len(records_a)
    if not count or count != len(records_b):
        raise ValueError(
            "expected as many trainings of both models, at least one; "
            f"got {count} and {len(records_b)}"
        )
    every = [*records_a, *records_b]
    ids = [[record.image_id for record in records] for records in every]
    if not ids[0] or any(other != ids[0] for other in ids):
        raise ValueError("expected records of the same images, at least one, of all trainings")
    images = draw_weights(len(ids[0]), draws, seed)
    values = [_compute_weighted_metrics(records, images, threads) for records in every]
    means = []
    for index, trainings in enumerate((values[:count], values[count:])):
        # Other seeds than for the images, and another one for each model.
        weights = draw_weights(count, draws, (seed, 1 + index))
        means.append({name: _mean([v[name] for v in trainings], weights) for name in METRICS})
    a, b = means
    return SeedComparison(
        metrics={name: compute_difference(a[name], b[name]) for name in METRICS},
        seeds=[
            {name: compute_difference(one[name], other[name]) for name in METRICS}
            for one, other in zip(values[:count], values[count:], strict=True)
        ],
        a=a,
        b=b,
    )


def _mean(values: Sequence[Floats], weights: Weights) -> Floats:
    """Return (D,): the mean over trainings; NaN where the value of a drawn training is NaN.

    Args:
        values: (D,) of each of S trainings.
        weights: (D, S), how often each training is drawn.
    """
    # A training that is not drawn adds nothing, not even its NaN.
    taken = np.where(weights > 0, np.stack(values, axis=1), 0.0)
    mean: Floats = (taken * weights).sum(axis=1) / weights.sum(axis=1)
    return mean


def compute_difference(first: Floats, second: Floats) -> dict[str, float]:
    """Return {"a", "b", "difference", "low", "high"} of one metric.

    Args:
        first: (1 + D,), the number of the first model, then its number in each draw.
        second: (1 + D,), the same of the second model.
    """
    difference = first - second
    low, high = compute_percentile_interval(difference[1:])
    return {
        "a": float(first[0]),
        "b": float(second[0]),
        "difference": float(difference[0]),
        "low": low,
        "high": high,
    }


def _compute_weighted_metrics(
    records: Sequence[ImageRecord], weights: Weights, threads: int = 1
) -> dict[str, Floats]:
    """Return (D,) of each of `METRICS`, with the images weighted by the (D, I) weights."""
    tables = {name: _join_tables(records, name) for name in AP_TASKS}
    with ThreadPoolExecutor(max(1, threads)) as pool:  # NumPy's sums run in parallel
        aps = pool.map(lambda table: table.compute_ap(weights), tables.values())
        found = dict(zip(tables, aps, strict=True))
    values: dict[str, Floats] = {}
    for name, columns in AP_TASKS.items():
        values |= {column: found[name][:, i] for i, column in enumerate(columns)}
    for task in ("overlap", "overlap_same"):
        values[f"{task}/AP_drop"] = values[f"{task}/AP_none"] - values[f"{task}/AP_heavy"]
    for name in RATIOS:
        sums, counts = np.array([record.sums[name] for record in records]).reshape(-1, 2).T
        values[name] = 100 * compute_weighted_mean(sums, counts, weights)
    return {name: values[name] for name in METRICS}


def _join_tables(records: Sequence[ImageRecord], name: str) -> APTable:
    """Return one kind of match table over all images."""
    pairs = [(record, record.tables[name]) for record in records]
    objects: dict[int, Weights] = {}
    for index, (_, table) in enumerate(pairs):
        for category, number in table.objects.items():
            objects.setdefault(category, np.zeros(len(records), dtype=np.int32))[index] = number
    images = ((r.classes, r.scores, table.true, table.counted) for r, table in pairs)
    return APTable.join(images, dict(sorted(objects.items())))
