"""The values that `MODEL.FCIS` may have, told before a model is built."""

from detectron2.config import CfgNode

from ...errors import UserError

__all__ = ["require_in_range"]


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
