"""Two models, each trained with several seeds, where objects overlap: metrics with intervals.

A difference between two models has two sources of chance: the images that it is measured on, and
the training. `comparison.compare` covers the first. Here both are covered, by a bootstrap on two
levels: images, and trainings.

    pooled = compare_seeds([records of seed 1, of seed 2, ...], [...])
    pooled.metrics["errors/seam_share"]  # a, b, difference, low, high
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .comparison import METRICS, difference_entry, weighted_values
from .image_metrics import ImageRecord
from .intervals import draw_weights

__all__ = ["SeedComparison", "compare_seeds", "method"]

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.int32]
Trainings = Sequence[Sequence[ImageRecord]]  # of one model: the records of each of its trainings


@dataclass(frozen=True)
class SeedComparison:
    """What two models, trained several times each, come to.

    Attributes:
        metrics: "task/metric" -> {"a", "b", "difference" (a minus b), "low", "high"}, as of
            `comparison.compare`; "a" and "b" are means over the trainings.
        seeds: `comparison.compare` of the first training of each, of the second, ...
        a, b: "task/metric" -> (1 + D,): the mean over the trainings, then that of each draw. What
            is computed of them has its interval from the same draws.
    """

    metrics: dict[str, dict[str, float]]
    seeds: list[dict[str, dict[str, float]]] = field(repr=False)
    a: dict[str, Floats] = field(repr=False)
    b: dict[str, Floats] = field(repr=False)


def compare_seeds(
    records_a: Trainings,
    records_b: Trainings,
    *,
    draws: int = 1000,
    seed: int = 0,
    threads: int = 1,
) -> SeedComparison:
    """Return every metric of two models and the difference, with 95 % intervals.

    Each draw takes as many images as there are, with replacement, the same for all trainings of
    both models; and as many trainings of each model as there are, with replacement, for each model
    by itself: a seed makes no pair of two trainings. The number of a model is the mean of the
    numbers of its trainings. The intervals are percentiles of the draws.

    With one training of each model the interval is that of `comparison.compare`. With S, a
    bootstrap shows only (S - 1) / S of the variance of trainings: with few, it is too small.

    Args:
        records_a: of the trainings of one model; each as of `comparison.measure`.
        records_b: of as many trainings of another, on the same images.
        draws: how many times to resample.
        seed: of the draws; the same seed gives the same intervals.
        threads: how many share the work.

    Raises:
        ValueError: there is no training, the models have not equally many, or the records are of
            other images, or of none.
    """
    every = [*records_a, *records_b]
    if not records_a or len(records_a) != len(records_b):
        raise ValueError(
            f"expected as many trainings of both models, at least one; got {len(records_a)} and "
            f"{len(records_b)}"
        )
    ids = [[record.image_id for record in records] for records in every]
    if not ids[0] or any(other != ids[0] for other in ids):
        raise ValueError("expected records of the same images, at least one, of all trainings")
    ones = np.ones((1, len(ids[0])), dtype=np.int32)
    images = np.concatenate([ones, draw_weights(len(ids[0]), draws, seed)])
    values = [weighted_values(records, images, threads) for records in every]
    count = len(records_a)
    first, second = values[:count], values[count:]
    means = []
    for index, side in enumerate((first, second)):
        ones = np.ones((1, count), dtype=np.int32)
        # Seeds of their own: neither model's trainings are drawn as images are, or as the other's.
        drawn = _draw_trainings(count, draws, (seed, 1 + index))
        weights = np.concatenate([ones, drawn])
        means.append({name: _mean([v[name] for v in side], weights) for name in METRICS})
    a, b = means
    return SeedComparison(
        metrics={name: difference_entry(a[name], b[name]) for name in METRICS},
        seeds=[
            {name: difference_entry(one[name], other[name]) for name in METRICS}
            for one, other in zip(first, second, strict=True)
        ],
        a=a,
        b=b,
    )


def _draw_trainings(count: int, draws: int, seed: tuple[int, int]) -> Weights:
    """Return (draws, count): how often each training is in each draw."""
    picks = np.random.default_rng(seed).integers(count, size=(draws, count))
    return np.stack([(picks == index).sum(axis=1) for index in range(count)], axis=1).astype(
        np.int32
    )


def _mean(values: Sequence[Floats], weights: Weights) -> Floats:
    """Return (D,): the mean over trainings; NaN where one that is taken has none.

    Args:
        values: (D,) of each of S trainings.
        weights: (D, S), how often each is taken.
    """
    # A training that is not taken adds nothing, not even its NaN.
    taken = np.where(weights > 0, np.stack(values, axis=1), 0.0)
    mean: Floats = (taken * weights).sum(axis=1) / weights.sum(axis=1)
    return mean


def method(trainings: int, draws: int, seed: int) -> str:
    """Return in words what the intervals of `compare_seeds` cover, for a page."""
    images = (
        f"percentiles of a bootstrap ({draws} draws, seed {seed}). Each draw takes as many images "
        "as there are, with replacement, the same for both models and all trainings"
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
