"""The training runs of the ablations, in the order of work."""

from collections.abc import Sequence
from pathlib import Path

from mask_rcnn_ext.errors import UserError, nearest

from ..training_runs import TrainingRun, plan_runs
from .tables import COMPARISONS, SEEDED_TABLES, TABLES, VARIANTS

__all__ = ["AblationRun", "plan"]


class AblationRun(TrainingRun):
    """One training run of a variant in configs/shapes/ablations."""

    yaml_folder = "shapes/ablations"

    @property
    def form(self) -> str:
        """The form of the model: "C4", "C5" or "FPN"."""
        return self.variant.split("_")[3]


def plan(root: str | Path, tables: Sequence[str] = (), seeds: int = 3) -> list[AblationRun]:
    """Return the runs of some tables in the order of work.

    Args:
        root: the folder of all runs.
        tables: keys of `TABLES`. Empty: `SEEDED_TABLES` with `seeds` seeds, then the others with
            one seed.
        seeds: the number of seeds.

    Raises:
        UserError: a table is unknown, or `seeds` is not positive.
    """
    for table in tables:
        if table not in TABLES:
            raise UserError(
                f"--rows: expected some of {', '.join(TABLES)}, got {table!r}"
                f"{nearest(table, TABLES)}"
            )
    runs = plan_runs(AblationRun, root, _find_variants(tables or SEEDED_TABLES), seeds)
    if not tables:
        runs += plan_runs(AblationRun, root, _find_variants(tuple(TABLES)), 1)
    return list(dict.fromkeys(runs))


def _find_variants(tables: Sequence[str]) -> list[str]:
    used = {v for c in COMPARISONS if c.table in tables for v in (c.of, c.minus)}
    return [variant for variant in VARIANTS if variant in used]
