"""Two-stage training: first an RPN alone, then Mask R-CNN on its stored proposals.

Mask R-CNN, section 3.1: "For convenient ablation, RPN is trained separately and does not share
features with Mask R-CNN, unless specified." Both stages start from `MODEL.WEIGHTS`, with the same
backbone and data. What the paper leaves open is chosen so:

- the schedule of the first stage is the config's own `SOLVER`, unless `--rpn-opts` says otherwise;
- `DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN` proposals per training image, 2000 as in the FPN paper;
- the second stage trains on images flipped and scaled at random, the proposals move along.

At test time the second stage sees the best `MODEL.RPN.POST_NMS_TOPK_TEST` proposals, as joint
training would. The folder of a run has `rpn/`, a run of its own whose results are the average
recall of the proposals, `proposals/<data set>.pkl`, and what every run has, of the second stage.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import shlex
import shutil
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from ..atomic import atomic_open
from ..config import get_cfg, load_config
from ..data.lookup import require_datasets
from ..errors import UserError
from .combinations import is_generalized_rcnn
from .proposals import read_json, rpn_keys, update_proposals, write_json
from .safe_load import load_torch
from .setup import argument_parser, check_registry_names, prepared_run
from .trainer import Trainer

__all__ = ["first_stage", "second_stage", "train_two_stages", "two_stage_parser"]

logger = logging.getLogger(__name__)

_LIMIT = 1000  # average recall is also reported at this many proposals


def two_stage_parser(epilog: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of `train_net.py` with `--rpn-opts`."""
    parser = argument_parser(epilog)
    parser.add_argument(
        "--rpn-opts",
        default="",
        metavar='"KEY VALUE ..."',
        help="keys for the first stage only, in one pair of quotes",
    )
    return parser


def first_stage(cfg: CfgNode, opts: list[str]) -> CfgNode:
    """Return the config of the RPN alone, in `OUTPUT_DIR/rpn`.

    Args:
        cfg: of the whole model.
        opts: KEY, VALUE, ... for this stage.

    Raises:
        UserError: a key is unknown or cannot be chosen, a value has the wrong type, or a data set
            or a part of the model does not exist.
    """
    rpn = cfg.clone()
    rpn.defrost()
    rpn.merge_from_list(opts)
    if rpn.OUTPUT_DIR != cfg.OUTPUT_DIR:
        raise UserError(
            "--rpn-opts: the first stage is always in the folder rpn of the second stage's "
            "OUTPUT_DIR. Leave OUTPUT_DIR out of --rpn-opts"
        )
    rpn.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "rpn")
    rpn.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    rpn.MODEL.MASK_ON = False  # so that no masks are drawn
    # A stage that only the heads read, such as FCIS's res5, would cost time, and several processes
    # would wait for its gradients.
    if set(rpn.MODEL.RPN.IN_FEATURES) <= set(rpn.MODEL.RESNETS.OUT_FEATURES):
        rpn.MODEL.RESNETS.OUT_FEATURES = list(rpn.MODEL.RPN.IN_FEATURES)
    # Recall is measured at up to 1000; the files keep what the second stage reads.
    rpn.MODEL.RPN.POST_NMS_TOPK_TEST = max(
        _LIMIT, cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN
    )
    rpn.TEST.AUG.ENABLED, rpn.TEST.EXPECTED_RESULTS = False, []
    rpn.freeze()
    check_registry_names(rpn)
    require_datasets([*rpn.DATASETS.TRAIN, *rpn.DATASETS.TEST])
    return rpn


def second_stage(cfg: CfgNode) -> CfgNode:
    """Return the config of Mask R-CNN on the proposals in `OUTPUT_DIR/proposals`.

    Raises:
        UserError: `cfg` is not of a model with RoI heads, reads stored proposals already, or asks
            for another number of them at test time than its RPN would give.
    """
    if not is_generalized_rcnn(cfg):
        raise UserError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} has no second stage: expected "
            "GeneralizedRCNN or a subclass of it"
        )
    if cfg.MODEL.LOAD_PROPOSALS or cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        raise UserError(
            "the config reads stored proposals already (MODEL.LOAD_PROPOSALS, "
            "MODEL.PROPOSAL_GENERATOR.NAME): expected that of a model with an RPN. Train this one "
            "with train_net.py; the second stage of a run is resumed so, too"
        )
    topk, given = cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST
    if given not in (topk, get_cfg().DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST):
        raise UserError(
            f"DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST is {given}, MODEL.RPN.POST_NMS_TOPK_TEST "
            f"{topk}: expected the same number of proposals at test time. Leave the first one out"
        )
    second = cfg.clone()
    second.defrost()
    second.MODEL.LOAD_PROPOSALS = True
    second.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    folder = os.path.abspath(os.path.join(cfg.OUTPUT_DIR, "proposals"))
    for split in ("TRAIN", "TEST"):
        second.DATASETS[f"PROPOSAL_FILES_{split}"] = tuple(
            os.path.join(folder, f"{name}.pkl") for name in cfg.DATASETS[split]
        )
    second.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST = topk
    second.freeze()
    return second


