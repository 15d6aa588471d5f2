"""What a run leaves behind for its reader: `results.json`, and the seed that repeats it."""

import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from detectron2 import __version__ as detectron2_version
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..data.loader import seed_everything, stream_seed
from ..files import write_json

__all__ = ["RunRecord", "StepSeed", "earlier_train_seconds", "peak_memory_mb", "write_results"]


class StepSeed(HookBase):
    """Seeds every iteration from (seed, rank, iteration), so that a resumed run repeats it exactly.

    The seed is part of the checkpoint: a run that drew its own goes on with it.
    """

    def __init__(self, seed: int) -> None:
        """Take the run's seed, the same on every process."""
        self.seed = seed

    def before_step(self) -> None:
        """Seed all random number generators of this process."""
        seed_everything(stream_seed(self.seed, comm.get_rank(), self.trainer.iter))

    def state_dict(self) -> dict[str, int]:
        """Return the seed."""
        return {"seed": self.seed}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take the seed of the run that is resumed."""
        self.seed = int(state["seed"])


class RunRecord(HookBase):
    """Writes `OUTPUT_DIR/results.json` when a training run has reached its end."""

    def __init__(self, cfg: CfgNode, step_seed: StepSeed) -> None:
        """Take the run's config and the hook that holds its seed."""
        self.cfg, self.step_seed = cfg, step_seed
        self._eval_seconds = 0.0  # of this process
        self._earlier_eval_seconds = 0.0
        self._earlier_seconds = 0.0
        self._start: float | None = None

    @property
    def train_seconds(self) -> float:
        """Wall-clock seconds of training without evaluation, over all resumed parts."""
        if self._start is None:
            return self._earlier_seconds
        return self._earlier_seconds + time.perf_counter() - self._start - self._eval_seconds

    @property
    def eval_seconds(self) -> float:
        """Wall-clock seconds of all evaluations, over all resumed parts."""
        return self._earlier_eval_seconds + self._eval_seconds

    def add_evaluation(self, seconds: float) -> None:
        """Count the wall-clock seconds of one evaluation."""
        self._eval_seconds += seconds

    def before_train(self) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def after_train(self) -> None:
        """Write the file, unless the run was cut short."""
        if comm.is_main_process() and self.trainer.iter + 1 >= self.trainer.max_iter:
            write_results(
                self.cfg,
                getattr(self.trainer, "_last_eval_results", {}),
                train_seconds=self.train_seconds,
                eval_seconds=self.eval_seconds,
                seed=self.step_seed.seed,
            )

    def state_dict(self) -> dict[str, float]:
        """Return the times so far."""
        return {"train_seconds": self.train_seconds, "eval_seconds": self.eval_seconds}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Add the times of the run that is resumed."""
        self._earlier_seconds = float(state["train_seconds"])
        self._earlier_eval_seconds = float(state["eval_seconds"])


def peak_memory_mb(device: str) -> float:
    """Return the peak memory of this process in MB: allocated on the GPU, or resident on a CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def earlier_train_seconds(folder: str) -> float | None:
    """Return `train_seconds` of the `results.json` in a run's folder, None without one."""
    try:
        with open(os.path.join(folder, "results.json")) as f:
            seconds = json.load(f)["run"]["train_seconds"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if seconds is None else float(seconds)


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def _detectron2_version() -> str:
    try:
        return importlib.metadata.version("detectron2")  # with the commit, which 0.6 does not tell
    except importlib.metadata.PackageNotFoundError:  # a source tree on the path
        return str(detectron2_version)


def write_results(
    cfg: CfgNode,
    results: Mapping[str, Any],
    *,
    train_seconds: float | None,
    eval_seconds: float,
    seed: int,
    peak_mb: float = 0.0,
) -> str:
    """Write `OUTPUT_DIR/results.json`, whole or not at all, and return its path.

    The file is `{"task": {"metric": number}, ..., "run": {...}}`, AP in 0-100; a metric that cannot
    be computed is null. With several test sets there is one more level, the data set's name.

    Args:
        cfg: the run's config.
        results: what `Trainer.test` returned.
        train_seconds: None when nothing was trained.
        eval_seconds: of all evaluations of the run.
        seed: of the run; negative when there was none.
        peak_mb: peak memory of earlier parts of the run, in MB.
    """
    run = {
        "train_seconds": None if train_seconds is None else round(train_seconds, 1),
        "eval_seconds": round(eval_seconds, 1),
        "peak_memory_mb": round(max(peak_mb, peak_memory_mb(cfg.MODEL.DEVICE)), 1),
        "device": _device_name(cfg.MODEL.DEVICE),
        "seed": seed,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "detectron2": _detectron2_version(),
        },
    }
    path = os.path.join(cfg.OUTPUT_DIR, "results.json")
    write_json(path, {**results, "run": run})
    return path
