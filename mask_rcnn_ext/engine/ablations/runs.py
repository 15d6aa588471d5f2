"""Training what is not trained yet: each run in a folder of its own, skipped, resumed or redone."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detectron2.config import CfgNode

from ...atomic import atomic_open
from ...config import get_cfg, load_config
from ...errors import UserError, nearest
from ...model_zoo import get_config_file
from .tables import COMPARISONS, SEEDED_TABLES, TABLES, VARIANTS

__all__ = [
    "AblationRun",
    "Progress",
    "State",
    "config_hash",
    "flat_config",
    "plan",
    "train_all",
]

logger = logging.getLogger(__name__)

State = Literal["done", "interrupted", "stale", "left"]


def flat_config(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key with dots, value) of every key."""
    for key, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from flat_config(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def config_hash(cfg: CfgNode, seed: int) -> str:
    """Return the SHA-256 of what a run with `seed` does.

    It is of the keys that are not at their default, without `OUTPUT_DIR`: a key that a later
    version adds leaves the runs valid.
    """
    defaults = dict(flat_config(get_cfg()))
    changed = {key: value for key, value in flat_config(cfg) if value != defaults.get(key)}
    changed.update(SEED=seed)
    changed.pop("OUTPUT_DIR", None)
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class AblationRun:
    """One training run: a variant, a seed, and the folder of its output."""

    variant: str
    seed: int
    folder: Path

    @classmethod
    def under(cls, root: str | Path, variant: str, seed: int) -> "AblationRun":
        """Return the run whose folder is `<root>/<variant>/seed<seed>`."""
        return cls(variant, seed, Path(root) / variant / f"seed{seed}")

    @property
    def title(self) -> str:
        """Name the run in a line of text."""
        return f"{self.variant} seed {self.seed}"

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

    def results(self) -> dict[str, Any] | None:
        """Return the run's `results.json`; None when it is not there or is of no evaluation."""
        try:
            content = json.loads((self.folder / "results.json").read_text("utf-8"))
            return content if content["bbox"] and content["run"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def state(self) -> State:
        """Tell how far the run is. "stale": it is of another config than the yaml is now.

        Raises:
            UserError: the folder holds something else.
        """
        if not self._marker.is_file():
            if self.folder.exists() and any(self.folder.iterdir()):
                raise UserError(
                    f"{self.folder} is there, but is not a run of this tool (no ablation.json in "
                    "it). Move it away, or give another --output"
                )
            return "left"
        try:
            written = json.loads(self._marker.read_text("utf-8"))["config_sha256"]
        except (ValueError, KeyError, TypeError):
            written = ""
        if written != config_hash(self.config(), self.seed):
            return "stale"
        if self.results() is not None:
            return "done"
        return "interrupted" if (self.folder / "last_checkpoint").is_file() else "left"

    def discard_checkpoints(self) -> None:
        """Delete the checkpoints that a finished run has no use for; `model_final.pth` stays."""
        for path in self.folder.glob("model_[0-9]*.pth"):
            path.unlink()

    def prepare(self) -> bool:
        """Make the folder ready for training; return whether to resume.

        What an older config, or a start without a checkpoint, left there is deleted.
        """
        if self.state() == "interrupted":
            return True
        if self._marker.is_file():
            shutil.rmtree(self.folder)
        content = {
            "variant": self.variant,
            "seed": self.seed,
            "config_sha256": config_hash(self.config(), self.seed),
        }
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


class Progress:
    """What is done of a plan, what is left, and about how long that takes."""

    def __init__(self, runs: Sequence[AblationRun]) -> None:
        """Look at the folders of `runs`.

        Raises:
            UserError: one holds something else than a run.
        """
        self.runs = list(runs)
        self.states = {run: run.state() for run in self.runs}

    @property
    def todo(self) -> list[AblationRun]:
        """The runs that are not done, in the order of work."""
        return [run for run in self.runs if self.states[run] != "done"]

    def update(self, run: AblationRun) -> None:
        """Look at a run's folder again."""
        self.states[run] = run.state()

    def seconds(self, run: AblationRun) -> float | None:
        """Return what a finished run took, about what another takes, None when nothing tells.

        Finished runs of the same variant tell best, then those of its form (C4, C5, FPN), then all.
        """
        took = {done: _seconds(done) for done, state in self.states.items() if state == "done"}
        if run in took:
            return took[run]
        for alike in (
            lambda other: other.variant == run.variant,
            lambda other: other.form == run.form,
            lambda other: True,
        ):
            if found := [seconds for other, seconds in took.items() if alike(other)]:
                return sum(found) / len(found)
        return None

    def table(self) -> str:
        """Return the runs as lines of text, in the order of work, and the summary."""
        width = max(len(run.variant) for run in self.runs)
        lines = []
        for run, state in self.states.items():
            about, seconds = "  " if state == "done" else "~ ", self.seconds(run)
            time = "" if seconds is None else f"{about}{seconds:5.0f} s"
            lines.append(f"{run.variant:{width}}  seed {run.seed}  {state:11}  {time}".rstrip())
        return "\n".join([*lines, self.summary()])

    def summary(self) -> str:
        """Return one line: how many are done and left, and about how long the rest takes."""
        estimates = [self.seconds(run) for run in self.todo]
        known = [seconds for seconds in estimates if seconds is not None]
        text = f"{len(self.runs) - len(estimates)} of {len(self.runs)} runs done"
        if not estimates:
            return text
        if not known:
            return f"{text}; how long one takes here is not known yet"
        return f"{text}, about {sum(known) / 60:.0f} min left"


def _seconds(run: AblationRun) -> float:
    info = (run.results() or {}).get("run", {})
    return sum(float(info.get(key) or 0.0) for key in ("train_seconds", "eval_seconds"))


def train_all(
    progress: Progress,
    train: Callable[[AblationRun, bool], int],
    after_each: Callable[[], object],
) -> None:
    """Train the runs that are not done, one at a time, in the order of work.

    A run that fails does not stop the others.

    Args:
        progress: of the runs; kept up to date.
        train: trains a run in its folder; told whether to resume; returns an exit code.
        after_each: called after every run that ended well.

    Raises:
        UserError: at the end, which runs failed and where they say why.
    """
    failed: list[AblationRun] = []
    for run in progress.todo:
        resume = run.prepare()
        logger.info("%s%s ...", run.title, ", resumed" if resume else "")
        code = train(run, resume)
        progress.update(run)
        if code or progress.states[run] != "done":
            logger.error("%s failed (exit code %d)", run.title, code)
            failed.append(run)
            continue
        run.discard_checkpoints()
        after_each()
        logger.info("%s took %.0f s. %s", run.title, _seconds(run), progress.summary())
    if failed:
        raise UserError(
            f"{len(failed)} of the runs failed: {', '.join(run.title for run in failed)}. The file "
            f"console.txt in the folder of each says why, {failed[0].folder} first; run the same "
            "command again when that is mended"
        )
