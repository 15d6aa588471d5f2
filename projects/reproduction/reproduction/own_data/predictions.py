"""The predictions, made before any training, and the numbers that decide them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean

from mask_rcnn_ext.overlap.intervals import compute_t_interval

from .results_file import Contrast, OwnDataEntry, WrittenPrediction
from .runs import DATA

__all__ = ["PREDICTIONS", "collect_contrasts", "judge_own_data_predictions"]

_Cell = tuple[str, str, str]  # data, start, settings

_INF = math.inf

# Written before the first training of the data set.
PREDICTIONS = [
    WrittenPrediction(
        "ImageNet weights gain 10 mask AP or more", "persons", "lite0 - scratch", 10, None
    ),
    WrittenPrediction("ImageNet weights gain 0 to 5 mask AP", "dsb2018", "lite0 - scratch", 0, 5),
    *(
        WrittenPrediction(sentence, data, name, least, most)
        for sentence, name, least, most in (
            ("`--auto` is within 2 mask AP of the hand-made settings", "auto - hand", -2, 2),
            ("the best checkpoint is within 1 mask AP of the last one", "best - last", -1, 1),
            ("an early end changes mask AP by less than 1", "early - last", -1, 1),
            ("an early end saves less than a tenth of the time", "saved", 0, 10),
            ("averaged weights are within 1 mask AP of the last ones", "average - last", -1, 1),
        )
        for data in ("dsb2018", "persons")
    ),
    WrittenPrediction("5 minutes give mask AP50 60 or more", "dsb2018", "AP50", 60, None),
    WrittenPrediction("15 minutes do not give mask AP 50", "persons", "AP", None, 50),
    WrittenPrediction("15 minutes give mask AP 50 or more", "sixty", "AP", 50, None),
]


def _last(run: OwnDataEntry) -> float:
    return run.evaluations[run.choice.last].score("scoring")


def _gain(run: OwnDataEntry, index: int, part: str = "scoring") -> float:
    """Return the mask AP of an evaluation minus the one of the last weights."""
    return run.evaluations[index].score(part) - run.evaluations[run.choice.last].score(part)


# Compared within a run: best, early and average against the last weights.
_WITHIN: dict[str, Callable[[OwnDataEntry], float]] = {
    "best - last": lambda run: _gain(run, run.choice.best),
    "best - last, selection half": lambda run: _gain(run, run.choice.best, "selection"),
    "early - last": lambda run: _gain(run, run.choice.early),
    "saved": lambda run: (  # by an early end, in percent of the iterations
        100.0 * (1 - run.evaluations[run.choice.stop].iteration / run.iterations)
    ),
    "average - last": lambda run: (run.average["segm"]["AP"] or 0.0) - _last(run),
}


def collect_contrasts(entries: Iterable[OwnDataEntry]) -> list[Contrast]:
    """Return the numbers of the finished runs; compared runs have the same seed."""
    cells: dict[_Cell, dict[int, OwnDataEntry]] = {}
    for entry in entries:
        cell = entry.data, entry.start, entry.settings
        cells.setdefault(cell, {})[entry.seed] = entry

    def pair(first: _Cell, second: _Cell) -> list[float]:
        one, other = cells.get(first, {}), cells.get(second, {})
        return [_last(one[s]) - _last(other[s]) for s in one if s in other]

    found = []
    for data in DATA:
        hand, auto = (data, "lite0", "hand"), (data, "lite0", "auto")
        found += [
            _summarize(data, "lite0 - scratch", pair(hand, (data, "scratch", "hand"))),
            _summarize(data, "lite0 - scratch, auto", pair(auto, (data, "scratch", "auto"))),
            _summarize(data, "auto - hand", pair(auto, hand)),
        ]
        for metric in ("AP", "AP50"):
            own = cells.get(hand if "hand" in DATA[data].iterations else auto, {}).values()
            values = [e.evaluations[e.choice.last].score("all", metric) for e in own]
            found.append(_summarize(data, metric, values))
        runs = [e for cell, seeds in cells.items() if cell[0] == data for e in seeds.values()]
        found += [_summarize(data, name, [f(e) for e in runs]) for name, f in _WITHIN.items()]
    return [contrast for contrast in found if contrast.values]


def _summarize(data: str, name: str, values: list[float]) -> Contrast:
    low, high = compute_t_interval(values) if len(values) > 1 else (None, None)
    return Contrast(data, name, values, fmean(values) if values else math.nan, low, high)


def judge_own_data_predictions(contrasts: Sequence[Contrast]) -> list[WrittenPrediction]:
    """Return the predictions with their verdicts."""
    by_name = {(c.data, c.name): c for c in contrasts}
    return [_judge(p, by_name.get((p.data, p.name))) for p in PREDICTIONS]


def _judge(prediction: WrittenPrediction, contrast: Contrast | None) -> WrittenPrediction:
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
