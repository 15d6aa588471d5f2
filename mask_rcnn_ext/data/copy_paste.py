"""Copy-paste augmentation: objects of one training image are pasted into another.

Paper: Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation" (arXiv:2012.07177), section 3. Differences from the paper: objects are pasted into a
share of the images, not into all; the canvas is the image that receives the objects, so parts
outside are lost; and edges are not blended, which makes no difference according to the paper. "A
random subset" of the objects means here: each object with probability 1/2, at least one object.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import filter_empty_instances
from detectron2.structures import BitMasks, Instances, Keypoints
from torch import Tensor

from ..errors import UserError

__all__ = ["CopyPaste", "paste_instances"]


class CopyPaste:
    """Pastes objects into a share of the samples; give it to `TrainLoader` as `mix`.

    Args:
        share: the share of the samples, 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, sample: dict[str, Any], draw: Callable[[], dict[str, Any]]) -> dict:
        """Return the sample, with pasted objects or unchanged.

        Args:
            sample: a sample of `ImageMapper` for training, with `gt_masks` that are `BitMasks`. It
                may be changed in place.
            draw: returns a sample of another image.

        Raises:
            UserError: the mapper of a project gives no such samples.
        """
        if np.random.random() >= self.share:  # noqa: NPY002 - the loader seeds the global state
            return sample
        other = draw()
        found = other.get("instances") if isinstance(other, dict) else None
        if found is not None and not len(found):
            return sample
        for each in (sample, other):
            _require_bit_masks(each)
        assert found is not None
        chosen = np.random.random(len(found)) < 0.5  # noqa: NPY002
        if not chosen.any():
            chosen[np.random.randint(len(found))] = True  # noqa: NPY002
        kept = found[torch.from_numpy(chosen)]
        paste_instances(sample, other["image"], kept)
        return sample


def _require_bit_masks(sample: Any) -> None:
    found = sample.get("instances") if isinstance(sample, dict) else sample
    masks = found.get_fields().get("gt_masks") if isinstance(found, Instances) else found
    if isinstance(masks, BitMasks) or (isinstance(found, Instances) and not len(found)):
        return
    raise UserError(
        "MASK_RCNN_EXT.AUGMENTATION.COPY_PASTE: expected a mapper that returns a dict with "
        f"`instances`, whose `gt_masks` are BitMasks, got {type(masks).__name__}. Let "
        "`build_mapper` return a mapper with bit masks, or set COPY_PASTE to 0"
    )


def paste_instances(sample: dict[str, Any], pixels: Tensor, pasted: Instances) -> None:
    """Paste objects into a sample, in place; the upper left corners of the two images coincide.

    The pasted objects come after the objects of the sample. Masks lose their covered pixels, and
    boxes are tight around the rest. A covered keypoint counts as labelled but not visible.

    Args:
        sample: has `image`, (C, H, W), and `instances`, with `gt_masks` that are `BitMasks` if it
            has any instance.
        pixels: the image of the objects, (C, H', W').
        pasted: N >= 1 instances of that image.
    """
    image, own = sample["image"], sample["instances"]
    height, width = image.shape[1:]
    window = (slice(0, min(height, pixels.shape[1])), slice(0, min(width, pixels.shape[2])))
    masks = torch.zeros(len(pasted), height, width, dtype=torch.bool)
    masks[(slice(None), *window)] = pasted.gt_masks.tensor[(slice(None), *window)]
    covered = masks.any(dim=0)
    cut = covered[window]
    image[(slice(None), *window)][:, cut] = pixels[(slice(None), *window)][:, cut]

    fields = {**pasted.get_fields(), "gt_masks": BitMasks(masks)}
    if pasted.has("gt_keypoints"):
        points = pasted.gt_keypoints.tensor
        inside = (points[..., :2] <= torch.tensor([width, height])).all(dim=-1, keepdim=True)
        fields["gt_keypoints"] = Keypoints(points * inside)
    moved = Instances((height, width), **fields)
    if len(own):
        own.gt_masks = BitMasks(own.gt_masks.tensor & ~covered)
        if own.has("gt_keypoints"):
            own.gt_keypoints = _cover_keypoints(own.gt_keypoints.tensor, covered)
        moved = Instances.cat([own, moved])
    moved.gt_boxes = moved.gt_masks.get_bounding_boxes()
    sample["instances"] = filter_empty_instances(moved)


def _cover_keypoints(points: Tensor, covered: Tensor) -> Keypoints:
    """Return (N, K, 3) keypoints; covered keypoints have COCO's value for "not visible"."""
    height, width = covered.shape
    column = points[..., 0].long().clamp(0, width - 1)
    row = points[..., 1].long().clamp(0, height - 1)
    hidden = covered[row, column] & (points[..., 2] == 2)
    visibility = torch.where(hidden, 1.0, points[..., 2])
    return Keypoints(torch.cat([points[..., :2], visibility[..., None]], dim=-1))
