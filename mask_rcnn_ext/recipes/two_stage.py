"""Two-stage training: first an RPN alone, then Mask R-CNN on its stored proposals.

Mask R-CNN, section 3.1: "For convenient ablation, RPN is trained separately and does not share
features with Mask R-CNN, unless specified." Both stages start from `MODEL.WEIGHTS`, with the same
backbone and data. The paper does not give the rest, which is as follows:

- the first stage has the config's own `SOLVER`, unless `--rpn-opts` changes it;
- the second stage reads `DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN` proposals per training image,
  2000 as in the FPN paper;
- the second stage flips and scales the training images and their proposals at random.

At test time the second stage reads the best `MODEL.RPN.POST_NMS_TOPK_TEST` proposals, as many as in
joint training. The run's folder has `rpn/`, a run whose results are the average recall of the
proposals; `proposals/<data set>.pkl`; and the usual files of a run, from the second stage.
"""

import argparse
import json
import os
import re
from typing import Any

from detectron2.config import CfgNode

from ..config import get_cfg, load_config
from ..config_limits import require_limits
from ..data.catalog import require_datasets
from ..engine.run import prepare_run
from ..engine.trainer import Trainer
from ..errors import UserError
from ..modeling.building import SkipRandomWeights, build_model
from ..modeling.checks import (
    check_registry_names,
    is_generalized_rcnn,
    require_fitting_training_data,
)
from ..modeling.freezing import freeze_parts, is_within
from ..proposals.rpn import get_rpn_keys, make_proposal_network, plan_proposals
from ..steps import run_steps
from .stages import TrainingStage, begin_stages, require_resumable, split_rpn_options

__all__ = ["RPNStage", "make_first_stage", "make_second_stage", "train_two_stages"]

_RPN = ("proposal_generator",)  # the name of the RPN in the model
_LIMIT = 1000  # proposals at which average recall is also reported
_METRIC = "MASK_RCNN_EXT.BEST_CHECKPOINT.METRIC"
# The metrics of an RPN.
_MEASURED = re.compile(r"(^|/)(box_proposals/|validation_loss/(total_loss$|loss_rpn_))")


def make_first_stage(cfg: CfgNode, opts: list[str], folder: str = "rpn") -> CfgNode:
    """Return the config of the RPN alone, in `OUTPUT_DIR/folder`.

    Args:
        cfg: the config of the whole model.
        opts: KEY, VALUE, ... for this stage.
        folder: the name of the folder.

    Raises:
        UserError: a key is unknown or must not be set here, a value has the wrong type, a data set
            or a part of the model does not exist; or see `require_limits` and
            `require_fitting_training_data`.
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
    # Recall is measured at up to 1000 proposals; the second stage can read more.
    rpn.MODEL.RPN.POST_NMS_TOPK_TEST = max(
        _LIMIT, cfg.MODEL.RPN.POST_NMS_TOPK_TEST, cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN
    )
    # Names that belong to neither model are reported when the second model is built.
    ext = rpn.MASK_RCNN_EXT
    ext.FREEZE = [part for part in map(str, ext.FREEZE) if is_within(part, ("backbone", *_RPN))]
    if _METRIC not in opts[::2] and not _MEASURED.search(ext.BEST_CHECKPOINT.METRIC):
        ext.BEST_CHECKPOINT.METRIC = ""  # the recall of the proposals
    if "MASK_RCNN_EXT.EVALUATORS" not in opts[::2]:
        ext.EVALUATORS = []  # they evaluate detections, such as their masks
    rpn.TEST.AUG.ENABLED, rpn.TEST.EXPECTED_RESULTS = False, []
    check_registry_names(rpn)
    require_datasets([*rpn.DATASETS.TRAIN, *rpn.DATASETS.TEST])
    require_limits(rpn)
    require_fitting_training_data(rpn)
    if ext.FREEZE and "MASK_RCNN_EXT.FREEZE" not in opts[::2]:
        # The RPN's backbone has no stages that only the heads read, such as FCIS's res5.
        with SkipRandomWeights():
            model = build_model(rpn)
        known = {name for name, _ in model.named_modules(remove_duplicate=False)}
        ext.FREEZE = [p for p in ext.FREEZE if p in known or not is_within(p, ("backbone",))]
    rpn.freeze()
    return rpn


def make_second_stage(cfg: CfgNode, rpn_folder: str = "") -> CfgNode:
    """Return the config of Mask R-CNN on the proposals in `OUTPUT_DIR/rpn_folder/proposals`.

    Raises:
        UserError: the model has no RoI heads, reads stored proposals already, or asks for another
            number of proposals at test time than its RPN gives.
    """
    if not is_generalized_rcnn(cfg):
        raise UserError(
            f"MODEL.META_ARCHITECTURE {cfg.MODEL.META_ARCHITECTURE} has no second stage: expected "
            "GeneralizedRCNN or a subclass of it"
        )
    if cfg.MODEL.LOAD_PROPOSALS or cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
        raise UserError(
            "the config reads stored proposals already (MODEL.LOAD_PROPOSALS, "
            "MODEL.PROPOSAL_GENERATOR.NAME): expected the config of a model with an RPN. Train "
            "this one with train_net.py; it also resumes the second stage of a run"
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
    folder = os.path.abspath(os.path.join(cfg.OUTPUT_DIR, rpn_folder, "proposals"))
    for split in ("TRAIN", "TEST"):
        second.DATASETS[f"PROPOSAL_FILES_{split}"] = tuple(
            os.path.join(folder, f"{name}.pkl") for name in cfg.DATASETS[split]
        )
    second.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST = topk
    ext = second.MASK_RCNN_EXT
    ext.FREEZE = [part for part in map(str, ext.FREEZE) if not is_within(part, _RPN)]
    second.freeze()
    return second


class RPNStage(TrainingStage):
    """The training of an RPN. With `resume`, an RPN of another config or data set is an error.

    Args:
        title: the stage's name in the log.
        cfg: the config of the RPN.
        resume: see `TrainingStage`.
    """

    def __init__(self, title: str, cfg: CfgNode, *, resume: bool) -> None:
        super().__init__(title, cfg, resume=resume, find_inputs=lambda: _find_rpn_inputs(cfg))

    def read_record(self) -> dict[str, Any] | None:
        """See `Step`; without a record the folder's `config.yaml` counts."""
        recorded = super().read_record()
        if recorded == {}:
            path = os.path.join(self.cfg.OUTPUT_DIR, "config.yaml")
            return _find_rpn_inputs(load_config(path) if os.path.isfile(path) else self.cfg)
        return recorded

    def require_replaceable(self, change: str) -> None:
        """Raise a `UserError`: with `--resume`, a trained RPN is not thrown away."""
        raise UserError(
            f"--resume: the RPN in {self.cfg.OUTPUT_DIR} was {change}. Set it back, or start "
            "again: without --resume, or with another OUTPUT_DIR"
        )


