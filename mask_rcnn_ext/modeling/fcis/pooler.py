"""The position-sensitive RoI layer of a config."""

from detectron2.config import CfgNode

from ...errors import UserError, nearest
from ...layers import PSROIAlign, PSROIPool

__all__ = ["POOLER_TYPES", "build_ps_pooler"]

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
