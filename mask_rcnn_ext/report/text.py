"""Numbers and verdicts as text, for every page and table."""

import math

__all__ = ["NO_NUMBER", "judge_interval", "to_text"]

NO_NUMBER, _MINUS = "\u2013", "\u2212"  # a dash stands where there is no number


def judge_interval(low: float | None, high: float | None, neutral: float = 0) -> str:
    """Return the verdict of a difference's interval: "higher", "lower", or "not told apart".

    An interval that holds `neutral`, 1 for a ratio, does not tell the two apart. Without an
    interval, return a dash.
    """
    if low is None or high is None or math.isnan(low):
        return NO_NUMBER
    return "higher" if low > neutral else "lower" if high < neutral else "not told apart"


def to_text(value: float | None, decimals: int = 1, signed: bool = False) -> str:
    """Return a number with a minus in place of the hyphen; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return NO_NUMBER
    text = format(round(value, decimals) + 0.0, f"{'+' if signed else ''}.{decimals}f")
    return text.replace("-", _MINUS)
