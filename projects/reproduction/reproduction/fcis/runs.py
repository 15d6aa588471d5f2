"""The comparison's training runs, and FCIS's second evaluation, before mask voting."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mask_rcnn_ext.config import config_hash, flat_config
from mask_rcnn_ext.errors import UserError

from ..config_runs import FILLED_IN, ConfigRun, read_config

__all__ = [
    "MODELS",
    "ComparisonRun",
    "compare_configs",
    "evaluate_unvoted",
    "plan",
    "require_complete",
]

logger = logging.getLogger(__name__)

# Variant, the stem of its yaml in configs/shapes -> the model's name. Differences are the first
# minus the second; the second is FCIS.
MODELS = {"mask_rcnn_tiny_DC5": "Mask R-CNN", "fcis_tiny": "FCIS"}

# Keys, by their beginning, in which the models must not differ: backbone, data, schedule.
_SHARED = (
    *("MODEL.BACKBONE.", "MODEL.TINY_RESNET.", "MODEL.RESNETS.", "MODEL.WEIGHTS", "MODEL.PIXEL_"),
    *("DATASETS.", "INPUT.", "SOLVER.", "MASK_RCNN_EXT.OPTIMIZER"),
)


class ComparisonRun(ConfigRun):
    """One training run of either model."""

    @property
    def model(self) -> str:
        """The model's name."""
        return MODELS[self.variant]

    @property
    def is_fcis(self) -> bool:
        """Whether it has masks before voting to evaluate."""
        return self.variant == list(MODELS)[1]

    @property
    def unvoted(self) -> Path:
        """The folder of the evaluation before mask voting."""
        return self.folder / "unvoted"

    @property
    def rois_file(self) -> Path:
        """The result file whose boxes are the RoIs that the masks were made in."""
        return self.predictions_in(self.unvoted) if self.is_fcis else self.predictions

    def is_complete(self) -> bool:
        """Tell whether the results, of boxes and masks, and the result file are there."""
        return bool((self.results() or {}).get("segm")) and self.predictions.is_file()

    def is_unvoted_complete(self) -> bool:
        """Tell whether there is nothing to evaluate before mask voting, or it has been.

        An evaluation that is older than the weights, or of another config, does not count.
        """
        if not self.is_fcis:
            return True
        written = read_config(self.unvoted / "config.yaml")
        if written is None or not self.rois_file.is_file():
            return False
        if not (self.unvoted / "results.json").is_file():
            return False
        weights = self.folder / "model_final.pth"
        if weights.is_file() and weights.stat().st_mtime > self.rois_file.stat().st_mtime:
            return False
        expected, without = self.config(), (*FILLED_IN, "MODEL.WEIGHTS")
        expected.MODEL.FCIS.MASK_VOTING = False
        # The seed has no part in an evaluation.
        return config_hash(written, 0, without) == config_hash(expected, 0, without)

    def unvoted_options(self) -> list[str]:
        """Return what `train_net.py` is given to evaluate the run before mask voting."""
        return [
            *("--config-file", self.config_file, "--eval-only"),
            *("MODEL.FCIS.MASK_VOTING", "False"),
            *("MODEL.WEIGHTS", str(self.folder / "model_final.pth")),
            *("OUTPUT_DIR", str(self.unvoted), "SEED", str(self.seed)),
        ]


def plan(root: str | Path, seeds: int = 3) -> list[ComparisonRun]:
    """Return the runs in the order of work: both models with seed 1, then with seed 2, ...

    Raises:
        UserError: `seeds` is not positive.
    """
    if seeds < 1:
        raise UserError(f"--seeds: expected 1 or more, got {seeds}")
    return [
        ComparisonRun.under(root, variant, seed)
        for seed in range(1, seeds + 1)
        for variant in MODELS
    ]


def evaluate_unvoted(
    runs: Sequence[ComparisonRun], evaluate: Callable[[ComparisonRun], int]
) -> None:
    """Evaluate the finished FCIS runs before mask voting, where that is not done yet.

    Args:
        runs: of both models.
        evaluate: evaluates a run into its folder `unvoted`; returns an exit code.

    Raises:
        UserError: an evaluation failed, and where it says why.
    """
    for run in runs:
        if run.is_unvoted_complete() or run.state() != "done":
            continue
        logger.info("%s, without mask voting ...", run.title)
        code = evaluate(run)
        if code or not run.is_unvoted_complete():
            raise UserError(
                f"the evaluation of {run.title} without mask voting failed (exit code {code}). The "
                f"file console.txt in {run.unvoted} says why; run the same command again when that "
                "is mended"
            )


def require_complete(runs: Sequence[ComparisonRun]) -> None:
    """Raise unless every run is done, and FCIS's are evaluated before mask voting.

    Raises:
        UserError: what is missing.
    """
    states = {run: run.state() for run in runs}
    missing = [f"{run.title} ({state})" for run, state in states.items() if state != "done"]
    missing += [
        f"{run.title} without mask voting"
        for run, state in states.items()
        if state == "done" and not run.is_unvoted_complete()
    ]
    if missing:
        raise UserError(
            f"the comparison needs runs that are not there: {', '.join(missing)}. Leave out "
            "--only-report to make them, or give the --output and --seeds of those that are there"
        )


def compare_configs() -> dict[str, dict[str, Any]]:
    """Return what the two models' configs share, and each key in which they differ.

    Returns:
        "shared": name -> value, to print; "differing": key -> {variant: value}.

    Raises:
        UserError: they differ in backbone, data, or schedule.
    """
    configs = {variant: ComparisonRun.under("", variant, 1).config() for variant in MODELS}
    first, second = (dict(flat_config(cfg)) for cfg in configs.values())
    differing = {
        key: dict(zip(MODELS, (first[key], second[key]), strict=True))
        for key in first
        if first[key] != second[key] and key != "OUTPUT_DIR"
    }
    unfair = [key for key in differing if key.startswith(_SHARED)]
    if unfair:
        raise UserError(
            f"the models compared have the same backbone, data and schedule, but {unfair[0]} is "
            f"{' and '.join(repr(v) for v in differing[unfair[0]].values())}. Set it in "
            "configs/shapes/Base-Comparison.yaml"
        )
    cfg = configs[next(iter(MODELS))]
    tiny = cfg.MODEL.TINY_RESNET
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
