"""Keeps the best model of a run, and ends a run that does not improve any more.

The keys are `MASK_RCNN_EXT.BEST_CHECKPOINT` and `MASK_RCNN_EXT.EARLY_STOPPING`.
"""

import logging
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ..checkpoint.checkpointer import Checkpointer
from ..checkpoint.safe_load import load_torch
from ..errors import UserError, count_noun, name_some, nearest
from .resuming import is_final

__all__ = [
    "BestModel",
    "EarlyStop",
    "choose_metric",
    "has_stopped_early",
    "is_better",
    "require_fitting_selection",
]

logger = logging.getLogger(__name__)

_PATIENCE = "MASK_RCNN_EXT.EARLY_STOPPING.PATIENCE"
_USUAL = ("segm/AP", "keypoints/AP", "bbox/AP", "box_proposals/AR@1000")
_LOWER_IS_BETTER = ("validation_loss", "errors")  # tasks
_COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_RECALLS = [f"AR{size}@{limit}" for limit in (100, 1000) for size in ("", "s", "m", "l")]


class EarlyStop(BaseException):
    """Ends the loop of training; detectron2 logs an `Exception` as a crash."""


def choose_metric(
    wanted: str, results: Mapping[str, float], datasets: Iterable[str] = ()
) -> str | None:
    """Return the name in `results` of the metric that decides which model is the best.

    Args:
        wanted: `BEST_CHECKPOINT.METRIC`; "": the AP of masks, keypoints or boxes, or the recall.
        results: the metrics of an evaluation by name, such as "segm/AP".
        datasets: names of the test sets. A metric without such a name belongs to the first one.

    Returns:
        None if there is no such metric.
    """
    prefixes = ["", *(f"{dataset}/" for dataset in [*datasets][:1])]
    names = (prefix + name for name in ([wanted] if wanted else _USUAL) for prefix in prefixes)
    return next((name for name in names if name in results), None)


def is_better(metric: str, value: float, best: float) -> bool:
    """Return whether a value of a metric is better than `best`; losses and errors should be low."""
    lower = any(part in _LOWER_IS_BETTER for part in metric.split("/")[:-1])
    return value < best if lower else value > best


def require_fitting_selection(cfg: CfgNode) -> None:
    """Check, before training, what selects and averages the weights.

    Raises:
        UserError: there is no validation data, or no evaluation during training; or the model has
            no such metric; or `TEST.PRECISE_BN` and an average of the weights are both on.
    """
    ext = cfg.MASK_RCNN_EXT
    best, patience = ext.BEST_CHECKPOINT, ext.EARLY_STOPPING.PATIENCE
    used = {
        "MASK_RCNN_EXT.VALIDATION_LOSS": ext.VALIDATION_LOSS,
        "MASK_RCNN_EXT.BEST_CHECKPOINT": best.ENABLED,
        "MASK_RCNN_EXT.EARLY_STOPPING": patience,
    }
    for key in [key for key, on in used.items() if on and not cfg.DATASETS.TEST]:
        raise UserError(
            f"{key} needs validation data: expected a data set in DATASETS.TEST, or --val-json "
            "and --val-images"
        )
    if patience < 0 or (patience and cfg.TEST.EVAL_PERIOD <= 0):
        raise UserError(
            f"{_PATIENCE} is {patience} and TEST.EVAL_PERIOD {cfg.TEST.EVAL_PERIOD}: expected the "
            "number of evaluations to wait for, and the iterations between two evaluations"
        )
    if ext.EMA.ENABLED and cfg.TEST.PRECISE_BN.ENABLED:
        raise UserError(
            "TEST.PRECISE_BN and MASK_RCNN_EXT.EMA are both enabled. PreciseBN computes statistics "
            "for the trained weights, but the evaluation uses the averaged weights. Disable one of "
            "them"
        )
    if (best.ENABLED or patience) and best.METRIC:
        _require_known_metric(cfg, best.METRIC)


