"""detectron2's `detector_postprocess`, without an image for each mask."""

import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import Instances

from ..layers.packed_masks import PackedMasks

__all__ = ["postprocess_packed"]


def postprocess_packed(
    raw: Instances, height: int, width: int, mask_threshold: float = 0.5
) -> Instances:
    """Scale the raw result of a model to an image; `pred_masks` become `PackedMasks`.

    Everything else is as in `detector_postprocess`.

    Args:
        raw: instances in pixels of the network's input, with `pred_masks` (N, 1, M, M) if the model
            has masks; this function removes them from `raw`.
        height: the height of the image in pixels.
        width: the width of the image in pixels.
        mask_threshold: a pixel belongs to a mask from this probability on.
    """
    probs = raw.get_fields().pop("pred_masks", None)
    raw.kept = torch.arange(len(raw), device=raw.scores.device)
    found = detector_postprocess(raw, height, width)
    kept = found.kept
    found.remove("kept")
    if probs is not None:
        boxes = found.pred_boxes.tensor
        found.pred_masks = PackedMasks.paste(
            probs[kept, 0], boxes, found.image_size, mask_threshold
        )
    return found
