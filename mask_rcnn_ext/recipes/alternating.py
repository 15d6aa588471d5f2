"""4-step alternating training: RPN and detector in turns, until one network has both.

Faster R-CNN (Ren et al., arXiv:1506.01497), section 3.2, "4-Step Alternating Training":

1. the RPN is trained from the pre-trained network;
2. a detector is trained from the pre-trained network, too, on the proposals of step 1; nothing is
   shared yet;
3. the RPN is trained anew on the detector's layers, which are fixed where both read them;
4. the detector's own layers are trained on, from step 2, on the proposals of step 3; the shared
   layers are still fixed.

The result is one network: the backbone of step 2, the RPN of step 3, the heads of step 4. Mask
R-CNN (section 4.4) shares its features so, too.

Details, and what the paper leaves open:

- every step has the config's own `SOLVER`, the RPN's with `--rpn-opts`: on COCO the paper has one
  schedule for both, on PASCAL VOC the detector's is half as long;
- in step 3 the layers of the RPN alone start fresh;
- where heads and RPN read different feature maps, a layer of the backbone that only one of them
  reads is not shared: it is trained with that one. So is the res5 of FCIS in step 4;
- fixed layers have fixed batch statistics as well: those of step 2;
- proposals are as many as in two-stage training, see `engine.two_stage`.

The folder of a run has one folder for each step, of which those of the RPN hold the proposals, and
what every run has, of the whole network.
"""

import argparse
import logging
import os
import time
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.modeling import build_model
from detectron2.utils import comm
from torch import nn