def train_two_stages(args: argparse.Namespace) -> None:
    """Run one process of the job.

    With `--resume` a finished stage is skipped and an interrupted one goes on; proposals are
    written again unless they are those of the RPN, to the last bit of its weights.

    Args:
        args: what `two_stage_parser` parsed.

    Raises:
        UserError: see `prepared_run`; or a stage cannot be resumed.
    """
    _require_resumable(args)
    with prepared_run(argparse.Namespace(**{**vars(args), "resume": False})) as joint:
        rpn_cfg, cfg = first_stage(joint, _words(args.rpn_opts)), second_stage(joint)
        Trainer.require_ready(joint)
        build_model(cfg)  # a mistake in the heads is told now, not after the first stage
        if args.resume:
            _require_same_rpn(rpn_cfg)
        skip = args.resume and _is_finished(rpn_cfg)
        with _new_folder(rpn_cfg.OUTPUT_DIR):
            trainer = None if skip else _build_trainer(rpn_cfg, args.resume)
        if comm.is_main_process():
            for stage in (rpn_cfg, cfg):
                with atomic_open(os.path.join(stage.OUTPUT_DIR, "config.yaml"), "w") as file:
                    file.write(stage.dump())
                if not args.resume:
                    _forget_checkpoint(stage)
    if trainer is None:
        logger.info("Stage 1 of 2, the RPN: finished in %s, skipped.", rpn_cfg.OUTPUT_DIR)
    else:
        logger.info("Stage 1 of 2: training the RPN alone, in %s.", rpn_cfg.OUTPUT_DIR)
        trainer.train()
        del trainer
        _free_memory()
    recipes = update_proposals(rpn_cfg, cfg)
    _free_memory()
    resume = args.resume and _has_checkpoint(cfg)
    _remember_proposals(cfg, recipes, resume)
    if resume and _is_finished(cfg):
        logger.info("Stage 2 of 2, on stored proposals: finished in %s, skipped.", cfg.OUTPUT_DIR)
        return
    logger.info("Stage 2 of 2: training on the stored proposals, in %s.", cfg.OUTPUT_DIR)
    _build_trainer(cfg, resume).train()


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--rpn-opts: expected KEY VALUE pairs, got {text!r} ({error})") from error


@contextlib.contextmanager
def _new_folder(path: str) -> Iterator[None]:
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


def _build_trainer(cfg: CfgNode, resume: bool) -> Trainer:
    # A stage begins with the same random numbers whether or not the former one was skipped.
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()  # the stages report their own


def _has_checkpoint(cfg: CfgNode) -> bool:
    return os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))


def _forget_checkpoint(cfg: CfgNode) -> None:
    """Have `--resume` find no checkpoint of an earlier run in the folder of one that starts anew.

    It would take the earlier second stage for that of the proposals that are written now.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))


def _require_resumable(args: argparse.Namespace) -> None:
    if args.eval_only:
        raise UserError(
            "--eval-only: use train_net.py --eval-only --config-file OUTPUT_DIR/config.yaml "
            "MODEL.WEIGHTS OUTPUT_DIR/model_final.pth"
        )
    folder = load_config(args.config_file, args.opts).OUTPUT_DIR
    paths = [os.path.join(folder, part, "last_checkpoint") for part in ("rpn", "")]
    if args.resume and not any(map(os.path.isfile, paths)):
        raise UserError(
            f"--resume: no checkpoint in {os.path.abspath(folder)} or its folder rpn. Leave out "
            "--resume to start a new run, or set OUTPUT_DIR to the run's folder"
        )


def _is_finished(cfg: CfgNode) -> bool:
    """Tell whether a run reached the iteration that `cfg` asks for and was evaluated then."""
    results, weights = (
        os.path.join(cfg.OUTPUT_DIR, name) for name in ("results.json", "model_final.pth")
    )
    finished = False
    if comm.is_main_process() and os.path.isfile(results) and os.path.isfile(weights):
        last = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size()).SOLVER.MAX_ITER
        evaluated = os.path.getmtime(results) >= os.path.getmtime(weights)
        finished = evaluated and load_torch(weights).get("iteration", -1) + 1 >= last
    return bool(comm.all_gather(finished)[0])


def _require_same_rpn(cfg: CfgNode) -> None:
    """Raise when the first stage's folder holds a run of another model or on other data."""
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


def _remember_proposals(cfg: CfgNode, recipes: dict[str, Any], resume: bool) -> None:
    """Note what the second stage trains on; raise when it is resumed on something else."""
    path = os.path.join(cfg.OUTPUT_DIR, "two_stage.json")
    same = comm.all_gather(read_json(path) == {"proposals": recipes})[0]
    if resume and not same:
        raise UserError(
            f"--resume: the checkpoint in {os.path.abspath(cfg.OUTPUT_DIR)} was not trained on the "
            "proposals of the RPN that is there now. Start the second stage anew: remove its "
            "last_checkpoint; or both, without --resume"
        )
    if comm.is_main_process() and not same:
        write_json(path, {"proposals": recipes})
