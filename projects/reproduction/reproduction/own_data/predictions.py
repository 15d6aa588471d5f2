"""The predictions, made before any training, and the numbers that decide them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from mask_rcnn_ext.overlap.intervals import compute_t_interval

from .runs import DATA

__all__ = ["PREDICTIONS", "Contrast", "Prediction", "collect_contrasts", "judge_predictions"]

_Entry = Mapping[str, Any]
_Cell = tuple[str, str, str]  # data, start, settings

_INF = math.inf


@dataclass(frozen=True)
class Contrast:
    """A number with its interval.

    Attributes:
        data: one of `DATA`.
        name: the measured number, in points of mask AP; "saved" is in percent of the iterations.
        values: one for each seed, or for each run if a run is compared with itself.
        mean: the mean of `values`.
        low, high: Student's 95 % interval of the mean; None with fewer than two values.
    """

    data: str
    name: str
    values: list[float]
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Prediction:
    """A sentence, and the range that a number should lie in.

    Attributes:
        sentence: the prediction.
        data: see `Contrast`.
        name: see `Contrast`.
        least, most: the range; None: without an end.
        verdict: "came true" if the whole interval lies in the range, "refuted" if it lies outside,
            else "open", also without an interval.
    """

    sentence: str
    data: str
    name: str
    least: float | None
    most: float | None
    verdict: str = "open"


# Written before the first training.
PREDICTIONS = [
    Prediction("ImageNet weights gain 10 mask AP or more", "persons", "lite0 - scratch", 10, None),
    Prediction("ImageNet weights gain 0 to 5 mask AP", "dsb2018", "lite0 - scratch", 0, 5),
    *(
        Prediction(sentence, data, name, least, most)
        for sentence, name, least, most in (
            ("`--auto` is within 2 mask AP of the hand-made settings", "auto - hand", -2, 2),
            ("the best checkpoint is within 1 mask AP of the last one", "best - last", -1, 1),
            ("an early end changes mask AP by less than 1", "early - last", -1, 1),
            ("an early end saves less than a tenth of the time", "saved", 0, 10),
            ("averaged weights are within 1 mask AP of the last ones", "average - last", -1, 1),
        )
        for data in DATA
    ),
    Prediction("5 minutes give mask AP50 60 or more", "dsb2018", "AP50", 60, None),
    Prediction("15 minutes do not give mask AP 50", "persons", "AP", None, 50),
]


def _score(entry: _Entry, choice: str, metric: str = "AP", part: str = "scoring") -> float:
    value = entry["evaluations"][entry["choice"][choice]][part]["segm"][metric]
    return float(value or 0.0)


def _share_saved(entry: _Entry) -> float:
    """Return the share of the iterations that an early end saves, in percent."""
    done = entry["evaluations"][entry["choice"]["stop"]]["iteration"]
    return 100.0 * (1 - done / float(entry["iterations"]))


# Compared within a run: best, early and average against the last weights.
_WITHIN: dict[str, Callable[[_Entry], float]] = {
    "best - last": lambda run: _score(run, "best") - _score(run, "last"),
    "best - last, selection half": lambda run: (
        _score(run, "best", part="selection") - _score(run, "last", part="selection")
    ),
    "early - last": lambda run: _score(run, "early") - _score(run, "last"),
    "saved": _share_saved,
    "average - last": lambda run: float(run["average"]["segm"]["AP"] or 0.0) - _score(run, "last"),
}


def collect_contrasts(entries: Iterable[_Entry]) -> list[Contrast]:
    """Return the numbers of the finished runs; compared runs have the same seed."""
    cells: dict[_Cell, dict[int, _Entry]] = {}
    for entry in entries:
        cell = entry["data"], entry["start"], entry["settings"]
        cells.setdefault(cell, {})[entry["seed"]] = entry

    def pair(first: _Cell, second: _Cell) -> list[float]:
        one, other = cells.get(first, {}), cells.get(second, {})
        return [_score(one[s], "last") - _score(other[s], "last") for s in one if s in other]

    found = []
    for data in DATA:
        hand, auto = (data, "lite0", "hand"), (data, "lite0", "auto")
        found += [
            _summarize(data, "lite0 - scratch", pair(hand, (data, "scratch", "hand"))),
            _summarize(data, "lite0 - scratch, auto", pair(auto, (data, "scratch", "auto"))),
            _summarize(data, "auto - hand", pair(auto, hand)),
        ]
        for metric in ("AP", "AP50"):
            values = [_score(e, "last", metric, "all") for e in cells.get(hand, {}).values()]
            found.append(_summarize(data, metric, values))
        runs = [e for cell, seeds in cells.items() if cell[0] == data for e in seeds.values()]
        found += [_summarize(data, name, [f(e) for e in runs]) for name, f in _WITHIN.items()]
    return [contrast for contrast in found if contrast.values]


def _summarize(data: str, name: str, values: list[float]) -> Contrast:
    low, high = compute_t_interval(values) if len(values) > 1 else (None, None)
    return Contrast(data, name, values, fmean(values) if values else math.nan, low, high)


def judge_predictions(contrasts: Sequence[Contrast]) -> list[Prediction]:
    """Return the predictions with their verdicts."""
    by_name = {(c.data, c.name): c for c in contrasts}
    return [_judge(p, by_name.get((p.data, p.name))) for p in PREDICTIONS]


def _judge(prediction: Prediction, contrast: Contrast | None) -> Prediction:
    if contrast is None or contrast.low is None or contrast.high is None:
        return prediction
    least = -_INF if prediction.least is None else prediction.least
    most = _INF if prediction.most is None else prediction.most
    verdict = "open"
    if least <= contrast.low and contrast.high <= most:
        verdict = "came true"
    elif contrast.high < least or most < contrast.low:
        verdict = "refuted"
    return replace(prediction, verdict=verdict)
