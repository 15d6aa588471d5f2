"""The configs of the four steps of alternating training, and the network that they make."""

import os
from collections.abc import Iterable
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone

from ..checkpoint.safe_load import load_torch
from ..errors import UserError
from ..modeling.freezing import find_parts, is_within, trace_parameters
from ..proposals.stored import rpn_keys
from .two_stage import first_stage, second_stage

__all__ = ["FOLDERS", "Steps", "final_weights", "join_steps"]

FOLDERS = ("step1_rpn", "step2_detector", "step3_rpn", "step4_detector")


def final_weights(cfg: CfgNode) -> str:
    """Return the path of the weights at the end of a step."""
    return os.path.join(cfg.OUTPUT_DIR, "model_final.pth")


class Steps(NamedTuple):
    """The configs of the four steps of `engine.alternating`, each in a folder of its own."""

    rpn: CfgNode
    detector: CfgNode
    shared_rpn: CfgNode
    shared_detector: CfgNode

    @classmethod
    def of(cls, joint: CfgNode, rpn_opts: list[str]) -> "Steps":
        """Return the steps that make the model of `joint`.

        Args:
            joint: of the whole network; its `OUTPUT_DIR` is that of the run.
            rpn_opts: KEY, VALUE, ... for both trainings of the RPN.

        Raises:
            UserError: see `first_stage` and `second_stage`; or `rpn_opts` changes the network.
        """
        as_asked = second_stage(joint)  # first, since it tells a model without an RPN
        rpn = first_stage(joint, rpn_opts, FOLDERS[0])
        _require_one_network(first_stage(joint, [], FOLDERS[0]), rpn)
        detectors = [_on_proposals_of(joint, as_asked, FOLDERS[i], FOLDERS[i + 1]) for i in (0, 2)]
        rpn_parts, detector_parts = _shared_parts(rpn, as_asked)
        weights = final_weights(detectors[0])
        shared_rpn = _continued(rpn, weights, rpn_parts)
        shared_rpn.OUTPUT_DIR = os.path.join(joint.OUTPUT_DIR, FOLDERS[2])
        shared_detector = _continued(detectors[1], weights, detector_parts)
        steps = cls(rpn, detectors[0], shared_rpn, shared_detector)
        for step in steps:
            step.freeze()
        return steps


def _require_one_network(without: CfgNode, rpn: CfgNode) -> None:
    """Raise when `--rpn-opts` gives the RPN another network than the detector's."""
    before, now = rpn_keys(without), rpn_keys(rpn)
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise UserError(
                f"--rpn-opts: {key} is {now.get(key)} for the RPN, {before.get(key)} for the "
                "detector, but the two become one network. Set it for both, without --rpn-opts"
            )


def _on_proposals_of(joint: CfgNode, detector: CfgNode, rpn_folder: str, folder: str) -> CfgNode:
    """Return the config `detector` in `folder`, on the proposals in `rpn_folder`."""
    cfg = detector.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = os.path.join(joint.OUTPUT_DIR, folder)
    proposals = os.path.abspath(os.path.join(joint.OUTPUT_DIR, rpn_folder, "proposals"))
    for split in ("TRAIN", "TEST"):
        key = f"PROPOSAL_FILES_{split}"
        cfg.DATASETS[key] = tuple(
            os.path.join(proposals, os.path.basename(file)) for file in cfg.DATASETS[key]
        )
    cfg.TEST.AUG.ENABLED, cfg.TEST.EXPECTED_RESULTS = False, []  # of the whole network
    return cfg


def _shared_parts(rpn: CfgNode, detector: CfgNode) -> tuple[list[str], list[str]]:
    """Return the parts of the backbone that are fixed in steps 3 and 4.

    Step 3 fixes what the heads read, step 4 what the RPN reads; usually that is all of it.
    """
    channels = len(rpn.MODEL.PIXEL_MEAN)
    of_rpn, of_detector = build_backbone(rpn), build_backbone(detector)
    read_by_rpn = trace_parameters(of_rpn, rpn.MODEL.RPN.IN_FEATURES, channels)
    read_by_heads = trace_parameters(of_detector, detector.MODEL.ROI_HEADS.IN_FEATURES, channels)
    return (
        find_parts(of_rpn, read_by_heads, "backbone"),
        find_parts(of_detector, read_by_rpn, "backbone"),
    )


def _continued(cfg: CfgNode, weights: str, frozen: Iterable[str]) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    ext = cfg.MASK_RCNN_EXT
    ext.FREEZE = [*ext.FREEZE, *(part for part in frozen if part not in ext.FREEZE)]
    return cfg


def join_steps(steps: Steps) -> dict[str, torch.Tensor]:
    """Return the state dict of the whole network.

    Args:
        steps: finished ones.

    Returns:
        What step 4 has and, of step 3's, all that is not shared.

    Raises:
        UserError: the two do not have the same shared features, or a file is unreadable.
    """
    rpn, detector = (final_weights(step) for step in (steps.shared_rpn, steps.shared_detector))
    of_rpn, of_detector = (load_torch(path)["model"] for path in (rpn, detector))
    frozen = steps.shared_rpn.MASK_RCNN_EXT.FREEZE
    shared = [part for part in frozen if is_within(part, ["backbone"])]
    for name, value in of_rpn.items():
        if is_within(name, shared) and not torch.equal(value, of_detector[name]):
            raise UserError(
                f"{name} is not the same in {rpn} and {detector}: expected steps of one run. "
                "Train anew, without --resume"
            )
    own = {name: value for name, value in of_rpn.items() if not is_within(name, shared)}
    fixed = [*frozen, *steps.shared_detector.MASK_RCNN_EXT.FREEZE]
    for name in own.keys() & of_detector.keys():
        if not is_within(name, fixed) and not torch.equal(own[name], of_detector[name]):
            raise UserError(
                f"{name} was trained in step 3 and again in step 4, so that the two are not one "
                "network: it lies in no part of the backbone that can be fixed by itself. Train "
                "in two stages (tools/train_two_stage.py) or jointly"
            )
    return {**of_detector, **own}
