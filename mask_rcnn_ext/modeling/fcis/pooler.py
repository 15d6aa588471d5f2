"""The position-sensitive RoI layer of a config."""

from detectron2.config import CfgNode

from ...errors import UserError, nearest
from ...layers import PSROIAlign, PSROIPool

__all__ = ["POOLER_TYPES", "build_ps_pooler", "require_in_range"]

POOLER_TYPES = ("PSROIPool", "PSROIAlign")


def build_ps_pooler(cfg: CfgNode, stride: int) -> PSROIPool | PSROIAlign:
    """Build the position-sensitive RoI layer that `MODEL.FCIS` asks for.

    Raises:
        UserError: an unknown type, or sizes that do not fit.
    """
    fcis = cfg.MODEL.FCIS
    if fcis.POOLER_TYPE not in POOLER_TYPES:
        raise UserError(
            f"MODEL.FCIS.POOLER_TYPE: expected {' or '.join(POOLER_TYPES)}, got "
            f"{fcis.POOLER_TYPE!r}{nearest(str(fcis.POOLER_TYPE), POOLER_TYPES)}"
        )
    bins, side = fcis.NUM_BINS, fcis.POOLED_SIZE
    if bins < 1 or side < bins:
        raise UserError(
            "MODEL.FCIS: expected 1 or more NUM_BINS and at least as large a POOLED_SIZE, got "
            f"{bins} and {side}"
        )
    if fcis.POOLER_TYPE == "PSROIPool":
        return PSROIPool(bins, side, 1 / stride)
    if side % bins:
        raise UserError(
            f"MODEL.FCIS.POOLED_SIZE: PSROIAlign needs a multiple of NUM_BINS {bins}, got {side}"
        )
    return PSROIAlign(bins, side, 1 / stride, fcis.POOLER_SAMPLING_RATIO)


def require_in_range(cfg: CfgNode) -> None:
    """Check the numbers of `MODEL.FCIS`, but for the pooler's and the mask threshold.

    Raises:
        UserError: one is out of its range.
    """
    fcis = cfg.MODEL.FCIS
    for key, fits, expected in (
        ("NUM_PASSES_TEST", fcis.NUM_PASSES_TEST >= 1, "1 or more"),
        ("CONV_DIM", fcis.CONV_DIM >= 1, "1 or more"),
        ("CONV_LR_FACTOR", fcis.CONV_LR_FACTOR > 0, "more than 0"),
        ("MASK_LOSS_WEIGHT", fcis.MASK_LOSS_WEIGHT >= 0, "0 or more"),
        ("POOLER_SAMPLING_RATIO", fcis.POOLER_SAMPLING_RATIO >= 0, "0 or more"),
        ("VOTE_IOU_THRESH", 0 < fcis.VOTE_IOU_THRESH <= 1, "more than 0 and at most 1"),
    ):
        if not fits:
            raise UserError(f"MODEL.FCIS.{key}: expected {expected}, got {fcis[key]}")