def _find_rpn_inputs(cfg: CfgNode) -> dict[str, Any]:
    keys = {key: value for key, value in get_rpn_keys(cfg).items() if not key.endswith("_TEST")}
    return {**keys, "DATASETS.TRAIN": json.dumps(cfg.DATASETS.TRAIN)}


class _SecondStage(TrainingStage):
    """The training on stored proposals. With `resume`, other proposals are an error."""

    def require_replaceable(self, change: str) -> None:
        folder = os.path.abspath(self.cfg.OUTPUT_DIR)
        raise UserError(
            f"--resume: the checkpoint in {folder} was not trained on the proposals of the "
            "RPN that is there now. Start the second stage again: remove its last_checkpoint; or "
            "start both stages again, without --resume"
        )


def train_two_stages(args: argparse.Namespace) -> None:
    """Train in two stages, in one process of the job.

    With `--resume` a finished stage is skipped and an interrupted one continues. Proposals are
    written again unless they were made with the same weights of the RPN, to the last bit.

    Args:
        args: the options, see `make_stage_parser`.

    Raises:
        UserError: see `prepare_run`; or a stage cannot be resumed.
    """
    require_resumable(args, ["rpn", ""], "its folder rpn")
    with prepare_run(args, stages=True) as joint:
        rpn_cfg = make_first_stage(joint, split_rpn_options(args.rpn_opts))
        cfg = make_second_stage(joint)
        Trainer.require_ready(joint)
        # A mistake in the heads is reported now, not after the first stage.
        freeze_parts(build_model(cfg), cfg.MASK_RCNN_EXT.FREEZE)
        proposals = plan_proposals(rpn_cfg, cfg)
        rpn = RPNStage("Stage 1 of 2, the RPN", rpn_cfg, resume=args.resume)
        detector = _SecondStage(
            "Stage 2 of 2, on stored proposals",
            cfg,
            resume=args.resume,
            find_inputs=lambda: {
                "proposals": {step.dataset_name: step.find_inputs() for step in proposals}
            },
            record="two_stage.json",
        )
        steps = [rpn, *proposals, detector]
        rpn.build()
    begin_stages(steps, joint.OUTPUT_DIR)
    run_steps(steps)
