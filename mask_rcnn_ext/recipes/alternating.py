"""4-step alternating training: RPN and detector in turns, until one network has both.

Faster R-CNN (Ren et al., arXiv:1506.01497), section 3.2, "4-Step Alternating Training":

1. the RPN is trained from the pre-trained network;
2. a detector is trained from the pre-trained network on the proposals of step 1; the two networks
   share nothing yet;
3. an RPN is trained on the detector's layers; the layers that both read are fixed;
4. the detector's own layers are trained further, from step 2, on the proposals of step 3; the
   shared layers are still fixed.

The result is one network: the backbone of step 2, the RPN of step 3, the heads of step 4. Mask
R-CNN (section 4.4) shares its features in the same way.

Details, and choices that the paper leaves open:

- every step has the config's own `SOLVER`; `--rpn-opts` changes the steps of the RPN. On COCO the
  paper has one schedule for both, on PASCAL VOC the detector's schedule is half as long;
- in step 3 the layers that only the RPN has start from random weights;
- a layer of the backbone that only the heads or only the RPN read is not shared: it is trained with
  its reader. The res5 of FCIS is trained in step 4 for this reason;
- fixed layers also keep the batch statistics of step 2;
- there are as many proposals as in two-stage training, see `recipes.two_stage`.

A run's folder has one folder for each step (the RPN's folders hold the proposals) and the usual
files of a run, for the whole network.
"""

import argparse
import os
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.modeling import build_backbone
from detectron2.utils import comm

from ..checkpoint.checkpointer import Checkpointer
from ..checkpoint.description import describe_run
from ..checkpoint.safe_load import load_torch
from ..config import config_hash
from ..engine.results import write_results
from ..engine.run import prepare_run
from ..engine.trainer import Trainer
from ..errors import UserError
from ..files import atomic_open, file_sha256, read_json_or_none
from ..modeling.building import build_model
from ..modeling.freezing import find_largest_modules, freeze_parts, is_within, trace_parameters
from ..modeling.precision import prepare_model
from ..proposals.rpn import get_rpn_keys, plan_proposals
from ..steps import Step, run_steps
from .stages import TrainingStage, begin_stages, require_resumable, split_rpn_options
from .two_stage import RPNStage, make_first_stage, make_second_stage

__all__ = ["STEP_FOLDERS", "StepConfigs", "join_steps", "make_step_configs", "train_alternating"]

STEP_FOLDERS = ("step1_rpn", "step2_detector", "step3_rpn", "step4_detector")

# Keys that may change when a step is resumed: they lengthen the training, or change no number.
_MAY_CHANGE = (
    *("SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.CHECKPOINT_PERIOD", "TEST.EVAL_PERIOD"),
    *("MODEL.DEVICE", "DATALOADER.NUM_WORKERS"),
    # For these, the checksums of the files are compared instead.
    *("MODEL.WEIGHTS", "DATASETS.PROPOSAL_FILES_TRAIN", "DATASETS.PROPOSAL_FILES_TEST"),
)


class StepConfigs(NamedTuple):
    """The configs of the four steps, each with its own `OUTPUT_DIR`."""

    rpn: CfgNode
    detector: CfgNode
    shared_rpn: CfgNode
    shared_detector: CfgNode


def make_step_configs(joint: CfgNode, rpn_opts: list[str]) -> StepConfigs:
    """Return the configs of the steps that train the model of `joint`.

    Args:
        joint: the config of the whole network. Its `OUTPUT_DIR` is the folder of the run.
        rpn_opts: KEY, VALUE, ... for both trainings of the RPN.

    Raises:
        UserError: see `make_first_stage` and `make_second_stage`; or `rpn_opts` makes another
            network.
    """
    # First, since it refuses a model without an RPN.
    detectors = [_make_detector(joint, STEP_FOLDERS[i], STEP_FOLDERS[i + 1]) for i in (0, 2)]
    rpn = make_first_stage(joint, rpn_opts, STEP_FOLDERS[0])
    _require_one_network(make_first_stage(joint, [], STEP_FOLDERS[0]), rpn)
    rpn_parts, detector_parts = _find_shared_parts(rpn, detectors[0])
    weights = get_weights_path(detectors[0])
    shared_rpn = _continue_from(rpn, weights, rpn_parts)
    shared_rpn.OUTPUT_DIR = os.path.join(joint.OUTPUT_DIR, STEP_FOLDERS[2])
    shared_detector = _continue_from(detectors[1], weights, detector_parts)
    steps = StepConfigs(rpn, detectors[0], shared_rpn, shared_detector)
    for step in steps:
        step.freeze()
    return steps


