"""Hooks of the trainer: the seed of an iteration, the evaluations, `results.json` at the end.

A checkpoint stores the state of a hook under the name of its class: the names must not change.
"""

import os
import shlex
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase, hooks
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils import comm

from ..data.bad_images import gather_skipped, list_skipped, record_skipped, skips_bad_images
from ..data.loader import seed_everything, stream_seed
from ..errors import UserError
from ..modeling.building import unwrap
from .best_model import BestModel
from .interruption import Interrupted
from .loop import make_loader
from .results import write_results
from .resuming import is_final

__all__ = ["Evaluation", "LossNormalizer", "PreciseBN", "RunRecord", "ShareSkipped", "StepSeed"]


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


class ShareSkipped(HookBase):
    """Gives every process the images that the others have skipped: the first one saves them."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._told: set[str] = set()

    def after_step(self) -> None:
        """Exchange the images that are new since the last call."""
        new = {name: why for name, why in list_skipped().items() if name not in self._told}
        for found in comm.all_gather(new):
            record_skipped(found)
            self._told.update(found)


class LossNormalizer(HookBase):
    """Saves the mean number of objects by which RetinaNet and FCOS divide their losses.

    It is a number outside their `state_dict`, and each process has another one.
    """

    def __init__(self) -> None:
        """Begin without numbers."""
        self._all: list[float | None] = []

    def _find(self) -> float | None:
        model = unwrap(self.trainer.model)
        own = isinstance(model, DenseDetector)
        return getattr(model, "loss_normalizer", None) if own else None

    def after_step(self) -> None:
        """Exchange the numbers, since the first process saves them."""
        if self._find() is not None:
            self._all = comm.all_gather(self._find())

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers of all processes; nothing for other models."""
        own = self._find()
        return {} if own is None else {"all": [own, *self._all[1:]]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give the model the number of this process."""
        self._all = list(state["all"])
        number = self._all[comm.get_rank() % len(self._all)]
        unwrap(self.trainer.model).loss_normalizer = number


class PreciseBN(hooks.PreciseBN):
    """detectron2's hook, but every update reads the same images.

    In detectron2 an update reads the images after those of the update before. A resumed run would
    begin with the first images again, and get other statistics than an uninterrupted one.
    """

    def __init__(self, stock: hooks.PreciseBN) -> None:
        """Take over detectron2's hook."""
        self.__dict__.update(stock.__dict__)

    def before_train(self) -> None:
        """Read the images in the order of the run's seed, if detectron2's loader drew another."""
        if self.trainer.cfg.SEED < 0 and not self._disabled:
            self._data_loader = make_loader(self.trainer, self.trainer.step_seed.seed)

    def update_stats(self) -> None:
        """See :meth:`detectron2.engine.hooks.PreciseBN.update_stats`."""
        self._data_iter = None
        super().update_stats()
        self._data_iter = None  # ends the workers


class RunRecord(HookBase):
    """Measures the time of a training run and writes `OUTPUT_DIR/results.json` at its end.

    Attributes:
        best: the hook that keeps the best model, if there is one.
        eval_seconds: wall-clock seconds of all evaluations, over all resumed parts.
    """

    def __init__(self, cfg: CfgNode, step_seed: StepSeed) -> None:
        """Take the config of the run and the hook that has its seed."""
        self.cfg, self.step_seed = cfg, step_seed
        self.best: BestModel | None = None
        self.eval_seconds = 0.0
        self._train_seconds = 0.0  # of the parts before this one
        self._start: float | None = None

    @property
    def train_seconds(self) -> float:
        """Wall-clock seconds of training without evaluation, over all resumed parts."""
        now = time.perf_counter()
        return self._train_seconds + (0.0 if self._start is None else now - self._start)

    def add_evaluation(self, seconds: float) -> None:
        """Count the wall-clock seconds of one evaluation, which are no time of training."""
        self.eval_seconds += seconds
        if self._start is not None:
            self._start += seconds

    def before_train(self) -> None:
        """Start the clock; save the final weights if the run was killed just before that."""
        self._start = time.perf_counter()
        trainer, done = self.trainer, self.trainer.start_iter
        # A file with this name may also be from before the run was lengthened.
        if 0 < done == trainer.max_iter and not is_final(trainer.checkpointer):
            trainer.iter = done - 1
            trainer.checkpointer.save("model_final", iteration=trainer.iter)
            trainer.iter = done

    def after_train(self) -> None:
        """Write the file, unless the run was interrupted or failed."""
        if self.trainer.iter < self.trainer.max_iter:
            return
        skipped = gather_skipped() if skips_bad_images(self.cfg) else {}
        if comm.is_main_process():
            write_results(
                self.cfg,
                getattr(self.trainer, "_last_eval_results", {}),
                train_seconds=self.train_seconds,
                eval_seconds=self.eval_seconds,
                seed=self.step_seed.seed,
                best=self.best.saved if self.best else None,
                skipped=skipped,
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the times so far, and the images that were skipped, if there are any."""
        times = {"train_seconds": self.train_seconds, "eval_seconds": self.eval_seconds}
        skipped = list_skipped()
        return {**times, "skipped_images": skipped} if skipped else times

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the times and the skipped images of the run that is resumed."""
        record_skipped(state.get("skipped_images", {}))
        self._train_seconds = float(state["train_seconds"])
        self.eval_seconds = float(state["eval_seconds"])


class Evaluation(hooks.EvalHook):
    """detectron2's `EvalHook`, with these additions.

    - It measures its time, and does not evaluate a run that failed in its last iteration.
    - With `MASK_RCNN_EXT.VALIDATION_LOSS` the results have a task "validation_loss".
    - It gives the results to `BestModel`. The checkpoint of an iteration is saved before its
      evaluation. If a run was stopped between the two, the resumed run evaluates first.
    """

    def __init__(self, record: RunRecord, best: BestModel | None) -> None:
        """Take the hooks that count the time and that keep the best model."""
        self.record, self.best = record, best
        self._last = -1  # the last iteration that was evaluated here
        super().__init__(record.cfg.TEST.EVAL_PERIOD, self._evaluate)

    def before_train(self) -> None:
        """Evaluate the checkpoint that is resumed, if the run was stopped before that."""
        trainer = self.trainer
        done, period = trainer.start_iter, self._period
        due = period > 0 and 0 < done < trainer.max_iter and done % period == 0
        if self.best is None or not due or self.best.last == done - 1:
            return
        trainer.iter = trainer.storage.iter = done - 1
        self._do_eval()
        trainer.iter = trainer.storage.iter = done  # not after an interruption

    def after_train(self) -> None:
        """Evaluate at the end of a complete run."""
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()

    def _evaluate(self) -> OrderedDict:
        trainer, cfg = self.trainer, self.record.cfg
        if number := trainer.stop_signals.agree(cfg.MODEL.DEVICE):
            raise Interrupted(number)
        iteration = min(trainer.iter, trainer.max_iter - 1)
        final = iteration == trainer.max_iter - 1
        if iteration == self._last and not cfg.TEST.AUG.ENABLED:  # training has ended early
            return trainer._last_eval_results
        start = time.perf_counter()
        try:
            with trainer.stop_signals.raise_at_once():
                test = trainer.test_all if final else trainer.test
                results: OrderedDict = test(cfg, trainer.evaluated_model)
                if cfg.MASK_RCNN_EXT.VALIDATION_LOSS:
                    trainer.add_losses(cfg, trainer.evaluated_model, results)
        except UserError as error:  # such as a broken validation image
            if not final:
                raise
            path = os.path.join(cfg.OUTPUT_DIR, "config.yaml")
            raise UserError(
                f"{error}. The training is done; to evaluate its last weights after the repair: "
                f"--config-file {shlex.quote(path)} --eval-only --resume"
            ) from error
        trainer._last_eval_results = results
        if self.best:
            self.best.take(results, iteration)
        self._last = iteration
        self.record.add_evaluation(time.perf_counter() - start)
        return results
