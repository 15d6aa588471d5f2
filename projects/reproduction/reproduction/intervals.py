"""The intervals in the files of results: how they are computed, and how they are shown."""

from dataclasses import dataclass

from mask_rcnn_ext.report.text import to_text

__all__ = ["BOOTSTRAP_SEED", "DRAWS", "LEVEL", "Estimate", "IntervalSettings"]

LEVEL, DRAWS, BOOTSTRAP_SEED = 0.95, 1000, 0


@dataclass(frozen=True)
class IntervalSettings:
    """The coverage of intervals, 0 to 1, and the draws and the seed of the bootstrap."""

    level: float
    bootstrap_draws: int
    bootstrap_seed: int


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval; None for a missing one."""

    value: float | None
    low: float | None
    high: float | None

    def show(self, decimals: int = 1, *, signed: bool = False) -> str:
        """Return "value [low, high]", with a dash for a missing number."""
        value = to_text(self.value, decimals, signed=signed)
        if self.low is None or self.high is None:
            return value
        low, high = (to_text(end, decimals, signed=signed) for end in (self.low, self.high))
        return f"{value} [{low}, {high}]"