def _require_one_network(without: CfgNode, rpn: CfgNode) -> None:
    """Raise if `--rpn-opts` gives the RPN another network than the detector has."""
    before, now = get_rpn_keys(without), get_rpn_keys(rpn)
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise UserError(
                f"--rpn-opts: {key} is {now.get(key)} for the RPN, {before.get(key)} for the "
                "detector, but the two become one network. Set it for both, without --rpn-opts"
            )


def _make_detector(joint: CfgNode, rpn_folder: str, folder: str) -> CfgNode:
    """Return the config of the detector in `folder`, on the proposals in `rpn_folder`."""
    cfg = make_second_stage(joint, rpn_folder)
    cfg.defrost()
    cfg.OUTPUT_DIR = os.path.join(joint.OUTPUT_DIR, folder)
    cfg.TEST.AUG.ENABLED, cfg.TEST.EXPECTED_RESULTS = False, []  # of the whole network
    return cfg


def _find_shared_parts(rpn: CfgNode, detector: CfgNode) -> tuple[list[str], list[str]]:
    """Return the parts of the backbone that are fixed in step 3, and those fixed in step 4.

    Step 3 fixes the layers that the heads read, step 4 the layers that the RPN reads. Usually both
    read the whole backbone.
    """
    channels = len(rpn.MODEL.PIXEL_MEAN)
    rpn_backbone, detector_backbone = build_backbone(rpn), build_backbone(detector)
    read_by_rpn = trace_parameters(rpn_backbone, rpn.MODEL.RPN.IN_FEATURES, channels)
    read_by_heads = trace_parameters(
        detector_backbone, detector.MODEL.ROI_HEADS.IN_FEATURES, channels
    )
    return (
        find_largest_modules(rpn_backbone, read_by_heads, "backbone"),
        find_largest_modules(detector_backbone, read_by_rpn, "backbone"),
    )


