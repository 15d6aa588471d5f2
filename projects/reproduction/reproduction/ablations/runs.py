"""The ablations' training runs: which there are, and in what order."""

import json
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode

from mask_rcnn_ext.config import config_hash, load_config
from mask_rcnn_ext.errors import UserError, nearest
from mask_rcnn_ext.files import atomic_open
from mask_rcnn_ext.model_zoo import get_config_file

from ..training_runs import Progress, State, TrainingRun, train_all
from .tables import COMPARISONS, SEEDED_TABLES, TABLES, VARIANTS

__all__ = [
    "AblationRun",
    "Progress",
    "State",
    "config_hash",
    "plan",
    "train_all",
]


class AblationRun(TrainingRun):
    """One training run; a marker in its folder, `ablation.json`, says of what config it is."""

    @property
    def form(self) -> str:
        """The model's form: "C4", "C5" or "FPN"."""
        return self.variant.split("_")[3]

    @property
    def config_file(self) -> str:
        """Where the variant's yaml is."""
        return get_config_file(f"shapes/ablations/{self.variant}")

    def config(self) -> CfgNode:
        """Return the variant's config."""
        return load_config(self.config_file)

    @property
    def _marker(self) -> Path:
        return self.folder / "ablation.json"

    def written_hash(self) -> str | None:
        """Return what the marker says; see the base class."""
        if not self._marker.is_file():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise UserError(
                    f"{self.folder} is there, but is not a run of this tool (no ablation.json in "
                    "it). Move it away, or give another --output"
                )
            return None
        try:
            return str(json.loads(self._marker.read_text("utf-8"))["config_sha256"])
        except (ValueError, KeyError, TypeError):
            return ""

    def prepare(self) -> bool:
        """Write the marker, too; see the base class."""
        if super().prepare():
            return True
        content = {"variant": self.variant, "seed": self.seed, "config_sha256": self.sha256()}
        with atomic_open(self._marker, "w") as file:
            json.dump(content, file, indent=2)
        return False


def plan(root: str | Path, tables: Sequence[str] = (), seeds: int = 3) -> list[AblationRun]:
    """Return the runs of `tables` in the order of work: all variants of seed 1, then of seed 2, ...

    Args:
        root: folder of all runs.
        tables: keys of `TABLES`. Empty: `SEEDED_TABLES` with `seeds` seeds, then the others with
            one.
        seeds: how many, from seed 1.

    Raises:
        UserError: an unknown table, or no seed.
    """
    for table in tables:
        if table not in TABLES:
            raise UserError(
                f"--rows: expected some of {', '.join(TABLES)}, got {table!r}"
                f"{nearest(table, TABLES)}"
            )
    if seeds < 1:
        raise UserError(f"--seeds: expected 1 or more, got {seeds}")
    pairs = [(v, seed) for seed in range(1, seeds + 1) for v in _variants(tables or SEEDED_TABLES)]
    if not tables:
        pairs += [(variant, 1) for variant in _variants(tuple(TABLES))]
    return [AblationRun.under(root, variant, seed) for variant, seed in dict.fromkeys(pairs)]


def _variants(tables: Sequence[str]) -> list[str]:
    used = {v for c in COMPARISONS if c.table in tables for v in (c.of, c.minus)}
    return [variant for variant in VARIANTS if variant in used]
