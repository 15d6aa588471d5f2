"""Numbers and verdicts as text, for every page and table."""

import math
import unicodedata

__all__ = ["NO_NUMBER", "isolate", "judge_interval", "to_text"]

NO_NUMBER, _MINUS = "\u2013", "\u2212"  # a dash stands where there is no number


def isolate(name: str) -> str:
    """Return a name as text that does not change the order of the words and numbers around it.

    Names in Arabic or Hebrew get the marks U+2068 and U+2069, which are not visible. Without them,
    "2 x A, 3 x B" is shown as "2 x B x 3, A".
    """
    turned = any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in name)
    return f"\u2068{name}\u2069" if turned else name


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
