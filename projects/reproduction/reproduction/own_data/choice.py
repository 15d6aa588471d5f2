"""The weights of a run to keep: the last, the best, or the best before an early end."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mask_rcnn_ext.engine.best_model import is_better

__all__ = ["Choice", "choose_weights"]

_METRIC = "segm/AP"  # the default of `MASK_RCNN_EXT.BEST_CHECKPOINT.METRIC` with masks


@dataclass(frozen=True)
class Choice:
    """Indices of evaluations.

    Attributes:
        last: the last evaluation of the run.
        best: the evaluation whose weights `MASK_RCNN_EXT.BEST_CHECKPOINT` keeps.
        stop: the evaluation after which `MASK_RCNN_EXT.EARLY_STOPPING` ends the run; else the last.
        early: the best evaluation up to `stop`.
    """

    last: int
    best: int
    stop: int
    early: int


def choose_weights(values: Sequence[float | None], patience: int) -> Choice:
    """Return the choice of the rule in `mask_rcnn_ext.engine.best_model`.

    Args:
        values: mask AP of each evaluation; None where it is undefined.
        patience: a run ends after so many evaluations in a row without improvement.
    """
    last = len(values) - 1
    best, waited, stop, early = -1, 0, last, -1
    for index, value in enumerate(values):
        if value is None or not math.isfinite(value):
            continue
        if best >= 0 and not is_better(_METRIC, value, values[best] or 0.0):
            waited += 1
            if waited == patience and early < 0:
                stop, early = index, best
        else:
            best, waited = index, 0
    best = last if best < 0 else best
    return Choice(last, best, stop, best if early < 0 else early)
