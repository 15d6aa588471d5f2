"""What the comparison over seeds answers, in rows and sentences, for the page and the Markdown."""

from collections.abc import Mapping
from typing import Any

from ..overlap.comparison import METRICS
from .text import NO_NUMBER, shown

__all__ = ["AnswerRow", "answer_rows", "lattice_rows", "sentences"]

AnswerRow = tuple[str, str, str, str, str, str]

_LABELS = {
    "overlap_loss": "AP lost from no overlap to heavy",
    "relative_overlap_loss": "the same, in % of the AP without overlap",
}


def _interval(entry: Mapping[str, Any], decimals: int = 1, signed: bool = False) -> str:
    """Return "[low, high]"; an upper end that is None, where low is not, is endless."""
    low, high = entry["low"], entry["high"]
    if low is None:
        return NO_NUMBER
    end = "\u221e" if high is None else shown(high, decimals, signed)
    return f"[{shown(low, decimals, signed)}, {end}]"


def _label(name: str, metric: str | None) -> tuple[str, int]:
    """Return an answer's label, and how many decimals its numbers have."""
    if metric is None or name in _LABELS:
        return _LABELS[name], 1
    about = METRICS[metric]
    return f"{about.label}, {about.unit}", 1 if about.unit == "%" else 3


def answer_rows(content: Mapping[str, Any]) -> list[AnswerRow]:
    """Return (label, first model, second, difference, interval, whether it excludes zero) of each.

    Args:
        content: of `fcis_comparison.json`.
    """
    answers = content["answers"]
    order = ["overlap_loss", "relative_overlap_loss"]
    order += [name for name in answers if name not in order]
    rows = []
    for name in order:
        entry = answers[name]
        label, decimals = _label(name, entry.get("metric"))
        said = {True: "yes", False: "no", None: NO_NUMBER}[entry["excludes_zero"]]
        rows.append(
            (
                label,
                shown(entry["a"], decimals),
                shown(entry["b"], decimals),
                shown(entry["difference"], decimals, signed=True),
                _interval(entry, decimals, signed=True),
                said,
            )
        )
    return rows


def lattice_rows(content: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Return (contour, share in %, chance in %, share / chance, line / neighbours) of both models.

    Args:
        content: of `fcis_comparison.json`.
    """
    first, second = content["names"]
    rows = []
    for side, title in (("a", first), ("b", f"{second}, before voting")):
        for prefix, what in (("", "spurious contour"), ("seams/", "straight seams")):
            found = content["lattice"][side]
            share, chance = (found[prefix + key]["value"] for key in ("share", "chance"))
            ratios = (found[prefix + key] for key in ("ratio", "density_ratio"))
            ratio, density = (
                NO_NUMBER if r["value"] is None else f"{shown(r['value'], 2)} {_interval(r, 2)}"
                for r in ratios
            )
            shares = (shown(_percent(share)), shown(_percent(chance)))
            rows.append((f"{title}, {what}", *shares, ratio, density))
    return rows


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def sentences(content: Mapping[str, Any]) -> list[str]:
    """Return the answers in words: loss by overlap, straight seams, the lattice.

    Args:
        content: of `fcis_comparison.json`.
    """
    return [_loss(content), _seams(content), _lattice(content)]


def _verdict(excludes: bool | None, value: str) -> str:
    """Return in words whether an interval excludes the value that says "no difference"."""
    if excludes is None:
        return "there is no interval"
    return f"the interval {'excludes' if excludes else 'includes'} {value}"


def _difference(content: Mapping[str, Any], entry: Mapping[str, Any], unit: str) -> str:
    first, second = content["names"]
    return (
        f"{first} minus {second}: {shown(entry['difference'], signed=True)}{unit} "
        f"{_interval(entry, signed=True)}; {_verdict(entry['excludes_zero'], 'zero')}."
    )


def _loss(content: Mapping[str, Any]) -> str:
    first, second = content["names"]
    loss, relative = (content["answers"][k] for k in ("overlap_loss", "relative_overlap_loss"))
    return (
        f"From no overlap to heavy overlap, {first} loses {shown(loss['a'])} AP "
        f"({shown(relative['a'])} % of its AP) and {second} {shown(loss['b'])} AP "
        f"({shown(relative['b'])} %). {_difference(content, loss, ' AP')} Relative to the AP "
        f"without overlap, {_difference(content, relative, ' points')}"
    )


def _seams(content: Mapping[str, Any]) -> str:
    first, second = content["names"]
    seams = content["answers"]["seam_share"]
    ratio = seams["ratio_b_to_a"]
    times = ""
    if ratio["value"] is not None:
        times = f", {shown(ratio['value'], 2)} times as often {_interval(ratio, 2)}"
    return (
        f"{first} draws a straight seam in {shown(seams['a'])} % of the matched pairs whose boxes "
        f"meet and {second} in {shown(seams['b'])} %{times}. "
        f"{_difference(content, seams, ' points')}"
    )


def _lattice(content: Mapping[str, Any]) -> str:
    first, second = content["names"]
    k = content["settings"]["lattice_bins"]
    a, b = (content["lattice"][side] for side in ("a", "b"))
    if b["ratio"]["value"] is None:
        return f"{second} has no spurious contour before voting to hold against its lattice."
    ratio, density = (_verdict(b["excludes_one"][name], "1") for name in ("ratio", "density_ratio"))
    return (
        f"Before voting, {shown(_percent(b['share']['value']))} % of {second}'s spurious contour "
        f"lies on the k = {k} lattice lines of its RoI, and "
        f"{shown(_percent(b['chance']['value']))} % would by chance: {_times(b['ratio'])}; "
        f"{ratio}. A lattice line has "
        f"{_times(b['density_ratio'])} as a line beside it, which is a side of the mask's cells "
        f"and none between score maps; {density}. "
        f"{first}, whose masks have a grid of their own with these lines in it: "
        f"{_times(a['ratio'])} as by chance, {_times(a['density_ratio'])} as the lines beside."
    )


def _times(ratio: Mapping[str, Any]) -> str:
    return f"{shown(ratio['value'], 2)} times as much {_interval(ratio, 2)}"
