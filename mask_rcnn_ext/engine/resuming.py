"""When a run saves checkpoints, and which settings a resumed run takes from them."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier

from ..checkpoint.checkpointer import Checkpointer
from ..config import flat_config, get_cfg
from ..errors import UserError
from ..run_files import SPLIT_NAMES

__all__ = [
    "explain_no_checkpoint",
    "get_checkpoint_period",
    "is_final",
    "keep_settings",
    "require_same_optimizer",
    "require_unchanged",
]

# Settings of the optimizer that the config decides.
_SETTINGS = ("initial_lr", "weight_decay", "momentum", "nesterov")
# After a change of these keys the state of a checkpoint cannot be used, whatever the data are.
_FIXED = ("MASK_RCNN_EXT.OPTIMIZER", "MASK_RCNN_EXT.FREEZE", "MODEL.MASK_ON", "MODEL.KEYPOINT_ON")
_FEWEST = 100  # iterations between two checkpoints, by default


def get_checkpoint_period(cfg: CfgNode) -> int:
    """Return the number of iterations between two checkpoints.

    It is `SOLVER.CHECKPOINT_PERIOD`. detectron2's default of 5000 is too long for short runs: it is
    shortened to a tenth of the run, but not below 100.
    """
    period = int(cfg.SOLVER.CHECKPOINT_PERIOD)
    if period != get_cfg().SOLVER.CHECKPOINT_PERIOD:
        return period
    return min(period, max(_FEWEST, cfg.SOLVER.MAX_ITER // 10))


def is_final(checkpointer: Checkpointer) -> bool:
    """Return whether the last checkpoint is `model_final.pth`, with which a run ends."""
    return os.path.basename(checkpointer.get_checkpoint_file()) == "model_final.pth"


def explain_no_checkpoint(places: str) -> UserError:
    """Return the error for `--resume` where no checkpoint is.

    Args:
        places: the folders that were looked at, in words.
    """
    return UserError(
        f"--resume: no checkpoint in {places}. Leave out --resume to start a new run, or set "
        "OUTPUT_DIR to the run's folder"
    )


def require_unchanged(cfg: CfgNode, before: Mapping[str, Any]) -> None:
    """Check, before data and weights are loaded, that a run can go on with a config.

    What depends on the data or on the weights shows later, see `require_same_optimizer`.

    Args:
        cfg: the config.
        before: the keys and values of the run's `config.yaml`, as they are in the file.

    Raises:
        UserError: a key has changed that must not; or the run trains on a part of a split, and
            would now get the images of the other part too.
    """
    own, part = cfg.MASK_RCNN_EXT.DATA, str(before.get("MASK_RCNN_EXT.DATA.TRAIN_JSON", ""))
    name, given = SPLIT_NAMES["TRAIN_JSON"], os.path.basename(own.TRAIN_JSON)
    if os.path.basename(part) == name != given and given and not own.SPLIT:
        raise UserError(
            f"--resume: the run trains on a part of a split, {part}, and {own.TRAIN_JSON} may have "
            "the images of its validation part too. Add --split, which keeps the parts of the run, "
            "or give the config.yaml of the run as --config-file, without --train-json"
        )
    now = dict(flat_config(CfgNode.load_cfg(cfg.dump())))
    for key in _FIXED:
        if key in before and before[key] != now[key]:
            raise UserError(
                f"--resume: {key} was {before[key]} and is now {now[key]}. The state in the "
                f"checkpoint does not fit this value. Set it to {before[key]}, or start a "
                "new run from the weights: MODEL.WEIGHTS FILE, without --resume"
            )


def require_same_optimizer(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Check that an optimizer can take a saved state.

    Args:
        saved: the `state_dict` of the optimizer of the run that is resumed.
        optimizer: the optimizer of the config.

    Raises:
        UserError: the saved state is of another optimizer, or of other parameters.
    """
    fix = "or start a new run from its weights: MODEL.WEIGHTS FILE, without --resume"
    theirs, ours = saved["param_groups"], optimizer.param_groups
    kinds = ["AdamW" if "betas" in groups[0] else "SGD" for groups in (theirs, ours)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"--resume: the checkpoint was trained with {kinds[0]}, the config says {kinds[1]}, "
            f"which cannot use its state. Set MASK_RCNN_EXT.OPTIMIZER {kinds[0]}, {fix}"
        )
    counts = [[len(group["params"]) for group in groups] for groups in (theirs, ours)]
    if counts[0] != counts[1]:
        raise UserError(
            "--resume: the config trains other parameters than the checkpoint, or gives them other "
            f"learning rates and weight decays (groups of {counts[0]} parameters there, of "
            f"{counts[1]} here). Set MODEL.BACKBONE.FREEZE_AT, MASK_RCNN_EXT.FREEZE and "
            "BACKBONE_LR_FACTOR, and the keys of SOLVER as they were, "
            f"{fix}"
        )


@contextlib.contextmanager
def keep_settings(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler
) -> Iterator[None]:
    """Keep the learning rate, weight decay and momentum of the config while a state is loaded.

    The learning rate of the next iteration is computed again. It has the same bits if nothing has
    changed.
    """
    base_lrs = list(scheduler.base_lrs)
    settings = [
        {key: group[key] for key in _SETTINGS if key in group} for group in optimizer.param_groups
    ]
    yield
    for group, kept in zip(optimizer.param_groups, settings, strict=True):
        # A scheduler that is not detectron2's may compute a rate from the last one.
        group["lr"] *= kept["initial_lr"] / group["initial_lr"] if group["initial_lr"] else 1.0
        group.update(kept)
    scheduler.base_lrs = base_lrs
    if isinstance(scheduler, LRMultiplier) and scheduler.last_epoch <= scheduler._max_iter:
        for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = rate