from ..checkpoint.checkpointer import Checkpointer
from ..config import config_hash
from ..engine.results import write_results
from ..engine.run import prepare_run
from ..engine.trainer import Trainer
from ..files import atomic_open, file_sha256, read_json, write_json
from ..modeling.freezing import freeze_parts
from ..modeling.precision import prepare_model
from ..proposals.stored import update_proposals
from .alternating_steps import FOLDERS, Steps, final_weights, join_steps
from .stages import (
    build_trainer,
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

__all__ = ["train_alternating"]

logger = logging.getLogger(__name__)

# Keys that a step may be resumed with another value of: it trains on, or learns the same.
_MAY_CHANGE = (
    *("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD"),
    *("MODEL.DEVICE", "MODEL.WEIGHTS", "DATALOADER.NUM_WORKERS"),  # weights by their checksum
    *("DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"),  # so are proposals
)


def train_alternating(args: argparse.Namespace) -> None:
    """Run one process of the job.

    With `--resume` a finished step is skipped and an interrupted one goes on; a step that was made
    from weights or proposals which are no longer there is made anew.

    Args:
        args: what `make_stage_parser` parsed.

    Raises:
        UserError: see `prepare_run` and `Steps.of`; or a step cannot be resumed.
    """
    require_resumable(args, FOLDERS, "the folders of its steps")
    with prepare_run(argparse.Namespace(**{**vars(args), "resume": False})) as joint:
        steps = Steps.of(joint, rpn_options(args.rpn_opts))
        Trainer.require_ready(joint)
        # A mistake in the heads or in what is fixed is told now, not after hours.
        for step in steps[1:]:
            freeze_parts(build_model(step), step.MASK_RCNN_EXT.FREEZE)
        if args.resume:
            require_same_rpn(steps.rpn)
            require_same_rpn(steps.shared_rpn)
        skip = args.resume and is_finished(steps.rpn)
        with new_folder(steps.rpn.OUTPUT_DIR):
            trainer = None if skip else build_trainer(steps.rpn, args.resume)
        if comm.is_main_process():
            for step in steps:
                os.makedirs(step.OUTPUT_DIR, exist_ok=True)
                write_config(step)
                if not args.resume:
                    forget_checkpoint(step)
        comm.synchronize()
    if trainer is None:
        _log_skipped(1, steps.rpn)
    else:
        logger.info("Step 1 of 4: training the RPN, in %s.", steps.rpn.OUTPUT_DIR)
        trainer.train()
        del trainer
        free_memory()
    made_from: dict[str, Any] = {"proposals": update_proposals(steps.rpn, steps.detector)}
    _run_step(2, "the detector", steps.detector, made_from, args.resume)
    made_from = {"weights_sha256": _final_sha256(steps.detector)}
    _run_step(3, "the RPN on fixed features", steps.shared_rpn, made_from, args.resume)
    made_from = {
        **made_from,
        "proposals": update_proposals(steps.shared_rpn, steps.shared_detector),
    }
    _run_step(4, "the heads on fixed features", steps.shared_detector, made_from, args.resume)
    _finish(joint, steps, args.resume)


def _run_step(
    number: int, what: str, cfg: CfgNode, made_from: dict[str, Any], resume: bool
) -> None:
    """Train a step unless that is done.

    Args:
        number: 2, 3 or 4.
        what: is trained, for the log.
        cfg: of the step.
        made_from: what identifies the files that it starts from.
        resume: whether an earlier training counts, if it was made from the same.
    """
    path = os.path.join(cfg.OUTPUT_DIR, "made_from.json")
    made_from = {**made_from, "config_sha256": config_hash(cfg, cfg.SEED, _MAY_CHANGE)}
    same = comm.all_gather(read_json(path) == made_from)[0]
    resume = bool(comm.all_gather(resume and has_checkpoint(cfg))[0])
    if resume and same and is_finished(cfg):
        _log_skipped(number, cfg)
        return
    if resume and not same:
        logger.info(
            "Step %d of 4 begins anew, since its config or what it was made from has changed.",
            number,
        )
    if comm.is_main_process() and not same:
        forget_checkpoint(cfg)
        write_json(path, made_from)
    comm.synchronize()
    logger.info("Step %d of 4: training %s, in %s.", number, what, cfg.OUTPUT_DIR)
    build_trainer(cfg, resume and same).train()
    free_memory()


def _log_skipped(number: int, cfg: CfgNode) -> None:
    logger.info("Step %d of 4: finished in %s, skipped.", number, cfg.OUTPUT_DIR)


def _final_sha256(cfg: CfgNode) -> str:
    checksum: str = comm.all_gather(
        file_sha256(final_weights(cfg)) if comm.is_main_process() else ""
    )[0]
    return checksum


def _finish(joint: CfgNode, steps: Steps, resume: bool) -> None:
    """Write and evaluate the whole network, unless that is done."""
    note, path = (
        os.path.join(joint.OUTPUT_DIR, f) for f in ("alternating.json", "model_final.pth")
    )
    made_from = {
        "rpn_sha256": _final_sha256(steps.shared_rpn),
        "detector_sha256": _final_sha256(steps.shared_detector),
    }
    done = resume and read_json(note) == made_from and os.path.isfile(path)
    if comm.all_gather(done)[0]:
        logger.info("The whole network: finished in %s.", joint.OUTPUT_DIR)
        return
    logger.info("The whole network: evaluating it, in %s.", joint.OUTPUT_DIR)
    if comm.is_main_process():
        with atomic_open(path, "wb") as file:
            torch.save({"model": join_steps(steps)}, file)
    comm.synchronize()
    model = prepare_model(joint, Trainer.build_model(joint))
    Checkpointer(model).load(path, checkpointables=[])
    _evaluate(joint, model, steps)
    if comm.is_main_process():
        write_json(note, made_from)


def _evaluate(joint: CfgNode, model: nn.Module, steps: Steps) -> None:
    """Evaluate the whole network as `train_net.py --eval-only` would; count all steps' times."""
    start = time.perf_counter()
    results = Trainer.test_all(joint, model)
    seconds = time.perf_counter() - start
    if not comm.is_main_process():
        return
    records = [read_json(os.path.join(step.OUTPUT_DIR, "results.json"))["run"] for step in steps]
    write_results(
        joint,
        results,
        train_seconds=sum(record["train_seconds"] for record in records),
        eval_seconds=seconds + sum(record["eval_seconds"] for record in records),
        seed=joint.SEED,
        peak_mb=max(record["peak_memory_mb"] for record in records),
    )
    verify_results(joint, results)  # against TEST.EXPECTED_RESULTS, as after training
