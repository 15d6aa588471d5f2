"""One run of `train_net.py`: arguments to a checked config, then training or evaluation."""

import argparse
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from torch import nn

from ..checkpoint.checkpointer import Checkpointer
from ..checkpoint.description import load_contents, parse_config
from ..checkpoint.fetching import fetch_file
from ..config import ExtCfgNode, load_config
from ..config_files import find_config_file
from ..config_limits import require_limits
from ..data.bad_images import forget_skipped, gather_skipped, skips_bad_images
from ..data.own_data import choose_validation_part, get_split_paths
from ..data.pixel_limit import set_pixel_limit
from ..data.pixel_statistics import fill_pixel_statistics, require_channels
from ..errors import UserError
from ..files import file_sha256
from ..model_files import is_checkpoint, is_exported
from ..modeling.building import SkipRandomWeights
from ..modeling.checks import (
    check_registry_names,
    require_fitting_parts,
    require_fitting_training_data,
)
from ..modeling.exported import load_exported, read_exported_config
from ..modeling.precision import choose_device, prepare_model
from ..modeling.read_keys import require_read_keys
from ..proposals.file import load_training_dicts
from .data_of_run import prepare_data, take_data_options
from .interruption import raise_signals
from .output_folder import (
    choose_evaluation_folder,
    choose_output_folder,
    log_changes,
    output_folder,
    read_earlier_config,
)
from .recipe.choose import choose_recipe, require_recipe_options
from .results import write_results
from .resuming import explain_no_checkpoint, require_unchanged
from .run_lock import is_restart
from .trainer import Trainer

__all__ = ["prepare_run", "run_job"]

logger = logging.getLogger(__name__)


def run_job(
    args: argparse.Namespace,
    *,
    trainer_class: type[Trainer] = Trainer,
    add_keys: Callable[[ExtCfgNode], None] | None = None,
) -> None:
    """Train, or evaluate weights, in this process; give it to `launch`, as `train_net.py` does.

    Args:
        args: the arguments, parsed by `argument_parser`.
        trainer_class: a subclass of `Trainer`, such as one with another mapper or evaluator.
        add_keys: a function that declares config keys of a project, see `load_config`.

    Raises:
        UserError: see `prepare_run` and `Trainer`.
    """
    if args.eval_only:
        # `launch` ends several processes with SIGTERM if one fails; they need not say why.
        with raise_signals() if comm.get_world_size() == 1 else contextlib.nullcontext():
            _evaluate(args, trainer_class, add_keys)
        return
    with prepare_run(args, add_keys=add_keys) as cfg:
        trainer = trainer_class(cfg)
        trainer.resume_or_load(resume=args.resume)
    trainer.train()


def _evaluate(
    args: argparse.Namespace,
    trainer_class: type[Trainer],
    add_keys: Callable[[ExtCfgNode], None] | None,
) -> None:
    """Evaluate weights, and write the results."""
    with prepare_run(args, add_keys=add_keys) as cfg:
        trainer_class.require_ready(cfg, eval_only=True)
        if is_exported(cfg.MODEL.WEIGHTS):
            cfg, model = load_exported(cfg)
        else:
            with SkipRandomWeights():
                model = prepare_model(cfg, trainer_class.build_model(cfg))
            names = cfg.MASK_RCNN_EXT.CLASS_NAMES
            Checkpointer(model, class_names=names).load(cfg.MODEL.WEIGHTS, checkpointables=[])
    start = time.perf_counter()
    results = trainer_class.test_all(cfg, model)
    skipped = gather_skipped() if skips_bad_images(cfg) else {}
    if comm.is_main_process():
        path = write_results(
            cfg,
            results,
            train_seconds=None,
            eval_seconds=time.perf_counter() - start,
            seed=cfg.SEED,
            weights=fetch_file(cfg.MODEL.WEIGHTS, ""),
            skipped=skipped,
        )
        logger.info("The results are in %s.", path)
        verify_results(cfg, results)  # against TEST.EXPECTED_RESULTS, as after training


