"""One image's objects and detections as arrays: what every comparison metric starts from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_util

from ..errors import UserError
from .crops import Crop, decode_crop
from .detections import Detection, as_rle
from .matching import best_overlap, box_iou, levels_of, match_detections

__all__ = ["MAX_DETECTIONS", "Scene", "make_scene"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

MAX_DETECTIONS = 100  # of one class in one image, as in COCO: the best ones


@dataclass(frozen=True)
class Scene:
    """One image: G objects, crowds among them, and D detections, in descending order of scores.

    Attributes:
        height, width: of the image, in pixels.
        classes: (G,), category ids.
        crowd: (G,).
        boxes: (G, 4) float64, XYXY in pixels: the annotations' boxes.
        masks: G RLE of the visible parts.
        ids: of the G annotations.
        detection_classes: (D,), category ids.
        scores: (D,).
        detection_masks: D RLE.
        source: (D,), where each detection stood in the list that was given.
    """

    height: int
    width: int
    classes: Ints
    crowd: Bools
    boxes: Floats = field(repr=False)
    masks: list[dict[str, Any]] = field(repr=False)
    ids: list[Any]
    detection_classes: Ints
    scores: Floats = field(repr=False)
    detection_masks: list[dict[str, Any]] = field(repr=False)
    source: Ints

    @cached_property
    def object_crops(self) -> list[Crop]:
        """The decoded masks of the objects."""
        return [decode_crop(mask) for mask in self.masks]

    @cached_property
    def detection_crops(self) -> dict[int, Crop]:
        """The decoded masks of detections, filled in by `detection_crop`."""
        return {}

    def detection_crop(self, index: int) -> Crop:
        """Return a detection's decoded mask; only those that are asked for are decoded."""
        if index not in self.detection_crops:
            self.detection_crops[index] = decode_crop(self.detection_masks[index])
        return self.detection_crops[index]

    @cached_property
    def box_ious(self) -> Floats:
        """(G, G), of the objects' boxes; 0 for crowds, which are left out."""
        ious = box_iou(self.boxes, self.boxes)
        ious[self.crowd] = ious[:, self.crowd] = 0
        return ious

    @cached_property
    def common_boxes(self) -> Floats:
        """(G, G, 4), XYXY of b_i ∩ b_j; see `touching` for where it is one."""
        low = np.maximum(self.boxes[:, None, :2], self.boxes[None, :, :2])
        high = np.minimum(self.boxes[:, None, 2:], self.boxes[None, :, 2:])
        return np.concatenate([low, high], axis=2)

    @cached_property
    def touching(self) -> Bools:
        """(G, G): two objects, no crowds, whose boxes have an area in common."""
        common, counts = self.common_boxes, ~self.crowd
        touching = (common[..., :2] < common[..., 2:]).all(axis=2)
        return touching & counts[:, None] & counts[None] & ~np.eye(len(counts), dtype=bool)

    @cached_property
    def detection_boxes(self) -> Floats:
        """(D, 4), XYXY: the tight boxes of the detections' masks."""
        found = [mask_util.toBbox(mask) for mask in self.detection_masks]
        xywh = np.asarray(found, dtype=np.float64).reshape(-1, 4)
        return np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]])

    @cached_property
    def overlap(self) -> Floats:
        """(G,), each object's largest box IoU with another object that is no crowd."""
        return best_overlap(self.box_ious, self.classes, same_class=False)

    @cached_property
    def overlap_same(self) -> Floats:
        """(G,), the same with others of its class."""
        return best_overlap(self.box_ious, self.classes, same_class=True)

    @cached_property
    def levels(self) -> dict[str, Ints]:
        """(G,) each: index in `matching.LEVELS` by `overlap` and by `overlap_same`."""
        return {
            "overlap": levels_of(self.overlap),
            "overlap_same": levels_of(self.overlap_same),
        }

    @cached_property
    def mask_ious(self) -> dict[int, tuple[Ints, Ints, Floats]]:
        """Per class: indices of its detections and objects, and their (D_c, G_c) mask IoUs.

        With a crowd, IoU is the share of the detection that lies in it, as in COCO.
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

    def partners(self) -> dict[int, int]:
        """Return object -> the detection that COCO's matching at mask IoU 0.5 gives to it."""
        pairs = {}
        for here, there, ious in self.mask_ious.values():
            crowd = self.crowd[there]
            matches = match_detections(ious, crowd, crowd)[0]
            for detection in np.flatnonzero(matches >= 0):
                if not crowd[matches[detection]]:
                    pairs[int(there[matches[detection]])] = int(here[detection])
        return dict(sorted(pairs.items()))


def _object_mask(annotation: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    try:
        return as_rle(annotation["segmentation"], height, width)
    except UserError as error:
        raise UserError(f"the data set's annotation {annotation['id']!r}: {error}") from error


def make_scene(
    image: dict[str, Any],
    annotations: Sequence[dict[str, Any]],
    detections: Sequence[Detection],
    max_detections: int = MAX_DETECTIONS,
) -> Scene:
    """Return the scene of one image.

    Args:
        image: COCO's entry, with `height` and `width`.
        annotations: COCO's entries of the image, with masks. An annotation without `bbox` gets the
            tight box of its mask.
        detections: of the image; of each class only the best `max_detections` are taken, of equal
            scores the first.
        max_detections: see there.

    Raises:
        UserError: an annotation has a broken mask, or one of another size than the image.
    """
    height, width = int(image["height"]), int(image["width"])
    masks = [_object_mask(a, height, width) for a in annotations]
    xywh = [a.get("bbox") or mask_util.toBbox(m) for a, m in zip(annotations, masks, strict=True)]
    boxes = np.asarray(xywh, dtype=np.float64).reshape(-1, 4)
    boxes = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])

    scores = np.array([d.score for d in detections], dtype=np.float64)
    classes = np.array([d.category_id for d in detections], dtype=np.intp)
    order = np.argsort(-scores, kind="stable")
    kept = np.zeros(len(order), dtype=bool)
    for category in np.unique(classes):
        kept[np.flatnonzero(classes[order] == category)[:max_detections]] = True
    order = order[kept]
    return Scene(
        height=height,
        width=width,
        classes=np.array([a["category_id"] for a in annotations], dtype=np.intp),
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool),
        boxes=boxes,
        masks=masks,
        ids=[a["id"] for a in annotations],
        detection_classes=classes[order],
        scores=scores[order],
        detection_masks=[detections[i].mask for i in order],
        source=order,
    )
