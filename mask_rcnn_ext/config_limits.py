"""The limits of numbers in a config. Beyond them, a training fails or learns nonsense."""

import math

from detectron2.config import CfgNode

from .config_node import flat_config
from .errors import UserError

__all__ = ["require_limits"]

_MOST = 1e18  # integers of 64 bits end at 9e18

# The end of a key -> lowest and highest number.
_LIMITS: dict[str, tuple[float, float]] = {
    "RPN.BATCH_SIZE_PER_IMAGE": (1, math.inf),
    "ROI_HEADS.BATCH_SIZE_PER_IMAGE": (1, math.inf),
    "ROI_HEADS.NUM_CLASSES": (1, math.inf),
    "POSITIVE_FRACTION": (0, 1),
    "NMS_THRESH": (0, 1),
    "NMS_THRESH_TEST": (0, 1),
    "SCORE_THRESH_TEST": (0, 1),
    "IMS_PER_BATCH": (1, math.inf),
    "SOLVER.MAX_ITER": (0, math.inf),
    "SOLVER.BASE_LR": (0, math.inf),
    "SOLVER.WEIGHT_DECAY": (0, math.inf),
    "SOLVER.WARMUP_ITERS": (0, math.inf),
    "NUM_WORKERS": (0, math.inf),
    "DATA.MAX_IMAGE_PIXELS": (0, math.inf),
    "INPUT.MIN_SIZE_TRAIN": (0, math.inf),  # 0: the image is not resized
    "INPUT.MAX_SIZE_TRAIN": (1, math.inf),
    "INPUT.MIN_SIZE_TEST": (0, math.inf),
    "INPUT.MAX_SIZE_TEST": (1, math.inf),
    "POOLER_RESOLUTION": (1, math.inf),
    "POOLER_SAMPLING_RATIO": (0, math.inf),
}


def require_limits(cfg: CfgNode) -> None:
    """Check the numbers of a config.

    Raises:
        UserError: a value is below or above the limits of its key, or is not a number.
    """
    for key, value in flat_config(cfg):
        limits = [found for end, found in _LIMITS.items() if f".{key}".endswith(f".{end}")]
        if not limits:
            continue
        low, high = limits[0]
        for number in value if isinstance(value, list | tuple) else [value]:
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if not (is_number and low <= number <= min(high, _MOST)):
                expected = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
                raise UserError(f"{key}: expected {expected}, got {value!r}")
