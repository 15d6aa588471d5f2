"""The training runs of the FCIS comparison, and FCIS's second evaluation, before mask voting."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from mask_rcnn_ext.child_processes import run_command
from mask_rcnn_ext.config import config_hash
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.files import require_writable
from mask_rcnn_ext.steps import Step

from ..training_runs import FILLED_IN, REPO, TrainingRun, find_differences, read_run_config

__all__ = ["MODELS", "ComparisonRun", "UnvotedEvaluation", "compare_fcis_configs", "plan_steps"]

# Variant, the stem of its yaml in configs/shapes -> the model's name. Differences are the first
# model minus the second; the second is FCIS.
MODELS = {"mask_rcnn_tiny_DC5": "Mask R-CNN", "fcis_tiny": "FCIS"}

# Beginnings of the keys in which the models must not differ: backbone, data, schedule.
_SHARED = (
    *("MODEL.BACKBONE.", "MASK_RCNN_EXT.TINY_RESNET.", "MODEL.RESNETS.", "MODEL.WEIGHTS"),
    "MODEL.PIXEL_",
    *("DATASETS.", "INPUT.", "SOLVER.", "MASK_RCNN_EXT.OPTIMIZER"),
)


class ComparisonRun(TrainingRun):
    """One training run of either model."""

    evaluations = ("unvoted",)

    @property
    def model(self) -> str:
        """The model's name."""
        return MODELS[self.variant]

    @property
    def is_fcis(self) -> bool:
        """Whether the run also has masks before voting."""
        return self.variant == list(MODELS)[1]

    @property
    def unvoted(self) -> Path:
        """The folder of the evaluation before mask voting."""
        return self.folder / self.evaluations[0]

    @property
    def unvoted_predictions(self) -> Path:
        """The result file of FCIS before mask voting."""
        return self.find_predictions(self.unvoted)

    @property
    def measured_files(self) -> list[Path]:
        """See `TrainingRun`."""
        return [*super().measured_files, *([self.unvoted_predictions] if self.is_fcis else [])]

    def is_complete(self) -> bool:
        """See `Step`; the results have masks, and the result file is there."""
        return bool((self.results() or {}).get("segm")) and self.predictions.is_file()


class UnvotedEvaluation(Step):
    """The evaluation of a finished FCIS run before mask voting, in the folder `unvoted`."""

    def __init__(self, run: ComparisonRun) -> None:
        super().__init__(
            f"{run.title} without mask voting",
            run.unvoted / "config.yaml",
            [run.unvoted_predictions, run.unvoted / "results.json"],
        )
        self.run, self.folder = run, run.unvoted

    def find_inputs(self) -> dict[str, Any]:
        """See `Step`."""
        cfg = self.run.config()
        cfg.MODEL.FCIS.MASK_VOTING = False
        return {"config_sha256": self._hash(cfg)}

    def read_record(self) -> dict[str, Any] | None:
        """See `Step`; the record is the evaluation's `config.yaml`."""
        if not self.record.is_file():
            return None
        cfg = read_run_config(self.record)
        return {} if cfg is None else {"config_sha256": self._hash(cfg)}

    @staticmethod
    def _hash(cfg: CfgNode) -> str:
        # An evaluation does not depend on the seed.
        return config_hash(cfg, 0, (*FILLED_IN, "MODEL.WEIGHTS"))

    def is_complete(self) -> bool:
        """See `Step`; an evaluation that is older than the weights is not complete."""
        if not super().is_complete():
            return False
        rois, weights = self.outputs[0], self.run.folder / "model_final.pth"
        return not (weights.is_file() and weights.stat().st_mtime > rois.stat().st_mtime)

    def start(self, resume: bool) -> None:
        """See `Step`.

        Raises:
            UserError: the run is not trained.
        """
        if self.run.state() != "done":
            raise UserError(f"{self.title}: there is no trained model")
        require_writable(self.folder)

    def evaluate(self) -> int:
        """Evaluate in a new process, whose output goes to `console.txt`; return its exit code."""
        command = [
            *(sys.executable, str(REPO / "train_net.py")),
            *("--config-file", self.run.config_file, "--eval-only"),
            *("MODEL.FCIS.MASK_VOTING", "False"),
            *("MODEL.WEIGHTS", str(self.run.folder / "model_final.pth")),
            *("OUTPUT_DIR", str(self.folder), "SEED", str(self.run.seed)),
        ]
        return run_command(command, self.folder / "console.txt")

    def make(self, resume: bool) -> None:
        """See `Step`.

        Raises:
            UserError: the evaluation failed.
        """
        if (code := self.evaluate()) or self.state() != "done":
            raise UserError(f"{self.title} failed (exit code {code})")

    def finish(self) -> None:
        """See `Step`; `train_net.py` has written the record."""


def plan_steps(runs: Sequence[ComparisonRun]) -> list[Step]:
    """Return the runs, each run of FCIS followed by its evaluation before mask voting."""
    return [
        step for run in runs for step in ([run, UnvotedEvaluation(run)] if run.is_fcis else [run])
    ]


def compare_fcis_configs() -> dict[str, dict[str, Any]]:
    """Return the settings that the two models share, and each key in which they differ.

    Returns:
        "shared": name -> value, to print; "differing": key -> {variant: value}.

    Raises:
        UserError: the models differ in backbone, data, or schedule.
    """
    configs = {variant: ComparisonRun.under("", variant, 1).config() for variant in MODELS}
    base = "configs/shapes/Base-Comparison.yaml"
    differing = find_differences(configs, same=_SHARED, base=base)
    cfg = configs[next(iter(MODELS))]
    tiny = cfg.MASK_RCNN_EXT.TINY_RESNET
    shared = {
        "backbone": cfg.MODEL.BACKBONE.NAME,
        "channels": list(tiny.CHANNELS),
        "blocks": list(tiny.BLOCKS),
        "dilation": {"res4": tiny.RES4_DILATION, "res5": cfg.MODEL.RESNETS.RES5_DILATION},
        "train": ", ".join(cfg.DATASETS.TRAIN),
        "val": ", ".join(cfg.DATASETS.TEST),
        "image_size": cfg.INPUT.MIN_SIZE_TEST,
        "iterations": cfg.SOLVER.MAX_ITER,
        "images_per_batch": cfg.SOLVER.IMS_PER_BATCH,
    }
    return {"shared": shared, "differing": differing}
