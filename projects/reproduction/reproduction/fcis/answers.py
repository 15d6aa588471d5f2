"""The answers of the comparison over seeds, in rows and in words."""

from mask_rcnn_ext.report.comparison_page import Difference, format_interval, label_metric
from mask_rcnn_ext.report.text import NO_NUMBER, to_text

from .results import Answer, ComparisonResults

__all__ = ["bracket_difference", "describe_loss", "make_answer_rows"]

_LABELS = {
    "overlap_loss": "AP lost from no overlap to heavy",
    "relative_overlap_loss": "the same, in % of the AP without overlap",
}


def make_answer_rows(results: ComparisonResults) -> list[tuple[str, ...]]:
    """Return (label, first model, second, difference, interval, "yes" if it excludes zero)."""
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys([*_LABELS, *results.answers]):
        answer = results.answers[name]
        rows.append(
            (
                _LABELS[name] if name in _LABELS else label_metric(answer.metric or name),
                to_text(answer.a),
                to_text(answer.b),
                to_text(answer.difference, signed=True),
                bracket_difference(answer),
                {True: "yes", False: "no", None: NO_NUMBER}[answer.excludes_zero],
            )
        )
    return rows


def bracket_difference(answer: Difference) -> str:
    """Return "[low, high]"; a dash without an interval."""
    return format_interval(answer, "[{}, {}]") or NO_NUMBER


def describe_loss(results: ComparisonResults) -> str:
    """Return in words how much AP the models lose by overlap."""
    first, second = results.names
    loss, relative = (results.answers[k] for k in ("overlap_loss", "relative_overlap_loss"))
    return (
        f"From no overlap to heavy overlap, {first} loses {to_text(loss.a)} AP "
        f"({to_text(relative.a)} % of its AP), and {second} loses {to_text(loss.b)} AP "
        f"({to_text(relative.b)} %). {_describe_difference(results, loss, ' AP')} Relative to the "
        f"AP without overlap, {_describe_difference(results, relative, ' points')}"
    )


def _describe_difference(results: ComparisonResults, answer: Answer, unit: str) -> str:
    first, second = results.names
    verdict = {
        True: "the interval excludes zero",
        False: "the interval includes zero",
        None: "there is no interval",
    }[answer.excludes_zero]
    return (
        f"{first} minus {second} is {to_text(answer.difference, signed=True)}{unit} "
        f"{bracket_difference(answer)}: {verdict}."
    )
