"""A stage of a training in several stages: a trained model in its own folder, and its options."""

import argparse
import gc
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from ..checkpoint.safe_load import load_torch
from ..config import load_config
from ..config_files import find_config_file
from ..engine.best_model import has_stopped_early
from ..engine.output_folder import choose_output_folder
from ..engine.resuming import explain_no_checkpoint
from ..engine.trainer import Trainer
from ..errors import UserError
from ..files import atomic_open
from ..run_files import find_run_files, set_aside
from ..steps import Step, decide

__all__ = [
    "TrainingStage",
    "begin_stages",
    "require_resumable",
    "require_training",
    "split_rpn_options",
]


def split_rpn_options(text: str) -> list[str]:
    """Return the words of `--rpn-opts`.

    Raises:
        UserError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--rpn-opts: expected KEY VALUE pairs, got {text!r} ({error})") from error


def require_training(args: argparse.Namespace) -> None:
    """Check that the options do not ask for an evaluation.

    Raises:
        UserError: `--eval-only`; the message has the command to use.
    """
    if args.eval_only:
        raise UserError(
            "--eval-only: use train_net.py --eval-only --config-file OUTPUT_DIR/config.yaml "
            "MODEL.WEIGHTS OUTPUT_DIR/model_final.pth"
        )


def require_resumable(args: argparse.Namespace, folders: Sequence[str], where: str) -> None:
    """Check the options before anything is prepared.

    Args:
        args: the options, see `make_stage_parser`.
        folders: the folders of the stages, below `OUTPUT_DIR`.
        where: a description of these folders for the message.

    Raises:
        UserError: `--eval-only`; or `--resume` although no stage has a checkpoint.
    """
    require_training(args)
    config_file = find_config_file(args.config_file) if args.config_file else ""
    cfg = load_config(config_file, args.opts)
    output = choose_output_folder(cfg, config_file, args.opts)
    paths = [os.path.join(output, folder, "last_checkpoint") for folder in folders]
    if args.resume and not any(map(os.path.isfile, paths)):
        raise explain_no_checkpoint(f"{os.path.abspath(output)} or {where}")


class TrainingStage(Step):
    """The training of one model in its own folder.

    Args:
        title: the stage's name in the log.
        cfg: the config of the stage.
        resume: continue or keep an earlier training in the folder. False: start again.
        find_inputs: the function behind `Step.find_inputs`.
        record: the name of the file in the folder that holds the inputs.
    """

    def __init__(
        self,
        title: str,
        cfg: CfgNode,
        *,
        resume: bool,
        find_inputs: Callable[[], dict[str, Any]],
        record: str = "made_from.json",
    ) -> None:
        folder = cfg.OUTPUT_DIR
        self.weights = os.path.join(folder, "model_final.pth")
        outputs = [self.weights, os.path.join(folder, "results.json")]
        super().__init__(f"{title}, in {folder}", os.path.join(folder, record), outputs)
        self.cfg, self.resume, self._find_inputs = cfg, resume, find_inputs
        self._last, self._trainer = os.path.join(folder, "last_checkpoint"), None

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`."""
        return self._find_inputs()

    def read_record(self) -> dict[str, Any] | None:
        """See `Step`; without a checkpoint there is nothing to continue."""
        if not (self.resume and os.path.isfile(self._last)):
            return None
        return super().read_record() or {}

    def is_complete(self) -> bool:
        """Return whether the training has reached its end, also an early one, and was evaluated."""
        if not super().is_complete():
            return False
        with open(self._last, encoding="utf-8") as file:
            # Otherwise the weights are from an earlier training in this folder.
            newest = file.read().strip() == os.path.basename(self.weights)
        weights, results = (path.stat().st_mtime for path in self.outputs)
        last = DefaultTrainer.auto_scale_workers(self.cfg, comm.get_world_size()).SOLVER.MAX_ITER
        if not newest or results < weights:
            return False
        content = load_torch(self.weights)
        reached = bool(content.get("iteration", -1) + 1 >= last)
        return reached or has_stopped_early(self.cfg, content)

    def is_resumable(self) -> bool:
        """See `Step`."""
        return True

    def start(self, resume: bool) -> None:
        """See `Step`."""
        if not resume:
            Path(self._last).unlink(missing_ok=True)  # a later `--resume` must not find it
            self.finish()

    def build(self) -> None:
        """Build the trainer now, so that mistakes are reported before `make`.

        Raises:
            UserError: see `Trainer`, `Checkpointer` and `require_replaceable`.
        """
        if change := decide(self.describe_change):
            self.require_replaceable(change)
        state = decide(self.state)
        if state != "done":
            self._trainer = self._build_trainer(state == "interrupted")

    def _build_trainer(self, resume: bool) -> Any:
        # A stage begins with the same random numbers whether or not the one before was skipped.
        seed_all_rng(None if self.cfg.SEED < 0 else self.cfg.SEED + comm.get_rank())
        trainer = Trainer(self.cfg)
        trainer.resume_or_load(resume=resume)
        return trainer

    def make(self, resume: bool) -> None:
        """See `Step`."""
        trainer, self._trainer = self._trainer, None
        if trainer is None:
            _free_memory()
            trainer = self._build_trainer(resume)
        trainer.train()
        del trainer
        _free_memory()


def begin_stages(steps: Sequence[Step], output: str) -> None:
    """Move earlier trainings and their proposals aside, and write the config of every stage.

    The `config.yaml` of a stage is written even if the stage is done, since `prepare_run` has
    written another one. Without `resume`, files of earlier trainings leave the folders of the
    stages, so that a later `--resume` does not continue from their checkpoints.

    Args:
        steps: the steps of the run.
        output: `OUTPUT_DIR` of the whole run. `prepare_run` has moved its earlier files already.
    """
    stages = [step for step in steps if isinstance(step, TrainingStage)]
    if comm.is_main_process() and not any(stage.resume for stage in stages):
        _set_steps_aside(steps, Path(output).absolute())
    for stage in stages if comm.is_main_process() else ():
        folder = Path(stage.cfg.OUTPUT_DIR)
        with atomic_open(folder / "config.yaml", "w") as file:
            file.write(stage.cfg.dump())
    comm.synchronize()


def _set_steps_aside(steps: Sequence[Step], output: Path) -> None:
    files: dict[Path, set[str]] = {}
    for step in steps:
        for path in (step.record, *step.outputs):
            if path.absolute().parent != output:
                files.setdefault(path.absolute().parent, set()).add(path.name)
    for folder, names in files.items():
        unknown = names - {path.name for path in find_run_files(folder)}
        set_aside(folder, sorted(unknown))


def _free_memory() -> None:
    """Free the memory of the previous stage, and reset the peak that each stage reports."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
