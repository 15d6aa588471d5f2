"""Intervals of a difference between two models, at the 95 % level unless another level is given.

There are two sources of chance and an interval for each. If both models are trained again with
other seeds, they become a little different: `compute_t_interval` takes the difference for each
seed. If they are evaluated on other images, their scores change a little: the bootstrap over images
needs one run of each model.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from ..arrays import Floats, Weights
from ..files import make_jsonable
from .average_precision import APTable

__all__ = [
    "bootstrap_ap_difference",
    "bootstrap_ratio",
    "compute_basic_interval",
    "compute_percentile_interval",
    "compute_t_interval",
    "compute_weighted_mean",
    "describe_draws",
    "describe_interval",
    "draw_weights",
]


def compute_t_interval(differences: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return (low, high): Student's t interval of the mean of paired differences.

    Args:
        differences: the difference of each seed; at least two.
        level: the coverage, 0 to 1.

    Raises:
        ValueError: there are fewer than two differences.
    """
    if len(differences) < 2:
        raise ValueError(f"expected two or more differences, got {len(differences)}")
    values = np.asarray(differences, dtype=np.float64)
    error = values.std(ddof=1) / np.sqrt(len(values))
    half = stdtrit(len(values) - 1, (1 + level) / 2) * error
    return float(values.mean() - half), float(values.mean() + half)


def draw_weights(items: int, draws: int, seed: int | tuple[int, ...]) -> Weights:
    """Return (1 + draws, items): 1 for each item, then how often each item is in each draw.

    A draw of a bootstrap takes as many items (images or trainings) as there are, with replacement.
    """
    rng = np.random.default_rng(seed)
    picks = [rng.integers(items, size=items) for _ in range(draws)]
    weights = [np.bincount(pick, minlength=items) for pick in (np.arange(items), *picks)]
    return np.array(weights, dtype=np.int32)


def bootstrap_ratio(
    over: Floats, under: Floats, *, draws: int, seed: int, model: int = 0
) -> Floats:
    """Return (1 + draws,): a ratio of sums, then the ratio in each draw.

    The ratio of 0 and 0 is NaN, and of another number and 0 infinite.

    A draw takes as many images as there are, with replacement, the same for all trainings, and as
    many trainings as there are, with replacement.

    Args:
        over: (S, I), the dividend of each training and image.
        under: (S, I), the divisor.
        draws: how many times to resample.
        seed: the seed of the draws.
        model: a number of the model, to compare it with other models. Models with different
            numbers draw the same images, but draw their trainings independently.
    """
    images = draw_weights(over.shape[1], draws, seed)
    trainings = draw_weights(over.shape[0], draws, (seed, 1 + model))
    totals = [((trainings @ values) * images).sum(axis=1) for values in (over, under)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: Floats = totals[0] / totals[1]
    return ratio


def compute_weighted_mean(sums: Floats, counts: Floats, weights: Weights) -> Floats:
    """Return (D,): the mean of all values in the drawn images; NaN where there are none.

    Args:
        sums: (I,), sum of the values in each image.
        counts: (I,), number of the values in each image.
        weights: (D, I), how often each image is drawn.
    """
    with np.errstate(invalid="ignore"):
        return (weights @ sums) / (weights @ counts)


def compute_percentile_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return (low, high) of the middle `level` of the (D,) values, without those that are NaN.

    Both are NaN when more than half of the values are NaN. Values can be infinite; an end among
    these is infinite or NaN.
    """
    numbers = values[~np.isnan(values)]
    if 2 * len(numbers) < len(values) or not len(numbers):
        return float("nan"), float("nan")
    tail = 50 * (1 - level)
    with np.errstate(invalid="ignore"):  # between two infinite values
        low, high = np.percentile(numbers, [tail, 100 - tail])
    return float(low), float(high)


def compute_basic_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Return (low, high) of an AP: the percentiles of its draws, mirrored at the AP; 0 to 100.

    A draw has some images twice and lacks others, which makes AP too high on average, above all
    where a class has few objects. So the percentiles lie too high. The mirrored percentiles do not
    (the "basic" interval of Davison and Hinkley 1997, section 5.2). In a difference of two models
    this error cancels out.

    Args:
        values: (1 + D,), the AP, then the AP in each draw.
        level: the coverage, 0 to 1.
    """
    low, high = compute_percentile_interval(values[1:], level)
    mirrored = np.clip([2 * values[0] - high, 2 * values[0] - low], 0, 100)
    return float(mirrored[0]), float(mirrored[1])


def bootstrap_ap_difference(
    first: APTable, second: APTable, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> list[tuple[float, float]]:
    """Return (low, high) of `first` minus `second` for each of `AP_METRICS`, in AP points.

    Each draw takes as many images as there are, with replacement, the same for both models. The
    interval covers the choice of the images, not the randomness of training.

    Args:
        first: the table of one model.
        second: the table of another model on the same images.
        draws: how many times to resample.
        seed: the seed of the draws.
        level: the coverage, 0 to 1.

    Raises:
        ValueError: the tables have different numbers of images.
    """
    if first.num_images != second.num_images:
        raise ValueError(f"expected the same images, got {first.num_images}, {second.num_images}")
    weights = draw_weights(first.num_images, draws, seed)[1:]
    differences = first.compute_ap(weights) - second.compute_ap(weights)
    return [compute_percentile_interval(column, level) for column in differences.T]


def describe_interval(values: Floats) -> dict[str, float | None]:
    """Return {"value", "low", "high"}, ready for json; None: the number is undefined or infinite.

    Args:
        values: (1 + D,), a number, then the same in each draw of a bootstrap.
    """
    low, high = compute_percentile_interval(values[1:])
    entry: dict[str, float | None] = make_jsonable(
        {"value": float(values[0]), "low": low, "high": high}
    )
    return entry


def describe_draws(numbers: Mapping[str, Floats]) -> dict[str, dict[str, float | None]]:
    """Return the same names -> see `describe_interval`."""
    return {name: describe_interval(values) for name, values in numbers.items()}
