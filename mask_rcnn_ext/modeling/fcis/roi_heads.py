"""FCIS's heads: score maps of the image, assembled for each RoI (arXiv:1611.07709, section 3).

Letters: N images, R RoIs of all images, K foreground classes, C = K + 1 with the background last
(label K, as in detectron2; FCIS's own code has it first); k bins and P pooled cells per side.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, cat
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from ...errors import UserError, require_choice
from ...layers import PSROIAlign, PSROIPool
from .losses import (
    RoILosses,
    compute_class_logits,
    compute_mask_logits,
    compute_roi_losses,
    predict_masks,
    sample_mask_targets,
    select_hardest,
)

__all__ = ["FCISROIHeads"]

PS_POOLER_TYPES = ("PSROIPool", "PSROIAlign")
_ALL = 1_000_000  # RoIs to sample per image with OHEM: more than there are


@ROI_HEADS_REGISTRY.register()
class FCISROIHeads(ROIHeads):
    """Classes, boxes and masks of all RoIs from one set of score maps; no layer runs on a RoI.

    These heads belong to the meta-architecture `FCIS`, which turns their RoIs into detections.

    In training they return the sampled proposals and the losses `loss_cls`, `loss_mask` and
    `loss_box_reg`. For each image, `loss_cls` is the mean cross entropy of the RoIs that count; the
    other two are the sums over positive RoIs, divided by `batch_size_per_image`. The losses are
    then averaged over images. With OHEM all RoIs are sampled, the hardest `ohem_size` RoIs count,
    and the sums are divided by `ohem_size`.

    In testing they return for each image an `Instances` with `proposal_boxes` in pixels of the
    network's input, `class_probs` (R, C) and `roi_masks` (R, P, P), all float. It holds the RoIs of
    the RPN, followed by the same RoIs moved by their deltas, once for each pass after the first.

    Deviations from the released code: boxes are continuous, where it counts pixels (+ 1), and the
    box branch has no unused output for the background, as in the paper.
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
            in_feature: name of the only feature map they read, res5.
            in_channels: channels of this feature map.
            conv_dim: channels of the convolution before the score maps.
            pooler: `PSROIPool` or `PSROIAlign`.
            box2box_transform: FCIS uses the weights (5, 5, 2, 2).
            smooth_l1_beta: beta of the box loss.
            mask_loss_weight: weight of the mask loss; FCIS uses 10.
            mask_threshold: threshold of the mask targets; FCIS uses 0.4.
            ohem_size: number of hardest RoIs per image that count; None: all sampled RoIs count.
            num_passes: number of passes in testing, at least 1.
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
            UserError: there is not exactly one feature map, the mask branch is off, the keypoint
                branch is on, the type of the RoI layer is unknown, or a number is out of range.
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
        _require_in_range(cfg)
        ret = super().from_config(cfg)
        if cfg.MODEL.FCIS.OHEM:
            ret |= {"batch_size_per_image": _ALL, "positive_fraction": 1.0}
        shape, count = input_shape[names[0]], cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        return {
            **ret,
            "in_feature": names[0],
            "in_channels": shape.channels,
            "conv_dim": cfg.MODEL.FCIS.CONV_DIM,
            "pooler": _build_pooler(cfg, shape.stride),
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
        masks = [_get_bitmasks(target) for target in targets]
        # detectron2 copies each field that begins with `gt_` for each sampled proposal. Masks of
        # hundreds of proposals would fill the memory, so the index of the object stands for them.
        unmasked = [
            Instances(
                target.image_size,
                gt_boxes=target.gt_boxes,
                gt_classes=target.gt_classes,
                gt_index=torch.arange(len(target), device=target.gt_boxes.device),
            )
            for target in targets
        ]
        sampled = self.label_and_sample_proposals(proposals, unmasked)
        return sampled, self.losses(maps, sampled, masks)

    def compute_maps(self, features: dict[str, Tensor]) -> Tensor:
        """Return the score maps, followed by the box maps: (N, (2 C + 4) k k, H, W)."""
        hidden = self.conv_new(features[self.in_feature])
        return cat([self.score_maps(hidden), self.box_maps(hidden)], dim=1)

    def pool(self, maps: Tensor, boxes: list[Boxes]) -> tuple[Tensor, Tensor]:
        """Pool the RoIs of N images, one image after the other.

        Args:
            maps: see `compute_maps`.
            boxes: the RoIs of each image, in pixels of the network's input.

        Returns:
            The scores (R, C, 2, P, P), see the module `losses`, and the class-agnostic box deltas
            (R, 4).
        """
        pooled = self.pooler(maps, convert_boxes_to_pooler_format(boxes))
        scores, deltas = pooled[:, :-4], pooled[:, -4:]
        side = pooled.shape[-1]
        scores = scores.reshape(pooled.shape[0], self.num_classes + 1, 2, side, side)
        return scores, deltas.mean(dim=(2, 3))

    def losses(
        self, maps: Tensor, proposals: list[Instances], masks: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return the losses, see the class.

        Args:
            maps: see `compute_maps`.
            proposals: the result of `label_and_sample_proposals`.
            masks: the masks of the G objects of each image, (G, H, W) bool.
        """
        scores, deltas = self.pool(maps, [p.proposal_boxes for p in proposals])
        classes = cat([p.gt_classes for p in proposals])
        foreground = [p[p.gt_classes < self.num_classes] for p in proposals]
        losses = compute_roi_losses(
            *(scores, deltas, classes, *self._make_targets(foreground, masks, deltas)),
            smooth_l1_beta=self.smooth_l1_beta,
        )
        _log_accuracy(scores, classes)
        sizes = [len(p) for p in proposals]
        nothing = losses.classification.sum() * 0  # attached to the graph, also without RoIs
        totals = dict.fromkeys(("loss_cls", "loss_mask", "loss_box_reg"), nothing)
        for image_losses in zip(*(loss.split(sizes) for loss in losses), strict=True):
            counted = RoILosses(*image_losses)
            if self.ohem_size is not None:
                kept = select_hardest(counted, self.ohem_size, self.mask_loss_weight)
                counted = RoILosses(*(loss[kept] for loss in counted))
            normalizer = self.ohem_size or self.batch_size_per_image
            if len(counted.classification):
                totals["loss_cls"] = totals["loss_cls"] + counted.classification.mean()
            weighted = self.mask_loss_weight * counted.mask.sum() / normalizer
            totals["loss_mask"] = totals["loss_mask"] + weighted
            totals["loss_box_reg"] = totals["loss_box_reg"] + counted.box.sum() / normalizer
        return {name: total / len(proposals) for name, total in totals.items()}

    def _make_targets(
        self, foreground: list[Instances], masks: list[Tensor], deltas: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the targets of the F positive RoIs: masks (F, P, P) bool and deltas (F, 4)."""
        side = self.pooler.output_size
        mask_targets = [deltas.new_zeros(0, side, side, dtype=torch.bool)]
        delta_targets = [deltas.new_zeros(0, 4)]
        for rois, image_masks in zip(foreground, masks, strict=True):
            if not len(rois):  # proposals of an image without objects have no `gt_index`
                continue
            boxes, threshold = rois.proposal_boxes.tensor, self.mask_threshold
            mask_targets.append(
                sample_mask_targets(
                    image_masks, boxes, rois.gt_index, size=side, threshold=threshold
                )
            )
            targets = self.box2box_transform.get_deltas(boxes, rois.gt_boxes.tensor)
            delta_targets.append(targets.to(deltas.dtype))
        return cat(mask_targets), cat(delta_targets)

    def inference(self, maps: Tensor, proposals: list[Instances]) -> list[Instances]:
        """Return the RoIs of each image with their classes and masks, see the class."""
        boxes = [p.proposal_boxes for p in proposals]
        passes: list[list[Instances]] = [[] for _ in proposals]
        for _ in range(self.num_passes):
            scores, deltas = self.pool(maps, boxes)
            probs = compute_class_logits(scores).softmax(dim=1)
            masks = predict_masks(scores, probs)
            moved = self.box2box_transform.apply_deltas(deltas, cat([b.tensor for b in boxes]))
            sizes = [b.tensor.shape[0] for b in boxes]  # a trace keeps the result of len()
            split = zip(*(part.split(sizes) for part in (probs, masks, moved)), strict=True)
            for index, (image_probs, image_masks, image_boxes) in enumerate(split):
                size = proposals[index].image_size
                fields = {"class_probs": image_probs, "roi_masks": image_masks}
                passes[index].append(Instances(size, proposal_boxes=boxes[index], **fields))
                boxes[index] = Boxes(image_boxes)
                boxes[index].clip(size)
        return [Instances.cat(rois) for rois in passes]

    def forward_with_given_boxes(
        self, features: dict[str, Tensor], instances: list[Instances]
    ) -> list[Instances]:
        """Add the masks of given boxes and classes; see `StandardROIHeads`.

        FCIS itself never does this. It serves to study masks apart from the choice of boxes and
        classes.

        Args:
            features: the feature maps of N images.
            instances: instances with `pred_boxes`, in pixels of the network's input, and
                `pred_classes`.

        Returns:
            The instances with `pred_masks`, (R_image, 1, P, P) probabilities.
        """
        assert not self.training, "forward_with_given_boxes is for testing"
        scores, _ = self.pool(self.compute_maps(features), [i.pred_boxes for i in instances])
        masks = compute_mask_logits(scores, cat([i.pred_classes for i in instances])).sigmoid()
        parts = masks[:, None].split([len(i) for i in instances])
        for image, image_masks in zip(instances, parts, strict=True):
            image.pred_masks = image_masks
        return instances


def _require_in_range(cfg: CfgNode) -> None:
    """Check the numbers of `MODEL.FCIS` that no other function checks."""
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


def _build_pooler(cfg: CfgNode, stride: int) -> PSROIPool | PSROIAlign:
    """Build the position-sensitive RoI layer of `MODEL.FCIS`."""
    fcis = cfg.MODEL.FCIS
    require_choice("MODEL.FCIS.POOLER_TYPE", fcis.POOLER_TYPE, PS_POOLER_TYPES)
    bins, side = fcis.NUM_BINS, fcis.POOLED_SIZE
    if bins < 1 or side < bins:
        raise UserError(
            "MODEL.FCIS: expected NUM_BINS of 1 or more and a POOLED_SIZE of at least NUM_BINS, "
            f"got {bins} and {side}"
        )
    if fcis.POOLER_TYPE == "PSROIPool":
        return PSROIPool(bins, side, 1 / stride)
    if side % bins:
        raise UserError(
            f"MODEL.FCIS.POOLED_SIZE: PSROIAlign needs a multiple of NUM_BINS {bins}, got {side}"
        )
    return PSROIAlign(bins, side, 1 / stride, fcis.POOLER_SAMPLING_RATIO)


def _get_bitmasks(target: Instances) -> Tensor:
    """Return the masks of an image's G objects, (G, H, W) bool."""
    height, width = target.image_size
    if not target.has("gt_masks"):  # detectron2's mapper adds no masks without objects
        return target.gt_boxes.tensor.new_zeros((0, height, width), dtype=torch.bool)
    if not isinstance(target.gt_masks, BitMasks):
        raise UserError(
            "FCIS samples its mask targets from bit masks: expected INPUT.MASK_FORMAT bitmask, "
            f"got {type(target.gt_masks).__name__}"
        )
    masks: Tensor = target.gt_masks.tensor
    return masks


def _log_accuracy(scores: Tensor, classes: Tensor) -> None:
    """Log the share of RoIs, and of positive RoIs, that get the right class."""
    if not len(classes):
        return
    with torch.no_grad():
        right = compute_class_logits(scores).argmax(dim=1) == classes
        positive = classes < scores.shape[1] - 1
        storage = get_event_storage()
        storage.put_scalar("fcis/cls_accuracy", right.float().mean().item())
        if positive.any():
            storage.put_scalar("fcis/fg_cls_accuracy", right[positive].float().mean().item())
