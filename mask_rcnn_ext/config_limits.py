"""The limits of numbers in a config. Beyond them, a training fails or learns nonsense."""

import math
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from .config_node import MAY_BE_NOTHING, flat_config
from .errors import UserError

__all__ = ["require_limits"]

_MOST = 1e18  # integers of 64 bits end at 9e18

# The numbers that the deltas of a box have, in detectron2's parts that read `BBOX_REG_WEIGHTS`.
_WEIGHTS = {
    **dict.fromkeys(("RPN", "StandardROIHeads", "Res5ROIHeads", "MaskRCNNROIHeads"), 4),
    **dict.fromkeys(("RRPN", "RROIHeads"), 5),
}

_TOPK = ("PRE_NMS", "POST_NMS", "PRECOMPUTED_PROPOSAL")

# Lowest and highest number -> the ends of the keys.
_LIMITS: dict[tuple[float, float], tuple[str, ...]] = {
    (0, 1): ("POSITIVE_FRACTION", "NMS_THRESH", "NMS_THRESH_TEST", "SCORE_THRESH_TEST"),
    (0, math.inf): (
        *("SOLVER.MAX_ITER", "SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY", "SOLVER.WARMUP_ITERS"),
        *("SOLVER.WEIGHT_DECAY_NORM", "SOLVER.WEIGHT_DECAY_BIAS"),
        *("SOLVER.GAMMA", "SOLVER.MOMENTUM", "SOLVER.WARMUP_FACTOR"),
        *("NUM_WORKERS", "DATA.MAX_IMAGE_PIXELS"),
        # 0: the image is not resized
        *("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "TEST.AUG.MIN_SIZES"),
        *("PRECISE_BN.NUM_ITER", "DATALOADER.REPEAT_THRESHOLD"),
        *("LOSS_WEIGHT", "BBOX_REG_LOSS_WEIGHT", "SMOOTH_L1_BETA"),
        # A negative number would drop the worst proposals.
        *(f"{name}_TOPK_{split}" for name in _TOPK for split in ("TRAIN", "TEST")),
    ),
    (1, math.inf): (
        *("RPN.BATCH_SIZE_PER_IMAGE", "ROI_HEADS.BATCH_SIZE_PER_IMAGE", "ROI_HEADS.NUM_CLASSES"),
        *("INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST", "TEST.AUG.MAX_SIZE"),
        *("SOLVER.CHECKPOINT_PERIOD", "ANCHOR_GENERATOR.SIZES", "CONV_DIM", "FC_DIM"),
        *("FPN.OUT_CHANNELS", "TINY_RESNET.STEM_CHANNELS"),
    ),
    # Far above what a model needs, and below what memory holds.
    (1, 65_536): ("IMS_PER_BATCH",),
    (1, 1024): ("POOLER_RESOLUTION",),
    (0, 1024): ("POOLER_SAMPLING_RATIO",),
    (0.001, 1000): ("ANCHOR_GENERATOR.ASPECT_RATIOS",),
}


def require_limits(cfg: CfgNode) -> None:
    """Check the numbers of a config.

    Raises:
        UserError: a value is below or above the limits of its key, or is not a number; the weights
            of box deltas are not one for each delta; a level has no anchors; an expected
            result has another form; or a scaled schedule has no iterations after the warmup.
    """
    _require_box_weights(cfg)
    _require_anchors(cfg)
    _require_expected_results(cfg)
    if 0 in cfg.MODEL.RPN.CONV_DIMS:
        raise UserError(
            "MODEL.RPN.CONV_DIMS: expected numbers of channels, or -1 for as many as the layer "
            f"before has, got {cfg.MODEL.RPN.CONV_DIMS}"
        )
    solver = cfg.SOLVER
    if solver.RESCALE_INTERVAL and 0 < solver.MAX_ITER <= solver.WARMUP_ITERS:
        raise UserError(
            "SOLVER.RESCALE_INTERVAL True scales the schedule into the iterations after the "
            f"warmup: expected SOLVER.WARMUP_ITERS below SOLVER.MAX_ITER, got "
            f"{solver.WARMUP_ITERS} and {solver.MAX_ITER}"
        )
    for key, value in flat_config(cfg):
        if value is None and key in MAY_BE_NOTHING:
            continue
        numbers = list(_flatten(value))
        for (low, high), ends in _LIMITS.items():
            if not f".{key}".endswith(tuple(f".{end}" for end in ends)):
                continue
            for number in numbers:
                is_number = isinstance(number, int | float) and not isinstance(number, bool)
                highest = min(high, _MOST)
                if not (is_number and low <= number <= highest):
                    has_end = high < math.inf or (is_number and number > highest)
                    expected = f"{low:g} to {highest:g}" if has_end else f"{low:g} or more"
                    raise UserError(f"{key}: expected {expected}, got {value!r}")


def _flatten(value: Any) -> Iterator[Any]:
    """Yield the items of a list or tuple, also of lists in it, or the value itself."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _flatten(item)
    else:
        yield value


def _require_anchors(cfg: CfgNode) -> None:
    """Raise unless each level has a size and an aspect ratio."""
    for key in ("SIZES", "ASPECT_RATIOS"):
        levels = cfg.MODEL.ANCHOR_GENERATOR[key]
        if not levels or any(isinstance(each, list | tuple) and not each for each in levels):
            raise UserError(
                f"MODEL.ANCHOR_GENERATOR.{key}: expected a number or more for each level, such as "
                f"[[32, 64]], got {levels}"
            )


def _require_expected_results(cfg: CfgNode) -> None:
    """Raise unless `verify_results` can compare results with those that are expected."""
    kinds = (str, str, int | float, int | float)
    for entry in cfg.TEST.EXPECTED_RESULTS:
        listed = isinstance(entry, list | tuple) and len(entry) == len(kinds)
        if not (listed and all(map(isinstance, entry, kinds))):
            raise UserError(
                "TEST.EXPECTED_RESULTS: expected lists of a task, a metric, its value and how much "
                f'it may differ, such as [["segm", "AP", 35.2, 0.3]], got {entry!r}'
            )


def _require_box_weights(cfg: CfgNode) -> None:
    """Raise unless `BBOX_REG_WEIGHTS` has a number for dx, dy, dw, dh and for a rotation."""
    model = cfg.MODEL
    reader = {
        "RPN": model.PROPOSAL_GENERATOR.NAME,
        "ROI_BOX_HEAD": model.ROI_HEADS.NAME,
    }
    for name, user in reader.items():
        # A part of a project may take boxes of both kinds.
        counts = [_WEIGHTS[user]] if user in _WEIGHTS else [4, 5]
        weights = model[name].BBOX_REG_WEIGHTS
        numbers = [each for each in weights if isinstance(each, int | float) and each > 0]
        if len(numbers) != len(weights) or len(weights) not in counts:
            expected = " or ".join(map(str, counts))
            raise UserError(
                f"MODEL.{name}.BBOX_REG_WEIGHTS: expected {expected} numbers above 0, got {weights}"
            )
