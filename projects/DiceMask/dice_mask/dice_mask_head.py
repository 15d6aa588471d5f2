"""The FCN mask branch, trained with the sum of cross entropy and Dice loss.

Shapes: R masks of all images, K foreground classes, masks of M x M.
"""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import Instances

from mask_rcnn_ext import MaskRCNNFCNHead, UserError

__all__ = ["DiceMaskHead", "dice_loss"]


def dice_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return one minus the soft Dice coefficient of each mask, averaged over the masks.

    V-Net (arXiv:1606.04797), section 3: 2 sum(p g) / (sum(p^2) + sum(g^2)), where p is the
    probability and g the ground truth at each pixel. Deviation: 1 is added to numerator and
    denominator, so that two empty masks agree. Every mask has the same weight.

    Args:
        logits: (R, M, M), floating; summed in float32.
        targets: (R, M, M), bool.

    Returns:
        Scalar in [0, 1], float32. If R == 0, it is exactly 0 and still part of the graph.
    """
    probabilities, truth = logits.float().sigmoid().flatten(1), targets.float().flatten(1)
    overlap = 2 * (probabilities * truth).sum(1) + 1
    total = probabilities.square().sum(1) + truth.square().sum(1) + 1
    return (1 - overlap / total).sum() / max(len(logits), 1)


@ROI_MASK_HEAD_REGISTRY.register()
class DiceMaskHead(MaskRCNNFCNHead):
    """`MaskRCNNFCNHead` whose loss is a weighted sum of cross entropy and Dice.

    Layers, state-dict keys and inference are the same, so checkpoints of `MaskRCNNFCNHead` fit.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        bce_weight: float = 1.0,
        dice_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """Build the layers.

        Args:
            input_shape: shape of the pooled features.
            bce_weight: weight of detectron2's `mask_rcnn_loss`.
            dice_weight: weight of `dice_loss`.
            kwargs: see `MaskRCNNFCNHead`.
        """
        super().__init__(input_shape, **kwargs)
        self.bce_weight, self.dice_weight = bce_weight, dice_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read the same config keys as `MaskRCNNFCNHead`.

        Raises:
            UserError: `MODEL.ROI_MASK_HEAD.LOSS` is not "sigmoid".
        """
        if (loss := cfg.MODEL.ROI_MASK_HEAD.LOSS) != "sigmoid":
            raise UserError(
                f"MODEL.ROI_MASK_HEAD.LOSS: DiceMaskHead needs 'sigmoid', got {loss!r}; for that "
                "loss, set MODEL.ROI_MASK_HEAD.NAME MaskRCNNFCNHead"
            )
        arguments: dict[str, Any] = super().from_config(cfg, input_shape)
        return arguments

    def mask_loss(self, logits: torch.Tensor, instances: Sequence[Instances]) -> torch.Tensor:
        """Return the weighted sum of both losses, a scalar.

        Args:
            logits: (R, K, M, M), or (R, 1, M, M) for class-agnostic masks.
            instances: one per image, with R instances in total and the fields `proposal_boxes`
                (XYXY, absolute pixels), `gt_classes` and `gt_masks`.
        """
        bce = mask_rcnn_loss(logits, instances, self.vis_period)  # also logs the accuracy
        found = [image for image in instances if len(image)]
        if not found:
            return bce
        targets = torch.cat(
            [
                image.gt_masks.crop_and_resize(image.proposal_boxes.tensor, logits.shape[-1])
                for image in found
            ]
        )
        if logits.shape[1] == 1:
            of_class = logits[:, 0]
        else:
            classes = torch.cat([image.gt_classes for image in found])
            of_class = logits[torch.arange(len(logits), device=logits.device), classes]
        return self.bce_weight * bce + self.dice_weight * dice_loss(
            of_class, targets.to(of_class.device)
        )
