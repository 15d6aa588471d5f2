"""Puts the values of a recipe into the config of a run, and logs them."""

import argparse
import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm
from tabulate import tabulate

from ...errors import UserError
from ...proposals.file import load_training_dicts
from ..output_folder import read_earlier_config
from .derive import derive_recipe, require_epochs
from .facts import look_at_machine
from .plan import Choice, Plan, get_value, set_value
from .schedule import choose_length

__all__ = ["RECIPE_KEYS", "choose_recipe", "require_recipe_options"]

logger = logging.getLogger(__name__)

# Keys that `derive_recipe` may choose.
RECIPE_KEYS = (
    *(f"INPUT.{name}_{split}" for name in ("MIN_SIZE", "MAX_SIZE") for split in ("TRAIN", "TEST")),
    *("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "MODEL.ANCHOR_GENERATOR.SIZES"),
    *("TEST.DETECTIONS_PER_IMAGE", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", "MODEL.RPN.PRE_NMS_TOPK_TEST"),
    *("SOLVER.REFERENCE_WORLD_SIZE", "SOLVER.IMS_PER_BATCH", "SOLVER.BASE_LR"),
    *("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.WARMUP_ITERS", "TEST.EVAL_PERIOD"),
    *("DATALOADER.SAMPLER_TRAIN", "DATALOADER.REPEAT_THRESHOLD"),
)
_WIDTHS = (None, 40, 24, 60)  # characters of a column


def require_recipe_options(args: argparse.Namespace, *, one_training: bool) -> None:
    """Check the options of a command.

    Args:
        args: the arguments, parsed by `argument_parser`.
        one_training: whether the command trains one model, with `Trainer`.

    Raises:
        UserError: `--auto` or `--epochs` cannot be used here, or `--epochs` is not positive.
    """
    auto, epochs = getattr(args, "auto", False), getattr(args, "epochs", None)
    option = "--auto" if auto else "--epochs"
    require_epochs(epochs)
    if not auto and epochs is None:
        return
    if args.eval_only:
        raise UserError(
            f"{option} chooses how to train, and --eval-only does not train. Leave out {option}; "
            "with --config-file, give the config.yaml in the folder of the run"
        )
    if not one_training:
        raise UserError(
            f"{option} is for trainings of one model with train_net.py. Train with {option} there, "
            "and give the config.yaml in the folder of that run to this command"
        )


def choose_recipe(cfg: CfgNode, reference: CfgNode, args: argparse.Namespace) -> None:
    """Put the values of `--auto` and `--epochs` into the config, and log them as a table.

    Args:
        cfg: the config of the run, with its data registered. It is changed.
        reference: the config without the command line's keys.
        args: the arguments. Keys on the command line stay as they are. With `--resume` the values
            come from the run; a number of epochs that is given counts again.

    Raises:
        UserError: see `derive_recipe` and `load_training_dicts`; or the `config.yaml` of the run
            that is resumed cannot be read.
    """
    auto, epochs = getattr(args, "auto", False), getattr(args, "epochs", None)
    if not auto and epochs is None:
        return
    given = args.opts[::2]
    if auto and args.resume:
        _keep_recipe(cfg, given)
        if epochs is None:
            return
    dicts = load_training_dicts(cfg)
    if auto and not args.resume:
        machine = look_at_machine(cfg.MODEL.DEVICE, comm.get_world_size())
        rows = derive_recipe(
            cfg, dicts, epochs=epochs, given=given, reference=reference, machine=machine
        )
    else:  # only the length changes
        plan = Plan(cfg, reference, given)
        choose_length(plan, len(dicts), epochs)
        rows = plan.rows
    rows = comm.all_gather(rows)[0]  # machines may differ
    logger.info("The recipe:\n%s", _format_recipe(rows, reference))
    for key, value, _ in rows:
        set_value(cfg, key, value)


def _keep_recipe(cfg: CfgNode, given: Sequence[str]) -> None:
    """Take the values of the recipe, but for the keys `given`, from the run that is resumed."""
    path, values = os.path.join(cfg.OUTPUT_DIR, "config.yaml"), read_earlier_config(cfg)
    if not values:
        raise UserError(
            f"--resume with --auto needs the config.yaml of the run, which has the values of the "
            f"recipe: cannot read {os.path.abspath(path)}. Leave out --auto, and give the keys"
        )
    for key in RECIPE_KEYS:
        if key in values and key not in given:
            set_value(cfg, key, values[key])
    logger.info("The values of the recipe come from %s; nothing is derived again.", path)


def _format_recipe(rows: Sequence[Choice], reference: CfgNode) -> str:
    """Return the rows of `derive_recipe` as a table; `reference` is the config before."""
    cells: list[list[Any]] = [
        [row.key, _show(row.value), _show(get_value(reference, row.key)), row.reason]
        for row in rows
    ]
    header = ["key", "value", "was", "why"]
    return tabulate(cells, header, "simple", disable_numparse=True, maxcolwidths=list(_WIDTHS))


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
