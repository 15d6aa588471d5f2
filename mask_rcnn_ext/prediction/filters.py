"""Selects instances of an image by class, by score, and by the overlap of their masks."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from detectron2.structures import Instances
from pycocotools import mask as mask_util

from ..errors import UserError, name_some, nearest, require_choice
from ..layers.packed_masks import PackedMasks
from ..layers.rle import count_pixels

__all__ = [
    "MEASURES",
    "InstanceFilter",
    "MaskOverlap",
    "find_lowest",
]

MEASURES = ("iou", "containment")


@dataclasses.dataclass(frozen=True)
class MaskOverlap:
    """Drops an instance whose mask overlaps the mask of a better instance too much.

    Attributes:
        limit: in (0, 1]; an instance with this overlap or more is dropped.
        measure: "iou", or "containment": the common pixels as a share of the smaller mask. For a
            small mask inside a large one, containment is high while the IoU is low.
        each_class: compare only instances of the same class.
    """

    limit: float
    measure: str = "iou"
    each_class: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.limit <= 1:
            raise UserError(f"mask overlap: expected more than 0 and up to 1, got {self.limit}")
        require_choice("overlap measure", self.measure, MEASURES)

    def find_kept(self, instances: Instances) -> list[int]:
        """Return the indices of the instances that are kept, in ascending order.

        Instances with higher scores are considered first. An empty mask overlaps nothing.

        Raises:
            UserError: the instances have no masks.
        """
        if not instances.has("pred_masks"):
            raise UserError("mask overlap: the model predicts no masks. Leave out --mask-overlap")
        masks = instances.pred_masks
        rles = (masks if isinstance(masks, PackedMasks) else PackedMasks.pack(masks)).encode()
        classes = instances.pred_classes.tolist()
        areas = count_pixels(rles).tolist()
        kept: list[int] = []
        for index in torch.argsort(instances.scores, descending=True, stable=True).tolist():
            rivals = [k for k in kept if not self.each_class or classes[k] == classes[index]]
            if not self._is_covered(index, rivals, rles, areas):
                kept.append(index)
        return sorted(kept)

    def _is_covered(
        self, index: int, rivals: list[int], rles: Sequence[object], areas: Sequence[float]
    ) -> bool:
        if not rivals or not areas[index]:
            return False
        others, crowd = [rles[k] for k in rivals], self.measure == "containment"
        # With "crowd" the common pixels are divided by the area of the first mask.
        overlaps = mask_util.iou([rles[index]], others, [int(crowd)] * len(rivals))[0]
        if crowd:
            sizes = np.array([areas[k] for k in rivals], dtype=np.float64)
            overlaps = overlaps * areas[index] / np.maximum(np.minimum(sizes, areas[index]), 1)
        return bool((overlaps >= self.limit).any())


class InstanceFilter:
    """Keeps some of the instances of an image.

    Args:
        class_names: names of the K classes of the model.
        classes: names of the classes to keep; None: all.
        thresholds: name of a class -> its least score. "" stands for all classes that are not
            named; without "" they keep all instances that the model finds.
        mask_overlap: applied after the other two filters, see `MaskOverlap`.

    Raises:
        UserError: a name is not one of the classes.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        classes: Iterable[str] | None = None,
        thresholds: Mapping[str, float] | None = None,
        mask_overlap: MaskOverlap | None = None,
    ) -> None:
        thresholds = dict(thresholds or {})
        default = thresholds.pop("", 0.0)
        for name in (*(classes or ()), *thresholds):
            if name not in class_names:
                raise UserError(
                    f"no class {name!r}; the model knows {name_some(class_names)}"
                    f"{nearest(name, class_names)}"
                )
        wanted = set(class_names if classes is None else classes)
        self._kept = torch.tensor([name in wanted for name in class_names])
        least = [thresholds.get(name, default) for name in class_names]
        self._least = torch.tensor(least, dtype=torch.float32)  # as the scores are
        self._mask_overlap = mask_overlap

    def __call__(self, instances: Instances) -> Instances:
        """Return the instances that are kept, in their order.

        Args:
            instances: instances on the CPU; `pred_masks` are (N, H, W) bool or `PackedMasks`.
        """
        classes = instances.pred_classes
        kept = instances[self._kept[classes] & (instances.scores >= self._least[classes])]
        if self._mask_overlap is not None and len(kept):
            kept = kept[self._mask_overlap.find_kept(kept)]
        return kept


def find_lowest(thresholds: float | Mapping[str, float]) -> float:
    """Return the score threshold of the model that gives the filter all the instances it keeps.

    Args:
        thresholds: the result of `arguments.parse_thresholds`.
    """
    if not isinstance(thresholds, Mapping):
        return thresholds
    # A model keeps scores above its threshold; the filter also keeps scores equal to it.
    return float(np.nextafter(np.float32(min(thresholds.values())), np.float32(0)))