@contextlib.contextmanager
def prepare_run(
    args: argparse.Namespace,
    *,
    add_keys: Callable[[ExtCfgNode], None] | None = None,
    by_gradients: bool = True,
    stages: bool = False,
) -> Iterator[ExtCfgNode]:
    """Yield the frozen config of a run, with its data registered and its folder made.

    Build the model and load its weights inside the context: a `UserError` that is raised there
    leaves nothing behind. The run begins at the end of the context, see `output_folder`. If
    `OUTPUT_DIR` holds a training, an evaluation writes to a subfolder, see
    `choose_evaluation_folder`.

    Args:
        args: the arguments, parsed by `argument_parser`.
        add_keys: a function that declares config keys of a project, see `load_config`.
        by_gradients: whether `Trainer` does the training; it can't use every config.
        stages: the training has stages with folders of their own, and the caller has checked that
            `--resume` finds a checkpoint.

    Raises:
        UserError: see `load_config`, `modeling.checks` and `prepare_data`; or the output folder
            cannot be written, `--resume` finds no checkpoint, `--eval-only` has no weights, or a
            registered name is unknown.
    """
    require_recipe_options(args, one_training=by_gradients and not stages)
    restarted = False
    config_file = find_config_file(args.config_file) if args.config_file else ""
    cfg = _load_config(args, config_file, add_keys)
    cfg.OUTPUT_DIR = choose_output_folder(cfg, config_file, args.opts)
    take_data_options(cfg, args)
    require_limits(cfg)
    check_registry_names(cfg)
    skips_bad_images(cfg)  # raises if the key has an unknown value
    forget_skipped()
    require_fitting_parts(cfg)
    if not (args.eval_only or args.resume):
        require_read_keys(cfg)
    require_channels(cfg, measured=args.eval_only)
    set_pixel_limit(cfg.MASK_RCNN_EXT.DATA.MAX_IMAGE_PIXELS)
    if args.eval_only:
        _prepare_evaluation(cfg, resume=args.resume)
    elif args.resume and not stages:
        _require_checkpoint(cfg.OUTPUT_DIR)
    elif not stages:
        args.resume = restarted = is_restart(Path(cfg.OUTPUT_DIR))
    if args.resume and by_gradients and not (args.eval_only or stages):
        require_unchanged(cfg, read_earlier_config(cfg))
    with output_folder(cfg, resume=args.resume and not args.eval_only):
        _log_start(cfg, args)
        if restarted:
            logger.info("torchrun has started again: the run continues from its last checkpoint.")
        choose_device(cfg)
        _require_gloo_on_cpu(cfg)
        prepare_data(cfg, eval_only=args.eval_only, resume=args.resume)
        comm.synchronize()  # every process has cleaned its data, which the first one may remove
        if args.eval_only:
            _warn_of_another_split(cfg)
        if by_gradients and not args.eval_only:
            require_fitting_training_data(cfg)
            choose_recipe(cfg, load_config(config_file, add_keys=add_keys), args)
        if not args.eval_only and cfg.MASK_RCNN_EXT.DATA.IMAGE_CHANNELS:
            fill_pixel_statistics(cfg, load_training_dicts(cfg))
        cfg.freeze()
        if args.resume and not (args.eval_only or stages):
            log_changes(cfg)
        logger.debug("The full config:\n%s", cfg.dump())
        seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
        if not args.eval_only:
            torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
        yield cfg


def _load_config(
    args: argparse.Namespace, config_file: str, add_keys: Callable[[ExtCfgNode], None] | None
) -> ExtCfgNode:
    """Return the config of the file, or in an evaluation without one, of the weights."""
    weights = dict(zip(args.opts[::2], args.opts[1::2], strict=False)).get("MODEL.WEIGHTS", "")
    if args.eval_only and not config_file and is_exported(weights):
        cfg: ExtCfgNode = read_exported_config(weights, add_keys=add_keys)
        cfg.merge_from_list(args.opts)
        return cfg
    if args.eval_only and not config_file and is_checkpoint(weights) and os.path.isfile(weights):
        contents = load_contents(weights)
        if "config" in contents:
            cfg = parse_config(contents, weights, add_keys=add_keys)
            cfg.merge_from_list(args.opts)
            return cfg
    return load_config(config_file, args.opts, add_keys=add_keys)


