"""Hooks of the trainer: the seed of an iteration, the last evaluation, `results.json` at the end.

A checkpoint stores the state of a hook under the name of its class: the names must not change.
"""

import time
from collections.abc import Mapping

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm

from ..data.loader import seed_everything, stream_seed
from .results import write_results

__all__ = ["Evaluation", "RunRecord", "StepSeed"]


class StepSeed(HookBase):
    """Seeds every iteration from (seed, rank, iteration), so that a resumed run repeats it exactly.

    The checkpoint has the seed, so that a run with a random seed resumes with the same one.
    """

    def __init__(self, seed: int) -> None:
        """Take the seed of the run, the same on every process."""
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


class Evaluation(hooks.EvalHook):
    """detectron2's `EvalHook`, which does not evaluate a run that failed in its last iteration."""

    def after_train(self) -> None:
        """Evaluate at the end of a complete run."""
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class RunRecord(HookBase):
    """Measures the time of a training run and writes `OUTPUT_DIR/results.json` at its end."""

    def __init__(self, cfg: CfgNode, step_seed: StepSeed) -> None:
        """Take the config of the run and the hook that has its seed."""
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
        """Write the file, unless the run was interrupted or failed."""
        if comm.is_main_process() and self.trainer.iter >= self.trainer.max_iter:
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
