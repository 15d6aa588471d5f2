"""One image's objects and detections as arrays: the input of every comparison metric."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from ..arrays import Bools, Floats, Ints
from ..errors import UserError
from ..layers.mask_crops import MaskCrop
from .crops import CropCache, decode_crop, find_box_window
from .detections import Detections, convert_to_rle
from .matching import (
    assign_levels,
    match_detections,
    measure_overlap,
    rank_detections,
    to_corners,
)
from .numbered_coco import sort_ids

__all__ = ["MAX_DETECTIONS", "ImageInstances", "read_image_instances"]

MAX_DETECTIONS = 100  # of one class in one image, the best ones, as in COCO


@dataclass(frozen=True)
class ImageInstances:
    """The G objects of an image, crowds included, and its D detections, best score first.

    Attributes:
        image_id: the id of the image in the data set.
        height, width: the size of the image in pixels.
        classes: (G,), places of the categories in the ascending ids of the data set.
        crowd: (G,).
        boxes: (G, 4) float64, XYXY in pixels: the annotations' boxes.
        masks: RLE of the visible part of each object.
        annotation_ids: the ids of the annotations of the objects.
        detection_classes: (D,), as `classes`; -1 for a category that the data set does not have.
        scores: (D,).
        detection_masks: RLE of each detection.
        detection_rois: (D, 4) float64, XYXY in pixels: the box in which the mask of each detection
            was predicted; None if a detection has no box.
        positions: (D,), position of each detection in the list that was read.
    """

    image_id: Any
    height: int
    width: int
    classes: Ints
    crowd: Bools
    boxes: Floats = field(repr=False)
    masks: list[dict[str, Any]] = field(repr=False)
    annotation_ids: list[Any]
    detection_classes: Ints
    scores: Floats = field(repr=False)
    detection_masks: list[dict[str, Any]] = field(repr=False)
    detection_rois: Floats | None = field(repr=False)
    positions: Ints

    @cached_property
    def object_crops(self) -> CropCache:
        """The masks of the objects, decoded on demand."""
        return CropCache(lambda index: decode_crop(self.masks[index]))

    @cached_property
    def _detection_crops(self) -> CropCache:
        return CropCache(lambda index: decode_crop(self.detection_masks[index]))

    def decode_detection(self, index: int) -> MaskCrop:
        """Return the decoded mask of a detection."""
        return self._detection_crops[index]

    @cached_property
    def object_mask(self) -> Bools:
        """(H, W), the union of all objects without crowds."""
        union = np.zeros((self.height, self.width), dtype=bool)
        for index in np.flatnonzero(~self.crowd):
            crop = self.object_crops[index]
            union[crop.rows, crop.columns] |= crop.mask
        return union

    @cached_property
    def common_boxes(self) -> Floats:
        """(G, G, 4), XYXY of b_i ∩ b_j; it is a box only where `touching` is True."""
        low = np.maximum(self.boxes[:, None, :2], self.boxes[None, :, :2])
        high = np.minimum(self.boxes[:, None, 2:], self.boxes[None, :, 2:])
        return np.concatenate([low, high], axis=2)

    @cached_property
    def touching(self) -> Bools:
        """(G, G): whether the boxes of two objects, no crowds, have an area in common."""
        common, counts = self.common_boxes, ~self.crowd
        touching = (common[..., :2] < common[..., 2:]).all(axis=2)
        return touching & counts[:, None] & counts[None] & ~np.eye(len(counts), dtype=bool)

    @cached_property
    def contested(self) -> Bools:
        """(H, W), the pixels where the boxes of two objects overlap."""
        contested = np.zeros((self.height, self.width), dtype=bool)
        for box in self.common_boxes[np.triu(self.touching)]:
            contested[find_box_window(box, self.height, self.width)] = True
        return contested

    @cached_property
    def detection_boxes(self) -> Floats:
        """(D, 4), XYXY: the tight boxes of the detections' masks."""
        return to_corners([mask_util.toBbox(mask) for mask in self.detection_masks])

    @cached_property
    def overlap(self) -> Floats:
        """(G,), the largest box IoU of each object with another object, without crowds."""
        return measure_overlap(self.boxes, self.classes, self.crowd)

    @cached_property
    def levels(self) -> dict[str, Ints]:
        """(G,) each: index in `matching.LEVELS` by the overlap with objects of all or its class."""
        same = measure_overlap(self.boxes, self.classes, self.crowd, same_class=True)
        return {"overlap": assign_levels(self.overlap), "overlap_same": assign_levels(same)}

    @cached_property
    def mask_ious(self) -> dict[int, tuple[Ints, Ints, Floats]]:
        """Category -> indices of its detections and objects, and their (D_c, G_c) mask IoUs.

        With a crowd, the IoU is the share of the detection that lies in it, as in COCO.
        """
        found = {}
        for category in np.unique(np.concatenate([self.classes, self.detection_classes])):
            here = np.flatnonzero(self.detection_classes == category)
            there = np.flatnonzero(self.classes == category)
            ious = np.zeros((len(here), len(there)))
            if len(here) and len(there):
                ious[:] = mask_util.iou(
                    [self.detection_masks[i] for i in here],
                    [self.masks[i] for i in there],
                    [int(c) for c in self.crowd[there]],
                )
            found[int(category)] = here, there, ious
        return found

    def match(self) -> dict[int, int]:
        """Return object -> detection, matched as in COCO at mask IoU 0.5, by ascending object."""
        pairs = {}
        for here, there, ious in self.mask_ious.values():
            crowd = self.crowd[there]
            matches = match_detections(ious, crowd, crowd)[0]
            for detection in np.flatnonzero(matches >= 0):
                if not crowd[matches[detection]]:
                    pairs[int(there[matches[detection]])] = int(here[detection])
        return dict(sorted(pairs.items()))

    def find_contested(self, index: int) -> tuple[slice, slice, Bools]:
        """Return the window of an object's box, and which of its pixels are contested."""
        rows, columns = find_box_window(self.boxes[index], self.height, self.width)
        region = np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=bool)
        for box in self.common_boxes[index, self.touching[index]]:
            r, c = find_box_window(box, self.height, self.width)
            region[
                r.start - rows.start : r.stop - rows.start,
                c.start - columns.start : c.stop - columns.start,
            ] = True
        return rows, columns, region


