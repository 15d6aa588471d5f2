"""Lets contenders take turns, and compares their times round by round."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["MAX_SPREAD", "Times", "compare", "take_turns", "time_call", "time_into"]

MAX_SPREAD = 0.25  # of the middle half of the ratios, as a part of their median
_FEWEST = 3  # rounds for a verdict

Times = dict[str, float]  # timed step -> seconds


def time_call(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call takes, and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def time_into(results: dict[str, Any], name: str, function: Callable[[], Any]) -> Times:
    """Call a function, put its result into `results` under a name, and return its seconds."""
    seconds, results[name] = time_call(function)
    return {"": seconds}


def take_turns(
    contenders: Mapping[str, Callable[[], Times]], rounds: int, warm_up: bool = True
) -> dict[str, list[Times]]:
    """Return the times of each contender in each round.

    In each round every contender runs once; the order is reversed from one round to the next.

    Args:
        contenders: name -> a function that runs once and returns its times.
        rounds: the number of rounds that count.
        warm_up: run a round before them that does not count.
    """
    found: dict[str, list[Times]] = {name: [] for name in contenders}
    for number in range(-1 if warm_up else 0, rounds):
        order = list(contenders) if number % 2 == 0 else list(reversed(contenders))
        for name in order:
            times = contenders[name]()
            if number >= 0:
                found[name].append(times)
    return found


def compare(seconds: Sequence[float], baseline: Sequence[float]) -> dict[str, Any]:
    """Compare the seconds of a contender in each round with the baseline's.

    Returns:
        `seconds`, the median; `ratios`, the lowest and the highest ratio of the rounds: how many
        times as fast as the baseline the contender was; `ratio`, their median; `verdict`, a phrase,
        which is "too noisy" if the middle half of the ratios spreads over more than `MAX_SPREAD` of
        the median.
    """
    ratios = sorted(b / s for s, b in zip(seconds, baseline, strict=True))
    ratio = statistics.median(ratios)
    return {
        "seconds": statistics.median(seconds),
        "ratio": ratio,
        "ratios": [ratios[0], ratios[-1]],
        "verdict": _judge(ratios, ratio),
    }


def _judge(ratios: Sequence[float], ratio: float) -> str:
    if len(ratios) < _FEWEST:
        return f"no verdict: fewer than {_FEWEST} rounds"
    first, _, third = statistics.quantiles(ratios, n=4, method="inclusive")
    if third - first > MAX_SPREAD * ratio:
        return f"too noisy: half of the ratios are between {first:.2f} and {third:.2f}"
    if ratio >= 1:
        return f"{ratio:.2f} times as fast"
    return f"{1 / ratio:.2f} times slower"
