"""What the trainings in stages share: starting, skipping and resuming a stage, and its mistakes."""

import argparse
import contextlib
import gc
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from ..checkpoint.safe_load import load_torch
from ..config import load_config
from ..engine.trainer import Trainer
from ..errors import UserError
from ..files import atomic_open
from ..proposals.stored import rpn_keys

__all__ = [
    "build_trainer",
    "forget_checkpoint",
    "free_memory",
    "has_checkpoint",
    "is_finished",
    "new_folder",
    "require_resumable",
    "require_same_rpn",
    "rpn_options",
    "write_config",
]


def rpn_options(text: str) -> list[str]:
    """Return the words of `--rpn-opts`.

    Raises:
        UserError: a quote is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--rpn-opts: expected KEY VALUE pairs, got {text!r} ({error})") from error


def require_resumable(args: argparse.Namespace, folders: Sequence[str], where: str) -> None:
    """Check what can be told before anything is prepared.

    Args:
        args: what `make_stage_parser` parsed.
        folders: those of the stages, below `OUTPUT_DIR`.
        where: these folders in words, for the message.

    Raises:
        UserError: `--eval-only`; or `--resume` where no stage has a checkpoint.
    """
    if args.eval_only:
        raise UserError(
            "--eval-only: use train_net.py --eval-only --config-file OUTPUT_DIR/config.yaml "
            "MODEL.WEIGHTS OUTPUT_DIR/model_final.pth"
        )
    output = load_config(args.config_file, args.opts).OUTPUT_DIR
    paths = [os.path.join(output, folder, "last_checkpoint") for folder in folders]
    if args.resume and not any(map(os.path.isfile, paths)):
        raise UserError(
            f"--resume: no checkpoint in {os.path.abspath(output)} or {where}. Leave out "
            "--resume to start a new run, or set OUTPUT_DIR to the run's folder"
        )


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[None]:
    """Make a folder; undo that when the user's mistake shows before anything is trained."""
    existed = os.path.isdir(path)
    comm.synchronize()  # every process has looked
    os.makedirs(path, exist_ok=True)
    try:
        yield
    except UserError:
        if not existed and comm.is_main_process():
            shutil.rmtree(path, ignore_errors=True)
        raise


def write_config(cfg: CfgNode) -> None:
    """Write a stage's `config.yaml`, with which `train_net.py` repeats or evaluates it."""
    with atomic_open(os.path.join(cfg.OUTPUT_DIR, "config.yaml"), "w") as file:
        file.write(cfg.dump())


def build_trainer(cfg: CfgNode, resume: bool) -> Trainer:
    """Return the trainer of a stage with its weights.

    Args:
        cfg: of the stage.
        resume: go on from its last checkpoint, if there is one.

    Raises:
        UserError: see `Trainer` and `Checkpointer`.
    """
    # A stage begins with the same random numbers whether or not the former one was skipped.
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def free_memory() -> None:
    """Give back the memory of a stage that is over."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # the stages report their own


def has_checkpoint(cfg: CfgNode) -> bool:
    """Return whether there is something to resume."""
    return os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))


def _last_checkpoint(cfg: CfgNode) -> str:
    try:
        with open(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"), encoding="utf-8") as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def forget_checkpoint(cfg: CfgNode) -> None:
    """Have `--resume` find no checkpoint of an earlier run in the folder of one that starts anew.

    It would take the earlier stage for that of the proposals that are written now.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))


def is_finished(cfg: CfgNode) -> bool:
    """Tell whether a run reached the iteration that `cfg` asks for and was evaluated then."""
    results, weights = (
        os.path.join(cfg.OUTPUT_DIR, name) for name in ("results.json", "model_final.pth")
    )
    finished = False
    if comm.is_main_process() and os.path.isfile(results) and os.path.isfile(weights):
        last = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size()).SOLVER.MAX_ITER
        evaluated = os.path.getmtime(results) >= os.path.getmtime(weights)
        # Else the weights are of an earlier run in this folder, which was started anew.
        newest = _last_checkpoint(cfg) == os.path.basename(weights)
        finished = evaluated and newest and load_torch(weights).get("iteration", -1) + 1 >= last
    return bool(comm.all_gather(finished)[0])


def require_same_rpn(cfg: CfgNode) -> None:
    """Raise when an RPN's folder holds a run of another model or on other data."""
    path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
    if not os.path.isfile(path):
        return
    before, now = (
        {
            **{key: value for key, value in rpn_keys(one).items() if not key.endswith("_TEST")},
            "DATASETS.TRAIN": json.dumps(one.DATASETS.TRAIN),
        }
        for one in (load_config(path), cfg)
    )
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise UserError(
                f"--resume: the RPN in {cfg.OUTPUT_DIR} was trained with {key} {before.get(key)}, "
                f"now it is {now.get(key)}. Set it back, or start anew: without --resume, or with "
                "another OUTPUT_DIR"
            )
