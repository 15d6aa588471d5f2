"""FCIS's heads: score maps of the image, assembled for each RoI (arXiv:1611.07709, section 3).

Letters: N images, R RoIs of all images, K foreground classes, C = K + 1 with the background last
(label K, as in detectron2; FCIS's own code has it first); k bins and P pooled cells a side.
"""

from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, cat
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ...errors import UserError
from ...layers import PSROIAlign, PSROIPool
from .losses import RoILosses, hardest, roi_losses, sample_mask_targets
from .objects import bitmasks_of, numbered
from .pooler import build_ps_pooler, require_in_range
from .scores import class_logits, foreground_masks

__all__ = ["FCISROIHeads", "Pooled", "RoIResults"]

_ALL = 1_000_000  # RoIs per image that are sampled when all are to be


class Pooled(NamedTuple):
    """What R RoIs see.

    Attributes:
        scores: (R, C, 2, P, P), see `scores`.
        deltas: (R, 4), class-agnostic box deltas.
    """

    scores: Tensor
    deltas: Tensor


class RoIResults(NamedTuple):
    """What R RoIs of an image are found to be.

    Attributes:
        probs: (R, C), softmax over classes.
        masks: (R, P, P), probabilities, of each RoI's best foreground class.
        boxes: (R, 4), XYXY_ABS: where the deltas move the RoIs, clipped to the image.
    """

    probs: Tensor
    masks: Tensor
    boxes: Tensor


