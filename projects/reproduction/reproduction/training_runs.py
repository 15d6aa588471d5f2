"""Training runs of the experiments, one folder each: planned, trained, compared by config."""

import argparse
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from detectron2.config import CfgNode

from mask_rcnn_ext.child_processes import run_command
from mask_rcnn_ext.config import config_hash, flat_config, load_config
from mask_rcnn_ext.errors import UserError, require_range
from mask_rcnn_ext.files import read_json_or_none, require_writable, write_json
from mask_rcnn_ext.model_zoo import get_config_file
from mask_rcnn_ext.run_files import holds_run, set_aside
from mask_rcnn_ext.steps import Step, run_step

__all__ = [
    "FILLED_IN",
    "REPO",
    "TrainingProgress",
    "TrainingRun",
    "find_differences",
    "plan_runs",
    "read_run_config",
    "require_complete",
    "train_all",
    "train_as_asked",
]

logger = logging.getLogger(__name__)

REPO = Path(__file__).resolve().parents[3]

# Keys that are filled in when a run starts: they follow from the data and the machine.
FILLED_IN = ("MASK_RCNN_EXT.CLASS_NAMES", "MASK_RCNN_EXT.CATEGORY_IDS", "MODEL.DEVICE")

# The files of a run that was stopped before it wrote its config.
_FIRST_FILES = {"console.txt", "log.txt", "inputs.json", "ablation.json"}

_Run = TypeVar("_Run", bound="TrainingRun")