def _continue_from(cfg: CfgNode, weights: str, frozen: Iterable[str]) -> CfgNode:
    """Return a config that starts from `weights` and keeps the parts `frozen` fixed."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    ext = cfg.MASK_RCNN_EXT
    ext.FREEZE = [*ext.FREEZE, *(part for part in frozen if part not in ext.FREEZE)]
    return cfg


def join_steps(steps: StepConfigs) -> dict[str, torch.Tensor]:
    """Return the state dict of the whole network.

    Args:
        steps: the configs of finished steps.

    Returns:
        All tensors of step 4, and the tensors of step 3 that are not shared.

    Raises:
        UserError: the shared layers of steps 3 and 4 differ, or a file is unreadable.
    """
    rpn, detector = (get_weights_path(step) for step in (steps.shared_rpn, steps.shared_detector))
    rpn_state, detector_state = (load_torch(path)["model"] for path in (rpn, detector))
    frozen = steps.shared_rpn.MASK_RCNN_EXT.FREEZE
    shared = [part for part in frozen if is_within(part, ["backbone"])]
    for name, value in rpn_state.items():
        if is_within(name, shared) and not torch.equal(value, detector_state[name]):
            raise UserError(
                f"{name} is not the same in {rpn} and {detector}: expected steps of one run. "
                "Train again, without --resume"
            )
    own = {name: value for name, value in rpn_state.items() if not is_within(name, shared)}
    fixed = [*frozen, *steps.shared_detector.MASK_RCNN_EXT.FREEZE]
    for name in own.keys() & detector_state.keys():
        if not is_within(name, fixed) and not torch.equal(own[name], detector_state[name]):
            raise UserError(
                f"{name} was trained in step 3 and again in step 4, so the RPN and the detector do "
                "not share it. It is in no part of the backbone that can be frozen on its own. "
                "Train in two stages (tools/train_two_stage.py) or jointly"
            )
    return {**detector_state, **own}


def get_weights_path(cfg: CfgNode) -> str:
    """Return the path of the weights at the end of a step."""
    return os.path.join(cfg.OUTPUT_DIR, "model_final.pth")


class _WholeNetwork(Step):
    """The last step: joins the networks of the steps and evaluates the result."""

    def __init__(self, joint: CfgNode, steps: StepConfigs, resume: bool) -> None:
        record = os.path.join(joint.OUTPUT_DIR, "alternating.json")
        title = f"The whole network, in {joint.OUTPUT_DIR}"
        super().__init__(title, record, [get_weights_path(joint)])
        self.joint, self.steps, self.resume = joint, steps, resume

    def find_inputs(self) -> dict[str, Any]:
        return {
            "rpn_sha256": file_sha256(get_weights_path(self.steps.shared_rpn)),
            "detector_sha256": file_sha256(get_weights_path(self.steps.shared_detector)),
        }

    def read_record(self) -> dict[str, Any] | None:
        return super().read_record() if self.resume else None

    def make(self, resume: bool) -> None:
        path = get_weights_path(self.joint)
        if comm.is_main_process():
            with atomic_open(path, "wb") as file:
                description = describe_run(self.joint, self.joint.SEED)
                torch.save({"model": join_steps(self.steps), **description}, file)
        comm.synchronize()
        model = prepare_model(self.joint, Trainer.build_model(self.joint))
        Checkpointer(model).load(path, checkpointables=[])
        start = time.perf_counter()
        results = Trainer.test_all(self.joint, model)
        seconds = time.perf_counter() - start
        if comm.is_main_process():
            files = [os.path.join(step.OUTPUT_DIR, "results.json") for step in self.steps]
            runs = [read_json_or_none(file)["run"] for file in files]
            write_results(
                self.joint,
                results,
                train_seconds=sum(run["train_seconds"] for run in runs),
                eval_seconds=seconds + sum(run["eval_seconds"] for run in runs),
                seed=self.joint.SEED,
                peak_mb=max(run["peak_memory_mb"] for run in runs),
            )
            verify_results(self.joint, results)  # against TEST.EXPECTED_RESULTS


def _plan(joint: CfgNode, configs: StepConfigs, resume: bool) -> list[Any]:
    """Return all steps of the work, in order; the first one is a `TrainingStage`."""
    first = plan_proposals(configs.rpn, configs.detector)
    second = plan_proposals(configs.shared_rpn, configs.shared_detector)

    def make_stage(
        title: str, cfg: CfgNode, proposals: Sequence[Any] = (), *, weights: bool
    ) -> Step:
        def find_inputs() -> dict[str, Any]:
            inputs: dict[str, Any] = {"config_sha256": config_hash(cfg, cfg.SEED, _MAY_CHANGE)}
            if weights:
                inputs["weights_sha256"] = file_sha256(get_weights_path(configs.detector))
            if proposals:
                inputs["proposals"] = {step.dataset_name: step.find_inputs() for step in proposals}
            return inputs

        return TrainingStage(title, cfg, resume=resume, find_inputs=find_inputs)

    _, detector, shared_rpn, shared_detector = configs
    return [
        RPNStage("Step 1 of 4, the RPN", configs.rpn, resume=resume),
        *first,
        make_stage("Step 2 of 4, the detector", detector, first, weights=False),
        make_stage("Step 3 of 4, the RPN on fixed features", shared_rpn, weights=True),
        *second,
        make_stage(
            "Step 4 of 4, the heads on fixed features", shared_detector, second, weights=True
        ),
        _WholeNetwork(joint, configs, resume),
    ]


def train_alternating(args: argparse.Namespace) -> None:
    """Train in four steps, in one process of the job.

    With `--resume` a finished step is skipped and an interrupted one continues. A step is done
    again if the weights or proposals that it started from have changed.

    Args:
        args: the options, see `engine.arguments.make_stage_parser`.

    Raises:
        UserError: see `prepare_run` and `make_step_configs`; or a step cannot be resumed.
    """
    require_resumable(args, STEP_FOLDERS, "the folders of its steps")
    with prepare_run(args, stages=True) as joint:
        configs = make_step_configs(joint, split_rpn_options(args.rpn_opts))
        Trainer.require_ready(joint)
        # A mistake in the heads or in the fixed parts is reported now, not after hours.
        for cfg in configs[1:]:
            freeze_parts(build_model(cfg), cfg.MASK_RCNN_EXT.FREEZE)
        steps = _plan(joint, configs, args.resume)
        steps[0].build()
    begin_stages(steps, joint.OUTPUT_DIR)
    run_steps(steps)