@ROI_HEADS_REGISTRY.register()
class FCISROIHeads(ROIHeads):
    """Classes, boxes and masks of all RoIs from one set of score maps; no layer runs on a RoI.

    Belongs to the meta-architecture `FCIS`, which makes detections of what it returns in testing.

    In training it returns the sampled proposals and `loss_cls`, `loss_mask`, `loss_box_reg`: per
    image, over the RoIs that count, the mean cross entropy, and the sums of mask and box losses of
    the positive ones divided by `batch_size_per_image`; averaged over images. With OHEM all RoIs
    are sampled, the hardest `ohem_size` count, and that is what the sums are divided by.

    In testing it returns for each image `Instances` in the network's pixels with `proposal_boxes`,
    `class_probs` (R, C) and `roi_masks` (R, P, P). The RoIs are those of the RPN, then, for each
    pass after the first, the same ones moved by the deltas.

    Deviations from the released code: boxes are continuous, where it counts pixels (+ 1), and the
    box branch has no dead output for the background, as in the paper.
    """

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        in_channels: int,
        conv_dim: int,
        pooler: PSROIPool | PSROIAlign,
        box2box_transform: Box2BoxTransform,
        smooth_l1_beta: float,
        mask_loss_weight: float,
        mask_threshold: float,
        ohem_size: int | None,
        num_passes: int,
        **kwargs: Any,
    ) -> None:
        """Build the heads.

        Args:
            in_feature: name of the one feature map, res5.
            in_channels: of that.
            conv_dim: channels of the convolution before the score maps.
            pooler: `PSROIPool` or `PSROIAlign`.
            box2box_transform: FCIS's weights are (5, 5, 2, 2).
            smooth_l1_beta: of the box loss.
            mask_loss_weight: of the mask loss; FCIS's is 10.
            mask_threshold: of the mask targets.
            ohem_size: RoIs per image that count, the hardest; None: those that are sampled.
            num_passes: in testing, 1 or more.
            kwargs: see `ROIHeads`.
        """
        super().__init__(**kwargs)
        self.in_feature, self.pooler = in_feature, pooler
        self.box2box_transform = box2box_transform
        self.smooth_l1_beta, self.mask_loss_weight = smooth_l1_beta, mask_loss_weight
        self.mask_threshold, self.num_passes = mask_threshold, num_passes
        self.ohem_size = ohem_size
        copies = pooler.num_bins**2
        self.conv_new = Conv2d(in_channels, conv_dim, 1, activation=nn.functional.relu_)
        self.score_maps = Conv2d(conv_dim, 2 * (self.num_classes + 1) * copies, 1)
        self.box_maps = Conv2d(conv_dim, 4 * copies, 1)
        for layer in (self.conv_new, self.score_maps, self.box_maps):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Translate the config into the constructor's arguments.

        Raises:
            UserError: not exactly one feature map, no mask branch, a keypoint branch, or see
                `require_in_range` and `build_ps_pooler`.
        """
        names = cfg.MODEL.ROI_HEADS.IN_FEATURES
        if len(names) != 1 or names[0] not in input_shape:
            raise UserError(
                "MODEL.ROI_HEADS.IN_FEATURES: FCISROIHeads reads one feature map of "
                f"{', '.join(input_shape)}, got {list(names)}"
            )
        if cfg.MODEL.KEYPOINT_ON or not cfg.MODEL.MASK_ON:
            raise UserError(
                "FCISROIHeads has masks and no keypoints: set MODEL.MASK_ON True and "
                "MODEL.KEYPOINT_ON False"
            )
        require_in_range(cfg)
        ret = super().from_config(cfg)
        if cfg.MODEL.FCIS.OHEM:
            ret |= {"batch_size_per_image": _ALL, "positive_fraction": 1.0}
        shape, count = input_shape[names[0]], cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        return {
            **ret,
            "in_feature": names[0],
            "in_channels": shape.channels,
            "conv_dim": cfg.MODEL.FCIS.CONV_DIM,
            "pooler": build_ps_pooler(cfg, shape.stride),
            "box2box_transform": Box2BoxTransform(weights=cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
            "smooth_l1_beta": cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA,
            "mask_loss_weight": cfg.MODEL.FCIS.MASK_LOSS_WEIGHT,
            "mask_threshold": cfg.MODEL.FCIS.MASK_THRESH,
            "ohem_size": count if cfg.MODEL.FCIS.OHEM else None,
            "num_passes": cfg.MODEL.FCIS.NUM_PASSES_TEST,
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See :meth:`ROIHeads.forward` and the class.

        Raises:
            UserError: in training, `gt_masks` are polygons.
        """
        maps = self.compute_maps(features)
        if not self.training:
            return self.inference(maps, proposals), {}
        assert targets is not None, "'targets' argument is required during training"
        masks = [bitmasks_of(target) for target in targets]
        sampled = self.label_and_sample_proposals(proposals, [numbered(t) for t in targets])
        return sampled, self.losses(maps, sampled, masks)

    def compute_maps(self, features: dict[str, Tensor]) -> Tensor:
        """Return (N, (2 C + 4) k k, H, W): the score maps and, behind them, those of the boxes."""
        hidden = self.conv_new(features[self.in_feature])
        return cat([self.score_maps(hidden), self.box_maps(hidden)], dim=1)

    def pool(self, maps: Tensor, boxes: list[Boxes]) -> Pooled:
        """Pool the RoIs of N images, one image after the other.

        Args:
            maps: see `compute_maps`.
            boxes: of each image, in its pixels as the network sees it.
        """
        pooled = self.pooler(maps, convert_boxes_to_pooler_format(boxes))
        scores, deltas = pooled[:, :-4], pooled[:, -4:]
        side = pooled.shape[-1]
        scores = scores.reshape(len(pooled), self.num_classes + 1, 2, side, side)
        return Pooled(scores, deltas.mean(dim=(2, 3)))

    def losses(
        self, maps: Tensor, proposals: list[Instances], masks: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return the losses, see the class.

        Args:
            maps: see `compute_maps`.
            proposals: of `label_and_sample_proposals`.
            masks: (G, H, W) bool for each image, of its G objects.
        """
        pooled = self.pool(maps, [p.proposal_boxes for p in proposals])
        classes = cat([p.gt_classes for p in proposals])
        foreground = [p[p.gt_classes < self.num_classes] for p in proposals]
        mask_targets, delta_targets = self._targets(foreground, masks, pooled)
        losses = roi_losses(
            *(pooled.scores, pooled.deltas, classes, mask_targets, delta_targets),
            smooth_l1_beta=self.smooth_l1_beta,
        )
        _log_accuracy(pooled.scores, classes)
        sizes = [len(p) for p in proposals]
        nothing = losses.classification.sum() * 0  # attached to the graph, also without RoIs
        totals = dict.fromkeys(("loss_cls", "loss_mask", "loss_box_reg"), nothing)
        for of_image in zip(*(loss.split(sizes) for loss in losses), strict=True):
            counted = RoILosses(*of_image)
            if self.ohem_size is not None:
                kept = hardest(counted, self.ohem_size, self.mask_loss_weight)
                counted = RoILosses(*(loss[kept] for loss in counted))
            normalizer = self.ohem_size or self.batch_size_per_image
            if len(counted.classification):
                totals["loss_cls"] = totals["loss_cls"] + counted.classification.mean()
            weighted = self.mask_loss_weight * counted.mask.sum() / normalizer
            totals["loss_mask"] = totals["loss_mask"] + weighted
            totals["loss_box_reg"] = totals["loss_box_reg"] + counted.box.sum() / normalizer
        return {name: total / len(proposals) for name, total in totals.items()}

    def _targets(
        self, foreground: list[Instances], masks: list[Tensor], pooled: Pooled
    ) -> tuple[Tensor, Tensor]:
        """Return the targets of the F positive RoIs: masks (F, P, P) bool and deltas (F, 4)."""
        side = pooled.scores.shape[-1]
        mask_targets = [pooled.deltas.new_zeros(0, side, side, dtype=torch.bool)]
        delta_targets = [pooled.deltas.new_zeros(0, 4)]
        for rois, masks_per_image in zip(foreground, masks, strict=True):
            if not len(rois):  # without objects the proposals have no field but their class
                continue
            boxes, matched = rois.proposal_boxes.tensor, rois.gt_index
            mask_targets.append(
                sample_mask_targets(
                    *(masks_per_image, boxes, matched), size=side, threshold=self.mask_threshold
                )
            )
            deltas = self.box2box_transform.get_deltas(boxes, rois.gt_boxes.tensor)
            delta_targets.append(deltas.to(pooled.deltas.dtype))
        return cat(mask_targets), cat(delta_targets)

    def inference(self, maps: Tensor, proposals: list[Instances]) -> list[Instances]:
        """Return what the RoIs of each image are found to be, see the class."""
        boxes = [p.proposal_boxes for p in proposals]
        image_sizes = [p.image_size for p in proposals]
        found: list[list[Instances]] = [[] for _ in proposals]
        for _ in range(self.num_passes):
            results = self.evaluate_rois(maps, boxes, image_sizes)
            for passes, rois, result, size in zip(found, boxes, results, image_sizes, strict=True):
                fields = {"class_probs": result.probs, "roi_masks": result.masks}
                passes.append(Instances(size, proposal_boxes=rois, **fields))
            boxes = [Boxes(result.boxes) for result in results]
        return [Instances.cat(passes) for passes in found]

    def evaluate_rois(
        self, maps: Tensor, boxes: list[Boxes], image_sizes: list[tuple[int, int]]
    ) -> list[RoIResults]:
        """Pool the RoIs of each image once and return what they are found to be."""
        pooled = self.pool(maps, boxes)
        probs = class_logits(pooled.scores).softmax(dim=1)
        masks = foreground_masks(pooled.scores, probs)
        moved = self.box2box_transform.apply_deltas(pooled.deltas, cat([b.tensor for b in boxes]))
        results = []
        sizes = [len(b) for b in boxes]
        for *parts, size in zip(
            *(part.split(sizes) for part in (probs, masks, moved)), image_sizes, strict=True
        ):
            clipped = Boxes(parts[2])
            clipped.clip(size)
            results.append(RoIResults(parts[0], parts[1], clipped.tensor))
        return results


def _log_accuracy(pooled: Tensor, classes: Tensor) -> None:
    """Log how many RoIs, and positive ones, have the right class."""
    if not len(classes):
        return
    with torch.no_grad():
        right = class_logits(pooled).argmax(dim=1) == classes
        positive = classes < pooled.shape[1] - 1
        storage = get_event_storage()
        storage.put_scalar("fcis/cls_accuracy", right.float().mean().item())
        if positive.any():
            storage.put_scalar("fcis/fg_cls_accuracy", right[positive].float().mean().item())