def _require_known_metric(cfg: CfgNode, name: str) -> None:
    """Raise if the run will not measure a metric of COCO, a recall of proposals, or a loss."""
    model, losses = cfg.MODEL, bool(cfg.MASK_RCNN_EXT.VALIDATION_LOSS)
    classes = [f"AP-{name}" for name in cfg.MASK_RCNN_EXT.CLASS_NAMES]
    by_class = classes if len(classes) > 1 else []  # the AP of an only class is AP
    measured = {"segm": model.MASK_ON, "keypoints": model.KEYPOINT_ON, "bbox": True}
    tasks = {task: [*_COCO, *by_class] if on else [] for task, on in measured.items()}
    if model.META_ARCHITECTURE == "ProposalNetwork":
        tasks = {**{task: [] for task in tasks}, "box_proposals": _RECALLS}
    known = [f"{task}/{metric}" for task, metrics in tasks.items() for metric in metrics]
    known += ["validation_loss/total_loss"] if losses else []
    task, _, metric = "/".join(name.split("/")[-2:]).partition("/")
    if task in tasks:
        unknown_class = not classes and metric.startswith("AP-")
        good = metric in tasks[task] or bool(tasks[task] and unknown_class)
    else:  # of another evaluator, perhaps
        good = bool(metric) and (losses or task != "validation_loss")
    if not good:
        also = "" if losses else ", or a loss, with MASK_RCNN_EXT.VALIDATION_LOSS True"
        raise UserError(
            "MASK_RCNN_EXT.BEST_CHECKPOINT.METRIC: expected one of "
            f"{name_some(known, 30)}{also}, got {name!r}{nearest(name, known)}"
        )


