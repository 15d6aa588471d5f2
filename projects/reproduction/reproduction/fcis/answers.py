"""The answers of the comparison over seeds, in rows and sentences."""

from mask_rcnn_ext.report.comparison_page import Difference, describe_metric, format_interval
from mask_rcnn_ext.report.text import NO_NUMBER, to_text

from .results import Answer, ComparisonResults, Estimate

__all__ = ["bracket_difference", "describe_answers", "make_answer_rows", "make_lattice_rows"]

_LABELS = {
    "overlap_loss": "AP lost from no overlap to heavy",
    "relative_overlap_loss": "the same, in % of the AP without overlap",
}


def make_answer_rows(results: ComparisonResults) -> list[tuple[str, ...]]:
    """Return (label, first model, second, difference, interval, "yes" if it excludes zero)."""
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys([*_LABELS, *results.answers]):
        answer = results.answers[name]
        if name in _LABELS or answer.metric is None:
            label, decimals = _LABELS[name], 1
        else:
            label, decimals = describe_metric(answer.metric)
        rows.append(
            (
                label,
                to_text(answer.a, decimals),
                to_text(answer.b, decimals),
                to_text(answer.difference, decimals, signed=True),
                bracket_difference(answer, decimals),
                {True: "yes", False: "no", None: NO_NUMBER}[answer.excludes_zero],
            )
        )
    return rows


def make_lattice_rows(results: ComparisonResults) -> list[tuple[str, ...]]:
    """Return (contour, share in %, chance in %, share / chance, line / neighbours)."""
    first, second = results.names
    rows = []
    for side, title in (
        (results.lattice.a, first),
        (results.lattice.b, f"{second}, before voting"),
    ):
        seams = (side.seam_share, side.seam_chance, side.seam_ratio, side.seam_density_ratio)
        for what, share, chance, ratio, density in (
            ("spurious contour", side.share, side.chance, side.ratio, side.density_ratio),
            ("straight seams", *seams),
        ):
            ratios = [
                NO_NUMBER if r.value is None else f"{to_text(r.value, 2)} {_bracket_estimate(r)}"
                for r in (ratio, density)
            ]
            rows.append((f"{title}, {what}", _percent(share), _percent(chance), *ratios))
    return rows


def bracket_difference(answer: Difference, decimals: int = 1) -> str:
    """Return "[low, high]"; a dash without an interval."""
    return format_interval(answer, decimals, "[{}, {}]") or NO_NUMBER


def _bracket_estimate(estimate: Estimate) -> str:
    """Return "[low, high]"; an upper end that is None, where low is not, is endless."""
    if estimate.low is None:
        return NO_NUMBER
    high = "\u221e" if estimate.high is None else to_text(estimate.high, 2)
    return f"[{to_text(estimate.low, 2)}, {high}]"


def _percent(estimate: Estimate) -> str:
    return to_text(None if estimate.value is None else 100 * estimate.value)


def describe_answers(results: ComparisonResults) -> list[str]:
    """Return the answers in words: loss by overlap, straight seams, the lattice."""
    return [_describe_loss(results), _describe_seams(results), _describe_lattice(results)]


def _verdict(excludes: bool | None, value: str) -> str:
    """Return in words whether an interval excludes the value that says "no difference"."""
    if excludes is None:
        return "there is no interval"
    return f"the interval {'excludes' if excludes else 'includes'} {value}"


def _describe_difference(results: ComparisonResults, answer: Answer, unit: str) -> str:
    first, second = results.names
    return (
        f"{first} minus {second}: {to_text(answer.difference, signed=True)}{unit} "
        f"{bracket_difference(answer)}; {_verdict(answer.excludes_zero, 'zero')}."
    )


def _describe_loss(results: ComparisonResults) -> str:
    first, second = results.names
    loss, relative = (results.answers[k] for k in ("overlap_loss", "relative_overlap_loss"))
    return (
        f"From no overlap to heavy overlap, {first} loses {to_text(loss.a)} AP "
        f"({to_text(relative.a)} % of its AP) and {second} {to_text(loss.b)} AP "
        f"({to_text(relative.b)} %). {_describe_difference(results, loss, ' AP')} Relative to the "
        f"AP without overlap, {_describe_difference(results, relative, ' points')}"
    )


def _describe_seams(results: ComparisonResults) -> str:
    first, second = results.names
    seams = results.answers["seam_share"]
    ratio, times = seams.ratio_b_to_a, ""
    if ratio is not None and ratio.value is not None:
        times = f", {to_text(ratio.value, 2)} times as often {_bracket_estimate(ratio)}"
    return (
        f"{first} draws a straight seam in {to_text(seams.a)} % of the matched pairs whose boxes "
        f"meet and {second} in {to_text(seams.b)} %{times}. "
        f"{_describe_difference(results, seams, ' points')}"
    )


def _describe_lattice(results: ComparisonResults) -> str:
    first, second = results.names
    a, b = results.lattice.a, results.lattice.b
    if b.ratio.value is None:
        return f"{second} has no spurious contour before voting to hold against its lattice."
    ratio, density = (_verdict(b.excludes_one[name], "1") for name in ("ratio", "density_ratio"))
    return (
        f"Before voting, {_percent(b.share)} % of {second}'s spurious contour "
        f"lies on the k = {results.settings.lattice_bins} lattice lines of its RoI, and "
        f"{_percent(b.chance)} % would by chance: {_times(b.ratio)}; "
        f"{ratio}. A lattice line has "
        f"{_times(b.density_ratio)} as a line beside it, which is a side of the mask's cells "
        f"and none between score maps; {density}. "
        f"{first}, whose masks have a grid of their own with these lines in it: "
        f"{_times(a.ratio)} as by chance, {_times(a.density_ratio)} as the lines beside."
    )


def _times(ratio: Estimate) -> str:
    return f"{to_text(ratio.value, 2)} times as much {_bracket_estimate(ratio)}"