@dataclass(frozen=True)
class TrainingRun(Step):
    """One training run: a variant, a seed, and the folder of its output.

    The `config.yaml` that `train_net.py` writes is the record of the run, so a run that was started
    by hand in the same folder also counts. `inputs.json` contains the checksums of other inputs, if
    there are any.

    Attributes:
        yaml_folder: the folder of the variants' yamls in `configs/`.
        evaluations: folders of further evaluations, below the folder of the run.
    """

    variant: str
    seed: int
    folder: Path

    yaml_folder: ClassVar[str] = "shapes"
    evaluations: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def under(cls: type[_Run], root: str | Path, variant: str, seed: int, **fields: Any) -> _Run:
        """Return the run whose folder is `<root>/<variant>/seed<seed>`, with its other fields."""
        return cls(variant, seed, Path(root) / variant / f"seed{seed}", **fields)

    @property
    def title(self) -> str:  # type: ignore[override]  # `Step` assigns it
        """The run's name in a line of text."""
        return f"{self.variant} seed {self.seed}"

    @property
    def form(self) -> str:
        """A name that variants share if they take about as long."""
        return self.variant

    @property
    def config_file(self) -> str:
        """The path of the variant's yaml."""
        return get_config_file(f"{self.yaml_folder}/{self.variant}")

    def config(self) -> CfgNode:
        """Return the variant's config."""
        return load_config(self.config_file)

    @property
    def filled_in(self) -> tuple[str, ...]:
        """Keys that do not make a run stale: they follow from the data, the machine, the folder."""
        return FILLED_IN

    def find_other_inputs(self) -> dict[str, Any]:
        """Return the checksums of the run's input files, without its config."""
        return {}

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`."""
        return {"config_sha256": self._hash(self.config(), self.seed), **self.find_other_inputs()}

    def sha256(self) -> str:
        """Return one hash of the inputs, for the file of results."""
        inputs = self.find_inputs()
        config = str(inputs.pop("config_sha256"))
        if not inputs:
            return config
        return hashlib.sha256(json.dumps([config, inputs], sort_keys=True).encode()).hexdigest()

    def _hash(self, cfg: CfgNode, seed: int) -> str:
        return config_hash(cfg, seed, self.filled_in)

    def read_record(self) -> dict[str, Any] | None:
        """See `Step`.

        Raises:
            UserError: the folder contains something else.
        """
        if not holds_run(self.folder, _FIRST_FILES):
            return None
        cfg = read_run_config(self.folder / "config.yaml")
        if cfg is None:
            return {}
        inputs = read_json_or_none(str(self.folder / "inputs.json")) or {}
        return {"config_sha256": self._hash(cfg, cfg.SEED), **inputs}

    def results(self) -> dict[str, Any] | None:
        """Return the run's `results.json`; None if it is missing or has no evaluation."""
        content = read_json_or_none(str(self.folder / "results.json"))
        complete = isinstance(content, dict) and content.get("bbox") and content.get("run")
        return content if complete else None

    @property
    def predictions(self) -> Path:
        """The run's result file."""
        return self.find_predictions(self.folder)

    def find_predictions(self, folder: Path) -> Path:
        """Return the path of the result file of an evaluation whose `OUTPUT_DIR` is `folder`."""
        name = self.config().DATASETS.TEST[0]
        return folder / "inference" / name / "coco_instances_results.json"

    @property
    def measured_files(self) -> list[Path]:
        """The files of a finished run that a report reads."""
        return [self.folder / "results.json", self.predictions]

    def is_complete(self) -> bool:
        """See `Step`."""
        return self.results() is not None

    def is_resumable(self) -> bool:
        """See `Step`."""
        return (self.folder / "last_checkpoint").is_file()

    def start(self, resume: bool) -> None:
        """See `Step`; moves the files of an older config, or of a run without a checkpoint, aside.

        Raises:
            UserError: the folder contains something else, or cannot be written.
        """
        if resume:
            return
        self.read_record()  # raises if the folder contains something else
        set_aside(self.folder, {*_FIRST_FILES, *self.evaluations})
        require_writable(self.folder)
        if inputs := self.find_other_inputs():
            write_json(str(self.folder / "inputs.json"), inputs)

    def command(self, resume: bool) -> list[str]:
        """Return the script, relative to the checkout, that trains the run, and its arguments."""
        options = ["--config-file", self.config_file, *(["--resume"] if resume else [])]
        return ["train_net.py", *options, "OUTPUT_DIR", str(self.folder), "SEED", str(self.seed)]

    def train(self, resume: bool) -> int:
        """Train in a new process, whose output goes to `console.txt`; return its exit code."""
        script, *options = self.command(resume)
        command = [sys.executable, str(REPO / script), *options]
        return run_command(command, self.folder / "console.txt")

    def make(self, resume: bool) -> None:
        """See `Step`.

        Raises:
            UserError: the training failed.
        """
        code = self.train(resume)
        if code or self.state() != "done":
            raise UserError(f"{self.title} failed (exit code {code})")

    def finish(self) -> None:
        """Delete the checkpoints that a finished run does not need; `model_final.pth` stays."""
        for path in self.folder.glob(f"model_{'[0-9]' * 7}.pth"):
            path.unlink()


def read_run_config(path: Path) -> CfgNode | None:
    """Return a run's config; None if there is none, or if this version cannot read it."""
    try:
        return load_config(str(path))
    except UserError:
        return None


def plan_runs(
    kind: type[_Run], root: str | Path, variants: Iterable[str], seeds: int, **fields: Any
) -> list[_Run]:
    """Return runs in the order of work: all variants with seed 1, then with seed 2, ...

    The other fields are the same for all runs.

    Raises:
        UserError: `seeds` is not positive.
    """
    require_range("--seeds", seeds, 1)
    variants = list(variants)
    return [kind.under(root, v, seed, **fields) for seed in range(1, seeds + 1) for v in variants]


def require_complete(steps: Iterable[Step]) -> None:
    """Check that every step is done.

    Raises:
        UserError: some are not; the message names them.
    """
    states = {step.title: step.state() for step in steps}
    missing = [f"{title} ({state})" for title, state in states.items() if state != "done"]
    if missing:
        raise UserError(
            f"the report needs runs that are not finished: {', '.join(missing)}. Leave out "
            "--only-report to make them, or give the --output and --seeds of finished runs"
        )


def find_differences(
    configs: Mapping[str, CfgNode], *, same: Sequence[str], ignored: Sequence[str] = (), base: str
) -> dict[str, dict[str, Any]]:
    """Return each key in which configs differ: key -> {variant: value}.

    Args:
        configs: variant -> config.
        same: beginnings of the keys in which the configs must not differ.
        ignored: other keys that are left out, as `OUTPUT_DIR` is.
        base: the yaml that sets the keys that must be the same, for the message.

    Raises:
        UserError: the configs differ in one of these keys.
    """
    flat = {variant: dict(flat_config(cfg)) for variant, cfg in configs.items()}
    differing = {}
    for key, first in next(iter(flat.values())).items():
        values = {variant: keys[key] for variant, keys in flat.items()}
        if key not in ("OUTPUT_DIR", *ignored) and any(v != first for v in values.values()):
            differing[key] = values
    for key in differing:
        if key.startswith(tuple(same)):
            found = ", ".join(f"{value!r} in {name}" for name, value in differing[key].items())
            raise UserError(f"the comparison is unfair: {key} is {found}. Set it in {base}")
    return differing


class TrainingProgress(Generic[_Run]):
    """Which runs of a plan are done, which are left, and about how long these take."""

    def __init__(self, runs: Sequence[_Run]) -> None:
        """Look at the folders of `runs`.

        Raises:
            UserError: a folder contains something other than a run.
        """
        self.runs = list(runs)
        self.states = {run: run.state() for run in self.runs}

    def seconds(self, run: _Run) -> float | None:
        """Return the time of a finished run, or an estimate; None without a basis for one.

        Finished runs of the same variant are the best basis, then runs of its form, then all.
        """
        took = {done: _get_seconds(done) for done, state in self.states.items() if state == "done"}
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
        """Return one line: how many runs are done, and about how long the rest takes."""
        left = [self.seconds(run) for run, state in self.states.items() if state != "done"]
        known = [seconds for seconds in left if seconds is not None]
        text = f"{len(self.runs) - len(left)} of {len(self.runs)} runs done"
        if not left:
            return text
        if not known:
            return f"{text}; the time of a run on this machine is not known yet"
        return f"{text}, about {sum(known) / 60:.0f} min left"


def train_as_asked(args: argparse.Namespace, runs: Sequence[Any]) -> bool:
    """Train the runs that are not done, unless the options ask for something else.

    Args:
        args: with `list` and `only_report`, see `make_parser`.
        runs: the runs.

    Returns:
        Whether to make a report: False after `--list`, which prints the runs.

    Raises:
        UserError: see `train_all`; or a run is not complete.
    """
    progress = TrainingProgress(runs)
    if args.list:
        print(progress.table())
        return False
    if not args.only_report:
        print(progress.summary())
        train_all(runs, progress)
    require_complete(runs)
    return True


def _get_seconds(run: TrainingRun) -> float:
    info = (run.results() or {}).get("run", {})
    return sum(float(info.get(key) or 0.0) for key in ("train_seconds", "eval_seconds"))


def train_all(
    steps: Sequence[Any],
    progress: TrainingProgress[Any],
    after_each: Callable[[], object] = lambda: None,
) -> None:
    """Run the steps that are not done, in order. A step that fails does not stop the others.

    Args:
        steps: the runs, and perhaps other steps that have a folder.
        progress: the progress of the runs; it is kept up to date.
        after_each: called after every run that was trained.

    Raises:
        UserError: at the end, with the names of the steps that failed.
    """
    failed = []
    for step in steps:
        try:
            before = run_step(step)
        except UserError as error:
            logger.error("%s", error)
            failed.append(step)
            continue
        if step in progress.states:
            progress.states[step] = "done"
            if before != "done":
                after_each()
                logger.info(
                    "%s took %.0f s. %s", step.title, _get_seconds(step), progress.summary()
                )
    if failed:
        raise UserError(
            f"{len(failed)} of the runs failed: {', '.join(step.title for step in failed)}. The "
            "file console.txt in the folder of each run says why; begin with "
            f"{failed[0].folder}. Run the same command again when that is fixed"
        )
