"""The changes in testing as rows and sentences, for the docs and for the page."""

from collections.abc import Callable, Mapping
from operator import attrgetter, methodcaller

from ..intervals import Estimate
from .contrasts import FCIS, RIVAL
from .experiment_results import MISSING, ChangeRow, ExperimentResults
from .inference_changes import PLAIN, name_copies
from .predictions import Claim, Expected, Prediction, summarize_predictions

__all__ = ["CHANGES_HEADER", "CHANGES_NOTE", "describe_changes", "make_change_rows"]

CHANGES_HEADER = (
    *("model", "change in testing", "same-part error", "minus unchanged", "preference for g/k"),
    *("minus unchanged", "axis excess", "right masks, %", "minus unchanged"),
)
CHANGES_NOTE = (
    "The trained models are changed in testing only. The masks are those in the true boxes. The "
    "same-part error is for pairs of one class, in points, with the model's own k. Right masks: "
    "the share of masks with an IoU of at least a threshold, averaged over COCO's ten thresholds. "
    "PSROIAlign: this layer replaces PSROIPool. Soft parts: each cell blends the maps of "
    "neighbouring parts. Nine copies: the mean over boxes shifted by up to a third of a part."
)
_read_error = attrgetter("error")
_read_added_error = methodcaller("find_change", "error")
_read_added_lines = methodcaller("find_change", "lines")
_NUMBERS = (5, 6, 8)  # of the predictions in Base-Nested.yaml that are measured


def make_change_rows(results: ExperimentResults) -> list[tuple[str, ...]]:
    """Return one row for each model, k and change; none if they were not measured."""
    rows = []
    for row in results.changes or ():
        cells = [row.error.show(signed=True), _show_change(row, "error", 1)]
        cells += [row.lines.show(2), _show_change(row, "lines", 2), row.excess.show(2)]
        cells += [row.right.show(), _show_change(row, "right", 1)]
        name = row.model if row.variant != RIVAL else f"{row.model}, k = {row.k}"
        rows.append((name, row.change.split(",")[0], *cells))
    return rows


def _show_change(row: ChangeRow, what: str, decimals: int) -> str:
    return "" if row.change == PLAIN else row.find_change(what).show(decimals, signed=True)


def describe_changes(results: ExperimentResults) -> list[str]:
    """Return sentences: which predictions came true, and which changes remove the effect."""
    if not results.changes:
        return ["Changes in testing have not been measured yet."]
    return [
        *summarize_predictions(_judge(results), _NUMBERS),
        *(
            _conclude(results, *words, {k: name or name_copies(k) for k in FCIS})
            for name, *words in (
                ("PSROIAlign", "PSROIAlign removes", "PSROIAlign does not remove"),
                ("soft parts", "Soft parts remove", "Soft parts do not remove"),
                ("", "Nine copies remove", "Nine copies do not remove"),
            )
        ),
    ]


def _find(
    results: ExperimentResults,
    variant: str,
    k: int,
    change: str,
    read: Callable[[ChangeRow], Estimate | None],
) -> Estimate:
    """Return the number that `read` takes from a row; `MISSING` without the row or the number."""
    for row in results.changes or ():
        if (row.variant, row.k, row.change) == (variant, k, change):
            return read(row) or MISSING
    return MISSING


def _judge(results: ExperimentResults) -> list[Prediction]:
    """Return the predictions on changes, in the order of the config."""

    def claims(
        change: str,
        read: Callable[[ChangeRow], Estimate | None],
        expected: Expected,
        text: str,
        in_points: bool = True,
    ) -> list[Claim]:
        found = []
        for k, variant in FCIS.items():
            estimate = _find(results, variant, k, change or name_copies(k), read)
            subject = f"FCIS, k = {k}, {text.format(k=k)}"
            found.append(Claim(subject, expected, 0, estimate, in_points))
        return found

    copies = [
        Claim(
            f"Mask R-CNN, k = {k}, change of the same-part error",
            "within one of",
            0,
            _find(results, RIVAL, k, name_copies(k), _read_added_error),
        )
        for k in FCIS
    ]
    error, lines = "change of the same-part error", "change of the preference for g/{k}"
    stays, rival = "same-part error", "preference for g/{k} minus Mask R-CNN's"
    return [
        Prediction(
            "With PSROIAlign instead of PSROIPool, the same-part error and the preference for g/k "
            "stay.",
            [
                *claims("PSROIAlign", _read_added_error, "equal", error),
                *claims("PSROIAlign", _read_added_lines, "equal", lines, False),
            ],
        ),
        Prediction(
            "With the mean of nine copies, the preference for g/k falls. The same-part error falls "
            "but stays above zero. Mask R-CNN's same-part error changes by less than one point.",
            [
                *claims("", _read_added_lines, "below", lines, False),
                *claims("", _read_added_error, "below", error),
                *claims("", _read_error, "above", stays),
                *copies,
            ],
        ),
        Prediction(
            "With soft parts, the preference for g/k falls to Mask R-CNN's. The same-part error "
            "falls but stays above zero.",
            [
                *claims("soft parts", attrgetter("lines_minus_rival"), "not above", rival, False),
                *claims("soft parts", _read_added_error, "below", error),
                *claims("soft parts", _read_error, "above", stays),
            ],
        ),
    ]


def _conclude(
    results: ExperimentResults, removes: str, fails: str, names: Mapping[int, str]
) -> str:
    """Return whether a change removes the effect, by the rule of Base-Nested.yaml."""
    errors, rights = (
        [_find(results, FCIS[k], k, name, read) for k, name in names.items()]
        for read in (_read_error, methodcaller("find_change", "right"))
    )
    shown = [
        " and ".join(estimate.show(signed=True) for estimate in estimates)
        for estimates in (errors, rights)
    ]
    ends = [(e.low, r.high) for e, r in zip(errors, rights, strict=True)]
    gone = all(low is not None and high is not None and low <= 0 <= high for low, high in ends)
    return (
        f"{removes if gone else fails} the effect. With k = 7 and k = 3, the same-part error is "
        f"{shown[0]} points, and the share of right masks changes by {shown[1]} points."
    )
