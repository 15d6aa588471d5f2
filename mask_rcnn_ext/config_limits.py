"""The limits of numbers in a config. Beyond them, a training fails or learns nonsense."""

import math

from detectron2.config import CfgNode

from .config_node import flat_config
from .errors import UserError

__all__ = ["require_limits"]

_MOST = 1e18  # integers of 64 bits end at 9e18

# Lowest and highest number -> the ends of the keys.
_LIMITS: dict[tuple[float, float], tuple[str, ...]] = {
    (0, 1): ("POSITIVE_FRACTION", "NMS_THRESH", "NMS_THRESH_TEST", "SCORE_THRESH_TEST"),
    (0, math.inf): (
        *("SOLVER.MAX_ITER", "SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY", "SOLVER.WARMUP_ITERS"),
        *("NUM_WORKERS", "DATA.MAX_IMAGE_PIXELS", "POOLER_SAMPLING_RATIO"),
        *("INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST"),  # 0: the image is not resized
    ),
    (1, math.inf): (
        *("RPN.BATCH_SIZE_PER_IMAGE", "ROI_HEADS.BATCH_SIZE_PER_IMAGE", "ROI_HEADS.NUM_CLASSES"),
        *("IMS_PER_BATCH", "INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST", "POOLER_RESOLUTION"),
        "SOLVER.CHECKPOINT_PERIOD",
    ),
}


def require_limits(cfg: CfgNode) -> None:
    """Check the numbers of a config.

    Raises:
        UserError: a value is below or above the limits of its key, or is not a number.
    """
    for key, value in flat_config(cfg):
        numbers = value if isinstance(value, list | tuple) else [value]
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