def read_image_instances(
    coco_gt: COCO, image_id: Any, detections: Detections, max_detections: int = MAX_DETECTIONS
) -> ImageInstances:
    """Return the objects and detections of one image.

    Args:
        coco_gt: the data set, see `detections.load_truth`. Annotations of a category that it does
            not list are left out, as in COCO. An annotation without `bbox` gets the tight box of
            its mask.
        image_id: an image of the data set.
        detections: see `detections.load_results`.
        max_detections: see `rank_detections`.

    Raises:
        UserError: an annotation has a broken mask, or a mask of another size than the image.
    """
    image = coco_gt.imgs[image_id]
    height, width = int(image["height"]), int(image["width"])
    places = {category: place for place, category in enumerate(sort_ids(coco_gt.cats))}
    annotations = [a for a in coco_gt.imgToAnns[image_id] if a["category_id"] in places]
    masks = []
    for annotation in annotations:
        try:
            masks.append(convert_to_rle(annotation["segmentation"], height, width))
        except UserError as error:
            raise UserError(f"the data set's annotation {annotation['id']!r}: {error}") from error
    xywh = [a.get("bbox") or mask_util.toBbox(m) for a, m in zip(annotations, masks, strict=True)]

    found = detections.get(image_id, [])
    scores = np.array([d.score for d in found], dtype=np.float64)
    classes = np.array([places.get(d.category_id, -1) for d in found], dtype=np.intp)
    order = rank_detections(scores, classes, max_detections)
    rois = [found[i].box for i in order]
    return ImageInstances(
        image_id=image_id,
        height=height,
        width=width,
        classes=np.array([places[a["category_id"]] for a in annotations], dtype=np.intp),
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool),
        boxes=to_corners(xywh),
        masks=masks,
        annotation_ids=[a["id"] for a in annotations],
        detection_classes=classes[order],
        scores=scores[order],
        detection_masks=[found[i].mask for i in order],
        detection_rois=None if None in rois else to_corners(rois),
        positions=order,
    )
