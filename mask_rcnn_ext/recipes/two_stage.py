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
import logging
import os
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils import comm

from ..config import get_cfg
from ..data.catalog import require_datasets
from ..engine.run import prepare_run
from ..engine.trainer import Trainer
from ..errors import UserError
from ..files import read_json, write_json
from ..modeling.checks import check_registry_names, is_generalized_rcnn
from ..modeling.freezing import freeze_parts, is_within
from ..proposals.stored import make_proposal_network, update_proposals
from .stages import build_trainer as _build_trainer
from .stages import (
    forget_checkpoint,
    free_memory,
    has_checkpoint,
    is_finished,
    new_folder,
    require_resumable,
    require_same_rpn,
    rpn_options,
    write_config,
)

__all__ = ["first_stage", "second_stage", "train_two_stages"]

logger = logging.getLogger(__name__)

_RPN = ("proposal_generator",)  # its name in the model
_LIMIT = 1000  # average recall is also reported at this many proposals


def first_stage(cfg: CfgNode, opts: list[str], folder: str = "rpn") -> CfgNode:
    """Return the config of the RPN alone, in `OUTPUT_DIR/folder`.

    Args:
        cfg: of the whole model.
        opts: KEY, VALUE, ... for this stage.
        folder: a name.

    Raises:
        UserError: a key is unknown or cannot be chosen, a value has the wrong type, or a data set
            or a part of the model does not exist.
    """
    rpn = cfg.clone()
    rpn.defrost()
    rpn.merge_from_list(opts)
    if rpn.OUTPUT_DIR != cfg.OUTPUT_DIR:
        raise UserError(
            f"--rpn-opts: the RPN is always trained in the folder {folder} of the whole model's "
            "OUTPUT_DIR. Leave OUTPUT_DIR out of --rpn-opts"
        )
    rpn.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, folder)
    make_proposal_network(rpn)
    # Recall is measured at up to 1000; the files keep what the second stage reads.
    rpn.MODEL.RPN.POST_NMS_TOPK_TEST = max(
        _LIMIT, cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN
    )
    # Names that are no part of either model are told when the second one is built.
    ext = rpn.MASK_RCNN_EXT
    ext.FREEZE = [part for part in map(str, ext.FREEZE) if is_within(part, ("backbone", *_RPN))]
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
    ext = second.MASK_RCNN_EXT
    ext.FREEZE = [part for part in map(str, ext.FREEZE) if not is_within(part, _RPN)]
    second.freeze()
    return second


def train_two_stages(args: argparse.Namespace) -> None:
    """Run one process of the job.

    With `--resume` a finished stage is skipped and an interrupted one goes on; proposals are
    written again unless they are those of the RPN, to the last bit of its weights.

    Args:
        args: what `make_stage_parser` parsed.

    Raises:
        UserError: see `prepare_run`; or a stage cannot be resumed.
    """
    require_resumable(args, ["rpn", ""], "its folder rpn")
    with prepare_run(argparse.Namespace(**{**vars(args), "resume": False})) as joint:
        rpn_cfg, cfg = first_stage(joint, rpn_options(args.rpn_opts)), second_stage(joint)
        Trainer.require_ready(joint)
        # A mistake in the heads is told now, not after the first stage.
        freeze_parts(build_model(cfg), cfg.MASK_RCNN_EXT.FREEZE)
        if args.resume:
            require_same_rpn(rpn_cfg)
        skip = args.resume and is_finished(rpn_cfg)
        with new_folder(rpn_cfg.OUTPUT_DIR):
            trainer = None if skip else _build_trainer(rpn_cfg, args.resume)
        if comm.is_main_process():
            for stage in (rpn_cfg, cfg):
                write_config(stage)
                if not args.resume:
                    forget_checkpoint(stage)
    if trainer is None:
        logger.info("Stage 1 of 2, the RPN: finished in %s, skipped.", rpn_cfg.OUTPUT_DIR)
    else:
        logger.info("Stage 1 of 2: training the RPN alone, in %s.", rpn_cfg.OUTPUT_DIR)
        trainer.train()
        del trainer
        free_memory()
    recipes = update_proposals(rpn_cfg, cfg)
    free_memory()
    resume = args.resume and has_checkpoint(cfg)
    _remember_proposals(cfg, recipes, resume)
    if resume and is_finished(cfg):
        logger.info("Stage 2 of 2, on stored proposals: finished in %s, skipped.", cfg.OUTPUT_DIR)
        return
    logger.info("Stage 2 of 2: training on the stored proposals, in %s.", cfg.OUTPUT_DIR)
    _build_trainer(cfg, resume).train()


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
