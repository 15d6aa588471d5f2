"""How the intervals in the files of results are computed."""

from dataclasses import dataclass

__all__ = ["BOOTSTRAP_SEED", "DRAWS", "LEVEL", "IntervalSettings"]

LEVEL, DRAWS, BOOTSTRAP_SEED = 0.95, 1000, 0


@dataclass(frozen=True)
class IntervalSettings:
    """The coverage of intervals, 0 to 1, and the draws and the seed of the bootstrap."""

    level: float
    bootstrap_draws: int
    bootstrap_seed: int