def has_stopped_early(cfg: CfgNode, checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a run with `cfg` that resumes the content of a checkpoint ends at once."""
    state = checkpoint.get("trainer", {}).get("hooks", {}).get(BestModel.__name__, {})
    return 0 < cfg.MASK_RCNN_EXT.EARLY_STOPPING.PATIENCE <= int(state.get("waited", 0))


class BestModel(HookBase):
    """Remembers the best evaluation, keeps its weights in `model_best.pth`, and ends the run.

    It comes after the hook that evaluates, which calls `take`. All processes know the same, but for
    `saved`.

    Attributes:
        last: the iteration of the last evaluation, counted from 0; -1 before the first one.
        record: the best evaluation: "metric", "value" and "iteration".
        saved: the record in `model_best.pth`, in the first process; {} if there is no such file.
    """

    def __init__(self, cfg: CfgNode, checkpointer: Checkpointer) -> None:
        """Take the config of the run and what saves its weights."""
        ext = cfg.MASK_RCNN_EXT
        self.wanted, self.patience = ext.BEST_CHECKPOINT.METRIC, ext.EARLY_STOPPING.PATIENCE
        self.datasets, self.checkpointer = list(cfg.DATASETS.TEST), checkpointer
        self._warn_if_late(cfg)
        self.last = -1
        self.record: dict[str, Any] = {}
        self.saved: dict[str, Any] = {}
        self._waited = 0  # evaluations since the best one

    def _warn_if_late(self, cfg: CfgNode) -> None:
        """Warn of a patience that ends no run, since the run has too few evaluations."""
        # The first evaluation can only be the best one; at the end of the run nothing is stopped.
        earliest = (self.patience + 1) * cfg.TEST.EVAL_PERIOD
        if self.patience and earliest >= cfg.SOLVER.MAX_ITER:
            logger.warning(
                "%s %d cannot end this run: with TEST.EVAL_PERIOD %d it acts after %d iterations "
                "at the earliest, and SOLVER.MAX_ITER is %d. Lower the period or the patience.",
                *(_PATIENCE, self.patience, cfg.TEST.EVAL_PERIOD, earliest, cfg.SOLVER.MAX_ITER),
            )

    @property
    def path(self) -> str:
        """The file of the best weights."""
        return os.path.join(self.checkpointer.save_dir, "model_best.pth")

    def take(self, results: Mapping[str, Any], iteration: int) -> None:
        """Compare an evaluation with the best one, and save the weights if it is better.

        A metric that is undefined (NaN) is neither better nor worse.

        Args:
            results: task -> metric -> number; in all processes but the first they may be empty.
            iteration: the last iteration that trained the weights, counted from 0.
        """
        if iteration == self.last:
            return
        self.last = iteration
        flat = flatten_results_dict(results)
        metric = choose_metric(self.wanted, flat, self.datasets)
        # The first process has the results, and all processes must end together.
        metric, value = comm.all_gather((metric, float(flat[metric]) if metric else math.nan))[0]
        if metric is None:
            name = self.wanted or "metric to compare models by"
            logger.warning(
                "MASK_RCNN_EXT.BEST_CHECKPOINT.METRIC: the evaluation has no %s%s",
                *(name, nearest(name, flat) if self.wanted else ""),
            )
            return
        if not math.isfinite(value):
            logger.info("%s is undefined in this evaluation, which is not counted.", metric)
            return
        if self.record.get("metric", metric) != metric:
            logger.info("The choice of the best model starts again, by %s.", metric)
            self.record = {}
        if self.record and not is_better(metric, value, self.record["value"]):
            self._waited += _has_begun(self.record)
            return
        self._waited = 0
        self.record = {"metric": metric, "value": value, "iteration": iteration}
        if comm.is_main_process():
            self._save()

    def _save(self) -> None:
        saved = self.saved
        if saved.get("metric") == self.record["metric"] and is_better(
            saved["metric"], saved["value"], self.record["value"]
        ):
            logger.info("%s stays, since it is better: %s.", self.path, _describe(saved))
            return
        self.checkpointer.save_weights(
            "model_best", iteration=self.record["iteration"], best=self.record
        )
        self.saved = self.record
        logger.info("The best model so far is saved: %s.", _describe(self.record))

    def before_train(self) -> None:
        """Read what `model_best.pth` was measured at, and end a run that had stopped early."""
        if comm.is_main_process() and self.trainer.start_iter and os.path.isfile(self.path):
            try:
                self.saved = _read_record(self.path)
            except UserError as error:
                logger.warning("%s. A new one will be written.", error)
        self._stop_if_due(self.trainer.start_iter)

    def after_step(self) -> None:
        """End the run if the last evaluations have not improved."""
        self._stop_if_due(self.trainer.iter + 1)

    def _stop_if_due(self, done: int) -> None:
        """End a run of `done` iterations as after `SOLVER.MAX_ITER`, if there was no progress."""
        trainer = self.trainer
        if not 0 < self.patience <= self._waited or done >= trainer.max_iter:
            return
        logger.info(
            "Training ends after %s: %s has not improved in %s (%s).",
            count_noun(done, "iteration"),
            self.record["metric"],
            count_noun(self._waited, "evaluation"),
            _PATIENCE,
        )
        trainer.iter = done - 1
        # A run that had stopped here before keeps its file: later stages know it by its checksum.
        stopped_here = done == trainer.start_iter and is_final(self.checkpointer)
        if comm.is_main_process() and not stopped_here:
            self.checkpointer.save("model_final", iteration=trainer.iter)
        trainer.iter = trainer.max_iter = done
        raise EarlyStop

    def after_train(self) -> None:
        """Log which iteration of a complete run was the best."""
        if self.trainer.iter < self.trainer.max_iter or not comm.is_main_process():
            return
        if self.saved:
            logger.info("The best model is %s: %s.", self.path, _describe(self.saved))
        else:
            logger.warning("No evaluation could be compared, so there is no model_best.pth.")

    def state_dict(self) -> dict[str, Any]:
        """Return the best evaluation, the last one, and the number of evaluations in vain."""
        return {"record": self.record, "last": self.last, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of the run that is resumed."""
        self.record, self.last = dict(state["record"]), int(state["last"])
        self._waited = int(state["waited"])


def _has_begun(record: Mapping[str, Any]) -> bool:
    """Return whether the best model finds anything: an AP of 0 has nothing to improve on.

    A training begins with an AP of 0, often for several evaluations. Ultralytics' early stopping
    does not count these either.
    """
    lower: bool = is_better(record["metric"], 0.0, 1.0)  # then 0 is perfect
    return lower or record["value"] != 0


def _describe(record: Mapping[str, Any]) -> str:
    number = format(record["value"], ".4g")
    return f"{record['metric']} {number} after {count_noun(record['iteration'] + 1, 'iteration')}"


def _read_record(path: str) -> dict[str, Any]:
    """Return the metric, value and iteration in a `model_best.pth`.

    Raises:
        UserError: the file cannot be read, or is not such a file.
    """
    content = load_torch(path)
    record = content.get("best") if isinstance(content, dict) else None
    kinds = {"metric": str, "value": float, "iteration": int}
    if not isinstance(record, dict) or any(
        not isinstance(record.get(key), kind) for key, kind in kinds.items()
    ):
        raise UserError(
            f"{path}: no metric is stored in it. Remove the file, or give another OUTPUT_DIR"
        )
    return record