def _prepare_evaluation(cfg: ExtCfgNode, *, resume: bool) -> None:
    """Find the weights, the validation part that their training kept, and the folder."""
    weights = _find_weights(cfg, resume=resume)
    fetch_file(weights, "Give MODEL.WEIGHTS the file of a trained model")
    cfg.MODEL.WEIGHTS = weights if "://" in weights else os.path.abspath(weights)
    choose_validation_part(cfg.MASK_RCNN_EXT.DATA, os.path.dirname(cfg.MODEL.WEIGHTS))
    cfg.OUTPUT_DIR = choose_evaluation_folder(cfg)


def _find_weights(cfg: ExtCfgNode, *, resume: bool) -> str:
    """Return the weights to evaluate: the last checkpoint of the folder, or MODEL.WEIGHTS."""
    last = os.path.join(cfg.OUTPUT_DIR, "last_checkpoint")
    if resume and (os.path.isfile(last) or not cfg.MODEL.WEIGHTS):
        _require_checkpoint(cfg.OUTPUT_DIR)
        return Checkpointer(nn.Module(), cfg.OUTPUT_DIR).get_checkpoint_file()
    if not cfg.MODEL.WEIGHTS:
        raise UserError(
            "--eval-only needs weights: add MODEL.WEIGHTS FILE, or --resume to use the weights in "
            "OUTPUT_DIR"
        )
    return str(cfg.MODEL.WEIGHTS)


def _warn_of_another_split(cfg: ExtCfgNode) -> None:
    """Warn if the validation part of `--split` is not the one of the training of the weights."""
    part, weights = cfg.MASK_RCNN_EXT.DATA.VAL_JSON, cfg.MODEL.WEIGHTS
    name = os.path.basename(get_split_paths(cfg.OUTPUT_DIR)[1])
    if not comm.is_main_process():
        return
    if os.path.basename(part) != name or not is_checkpoint(weights) or not os.path.isfile(weights):
        return
    found: Any = load_contents(weights)
    for key in ("provenance", "data", "test", "own_val"):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict) or found.get("file") != name:
        return
    if found.get("sha256") != file_sha256(part):
        logger.warning(
            "%s is another split than the one of the training of %s: images of this training may "
            "be in it, and then AP is too high. A later run has split the data again.",
            *(part, weights),
        )


def _log_start(cfg: ExtCfgNode, args: argparse.Namespace) -> None:
    """Log the same facts as detectron2's `default_setup`: most of them to the file only."""
    logger.info("Folder of the run: %s", os.path.abspath(cfg.OUTPUT_DIR))
    if args.eval_only and getattr(args, "split", None) is not None:
        logger.info("--split: the training kept %s.", cfg.MASK_RCNN_EXT.DATA.VAL_JSON)
    logger.debug("Process %d of %d", comm.get_rank(), comm.get_world_size())
    logger.debug("Environment:\n%s", collect_env_info())
    logger.debug("Command line arguments: %s", args)


def _require_gloo_on_cpu(cfg: ExtCfgNode) -> None:
    if comm.get_world_size() > 1 and cfg.MODEL.DEVICE == "cpu" and dist.get_backend() == "nccl":
        raise UserError(
            "MODEL.DEVICE is cpu, but the processes communicate between GPUs. To train on the CPU "
            "in several processes, hide the GPUs: put CUDA_VISIBLE_DEVICES= before the command"
        )


def _require_checkpoint(folder: str) -> None:
    if not os.path.isfile(os.path.join(folder, "last_checkpoint")):
        raise explain_no_checkpoint(f"{os.path.abspath(folder)} (no file last_checkpoint)")
