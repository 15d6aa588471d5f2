"""Detections from a model's own proposals, with their RoIs and votes.

The masks of FCIS are measured before mask voting, where each mask comes from one RoI, and after it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Instances
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from torch import Tensor

from mask_rcnn_ext.arrays import Floats
from mask_rcnn_ext.data.mapper import ImageMapper
from mask_rcnn_ext.layers.mask_crops import MaskCrop
from mask_rcnn_ext.modeling.checks import is_fcis
from mask_rcnn_ext.modeling.fcis.voting import (
    find_voters,
    paste_masks,
    render_mask,
    vote_masks,
)
from mask_rcnn_ext.overlap.detections import Detection
from mask_rcnn_ext.overlap.image_instances import ImageInstances, read_image_instances

from .box_sides import BoxEnds, find_box_ends

__all__ = ["OwnMasks", "VotedMasks", "predict_with_own_proposals"]


@dataclass(frozen=True)
class VotedMasks:
    """The same detections of FCIS after mask voting.

    Attributes:
        instances: the image with the voted masks. `detection_rois` are the RoIs of the detections.
        voters: (D, M) bool, which of the image's M RoIs vote for each detection.
        boxes: (M, 4), of the RoIs, in pixels of the image.
        soft: (M, P, P), their masks.
        threshold: see `OwnMasks`.
    """

    instances: ImageInstances = field(repr=False)
    voters: Tensor = field(repr=False)
    boxes: Tensor = field(repr=False)
    soft: Tensor = field(repr=False)
    threshold: float

    @cached_property
    def _ends(self) -> dict[int, BoxEnds]:
        return {}

    def find_ends(self, detection: int) -> list[BoxEnds]:
        """Return where the mask of each RoI that votes for a detection ends at its box."""
        size = self.instances.height, self.instances.width
        rois = torch.nonzero(self.voters[detection])[:, 0].tolist()
        for roi in rois:
            if roi not in self._ends:
                crop = render_mask(self.soft[roi], self.boxes[roi], *size, self.threshold)
                mask = MaskCrop(crop.top, crop.left, crop.mask.numpy())
                self._ends[roi] = find_box_ends(mask, *size)
        return [self._ends[roi] for roi in rois]


@dataclass(frozen=True)
class OwnMasks:
    """The detections of an image, each with the mask of its RoI.

    Attributes:
        instances: the image with its detections. `detection_rois` are the RoIs of the masks.
        soft: (D, P, P) float64, probabilities on the grid of the RoI, in their order.
        threshold: the probability from which on a pixel belongs to a mask.
        voted: None for Mask R-CNN.
    """

    instances: ImageInstances = field(repr=False)
    soft: Floats = field(repr=False)
    threshold: float
    voted: VotedMasks | None = field(repr=False)


@torch.no_grad()
def predict_with_own_proposals(
    cfg: CfgNode, model: Any, truth: COCO, dataset: str
) -> Iterator[OwnMasks]:
    """Yield the detections of a model on each image.

    Args:
        cfg: the config of the model.
        model: Mask R-CNN or FCIS, in evaluation mode.
        truth: the data set, see `load_truth`.
        dataset: its name in detectron2's catalogs.
    """
    mapper = ImageMapper(cfg, is_train=False)
    metadata = MetadataCatalog.get(dataset)
    to_category = {v: k for k, v in metadata.thing_dataset_id_to_contiguous_id.items()}
    detect = _detect_with_fcis if is_fcis(cfg) else _detect_with_mask_rcnn
    for image_id in sorted(truth.imgs):
        image = truth.imgs[image_id]
        path = str(Path(metadata.image_root) / image["file_name"])
        (raw,) = model.inference([mapper({**image, "file_name": path})], do_postprocess=False)
        yield detect(model, raw, _ImageReader(truth, image_id, to_category))


@dataclass(frozen=True)
class _ImageReader:
    """Makes an `ImageInstances` of an image's detections."""

    truth: COCO
    image_id: Any
    to_category: dict[int, Any]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        image = self.truth.imgs[self.image_id]
        return int(image["height"]), int(image["width"])

    def read(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, masks: Sequence[npt.NDArray[np.bool_]]
    ) -> ImageInstances:
        """Return the image with its D detections.

        Args:
            boxes: (D, 4), XYXY in pixels: the RoIs.
            scores: (D,).
            labels: (D,), the model's classes.
            masks: D times (H, W).
        """
        found = []
        for (x1, y1, x2, y2), score, label, mask in zip(
            boxes.tolist(), scores.tolist(), labels.tolist(), masks, strict=True
        ):
            rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
            box = (x1, y1, x2 - x1, y2 - y1)
            found.append(Detection(self.to_category[label], score, rle, box))
        return read_image_instances(self.truth, self.image_id, {self.image_id: found})


def _detect_with_mask_rcnn(model: Any, raw: Instances, image: _ImageReader) -> OwnMasks:
    height, width = image.size
    boxes = raw.pred_boxes.clone()
    boxes.scale(width / raw.image_size[1], height / raw.image_size[0])
    boxes.clip(image.size)
    kept = boxes.nonempty()
    raw, boxes, threshold = raw[kept], boxes[kept], model.mask_threshold
    masks = paste_masks_in_image(raw.pred_masks[:, 0], boxes, image.size, threshold).numpy()
    instances = image.read(boxes.tensor, raw.scores, raw.pred_classes, masks)
    soft = raw.pred_masks[:, 0].double().numpy()[instances.positions]
    return OwnMasks(instances, soft, threshold, None)


def _detect_with_fcis(model: Any, raw: Instances, image: _ImageReader) -> OwnMasks:
    size, threshold = image.size, model.mask_threshold
    boxes, probs, soft, (rois, labels) = arguments = model.select(raw, *size)
    pasted = paste_masks(*arguments, image_size=size, mask_threshold=threshold)
    instances, voted = (
        image.read(boxes[rois], probs[rois, labels], labels, masks.pred_masks.numpy())
        for masks in (
            pasted,
            vote_masks(
                *arguments,
                image_size=size,
                mask_threshold=threshold,
                iou_threshold=model.vote_iou_threshold,
                keep_empty=True,
            ),
        )
    )
    voters = find_voters(boxes, rois, model.vote_iou_threshold)[torch.from_numpy(voted.positions)]
    own = soft[rois].double().numpy()[instances.positions]
    return OwnMasks(instances, own, threshold, VotedMasks(voted, voters, boxes, soft, threshold))
