"""Numbers and verdicts as text, for every page and table."""

from collections.abc import Mapping

__all__ = ["NO_NUMBER", "reading", "shown"]

NO_NUMBER, _MINUS = "\u2013", "\u2212"  # a dash stands where there is no number


def reading(difference: Mapping[str, float | None]) -> str:
    """Return what an interval says: "higher", "lower", or "not told apart" when it holds zero.

    Args:
        difference: with "difference", "low" and "high", in AP points.
    """
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return NO_NUMBER
    return "higher" if low > 0 else "lower" if high < 0 else "not told apart"


def shown(value: float | None, decimals: int = 1, signed: bool = False) -> str:
    """Return a number with a minus in place of the hyphen; a dash for None."""
    if value is None:
        return NO_NUMBER
    text = format(round(value, decimals) + 0.0, f"{'+' if signed else ''}.{decimals}f")
    return text.replace("-", _MINUS)
