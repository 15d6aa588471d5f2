"""The errors where objects meet: leak, miss, double claim, spurious edges.

Figure 6 of the Mask R-CNN paper (arXiv:1703.06870) shows such errors of FCIS but gives no numbers;
these metrics are not the paper's.

Letters, for one image, without crowds: object i has the visible mask G_i and the box b_i. P_i is
the detection that COCO's matching at mask IoU 0.5 gives to it, if there is one. The contested
region of i is the union of b_i ∩ b_j over all other objects j of any class, matched or not. An
object is *met* when its overlap (largest box IoU with another object) is 0.05 or more. A *pair* is
two matched objects whose boxes have an area in common.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..arrays import Floats
from .contours import find_near_points, trace_contour
from .image_instances import ImageInstances

__all__ = ["ImageErrors", "MatchErrors", "PairErrors", "measure_errors"]

_MET_FROM = 0.05  # least overlap of a met object
_LEAST_DISTANCE, _DISTANCE_SHARE = 2.0, 0.02  # pixels; share of the diagonal of b_i


@dataclass(frozen=True)
class MatchErrors:
    """The errors at a matched object. Shares are 0 to 1; NaN means that there is no such share.

    Attributes:
        object: the index of the object.
        annotation_id: the id of the annotation of the object.
        detection: the position of the detection in the image's list.
        leak: share of P_i on pixels that belong to another object and not to G_i; met objects only.
        miss: share of G_i inside the contested region that P_i leaves out; only for met objects
            with a pixel there. A pixel is inside when its centre is inside.
        spurious_edge: share of P_i's contour, in pixel sides, that is spurious; met objects only. A
            side is spurious when it lies in the contested region, border included, and farther than
            max(2 px, 2 % of the diagonal of b_i) from the contours of all objects. The distance is
            measured from midpoint to midpoint. Sides on the image's frame are no contour.
    """

    object: int
    annotation_id: Any
    detection: int
    leak: float = math.nan
    miss: float = math.nan
    spurious_edge: float = math.nan


@dataclass(frozen=True)
class PairErrors:
    """The errors at two matched objects whose boxes have an area in common.

    Attributes:
        objects: i < j, indices of the objects.
        double_claim: IoU of P_i and P_j, 0 to 1.
    """

    objects: tuple[int, int]
    double_claim: float


@dataclass(frozen=True)
class ImageErrors:
    """The errors of a model on one image.

    Attributes:
        matches: the errors at the matched objects, in the order of the annotations.
        pairs: the errors at pairs of objects, in ascending order of the objects.
    """

    matches: tuple[MatchErrors, ...]
    pairs: tuple[PairErrors, ...]

    @property
    def sums(self) -> dict[str, tuple[float, int]]:
        """Metric, see `metrics.RATIOS` -> (sum, number) of its values over the objects or pairs."""
        return {
            "errors/leak": _add_up(match.leak for match in self.matches),
            "errors/miss": _add_up(match.miss for match in self.matches),
            "errors/double_claim": _add_up(pair.double_claim for pair in self.pairs),
            "errors/spurious_edge": _add_up(match.spurious_edge for match in self.matches),
        }


def _add_up(values: Iterable[float]) -> tuple[float, int]:
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers), len(numbers)


def measure_errors(instances: ImageInstances) -> ImageErrors:
    """Return the errors at all matched objects and pairs of an image."""
    measurement = _Measurement(instances)
    matches = tuple(measurement.measure_match(index) for index in measurement.partners)
    pairs = []
    for i in measurement.partners:
        for j in measurement.partners:
            if i < j and instances.touching[i, j]:
                a, b = (instances.decode_detection(measurement.partners[k]) for k in (i, j))
                common = a.count_common(b)
                pairs.append(PairErrors((i, j), common / (a.area + b.area - common)))
    return ImageErrors(matches, tuple(pairs))


class _Measurement:
    """Measures the matched objects of an image and keeps the values that they share.

    Attributes:
        partners: object -> the detection that it is matched with.
    """

    def __init__(self, instances: ImageInstances) -> None:
        self.instances = instances
        self.partners = instances.match()

    @cached_property
    def contours(self) -> Floats:
        """(M, 2), the contours of all objects."""
        points = [np.zeros((0, 2))]
        for index in np.flatnonzero(~self.instances.crowd):
            crop = self.instances.object_crops[index]
            contour = trace_contour(crop, self.instances.height, self.instances.width)
            points.append(contour.points[~contour.frame])
        return np.concatenate(points)

    def measure_match(self, index: int) -> MatchErrors:
        """Return the errors at a matched object."""
        instances, detection = self.instances, self.partners[index]
        names = {
            "object": index,
            "annotation_id": instances.annotation_ids[index],
            "detection": int(instances.positions[detection]),
        }
        if instances.overlap[index] < _MET_FROM:
            return MatchErrors(**names)
        prediction, truth = instances.decode_detection(detection), instances.object_crops[index]
        others = instances.object_mask[prediction.rows, prediction.columns]
        own = truth.cut(prediction.rows, prediction.columns)
        rows, columns, region = instances.find_contested(index)
        inside = truth.cut(rows, columns) & region
        missed = np.count_nonzero(inside & ~prediction.cut(rows, columns))
        return MatchErrors(
            **names,
            leak=np.count_nonzero(prediction.mask & others & ~own) / prediction.area,
            miss=missed / np.count_nonzero(inside) if inside.any() else math.nan,
            spurious_edge=self._measure_spurious_edge(index),
        )

    def _measure_spurious_edge(self, index: int) -> float:
        """Return the spurious share of a prediction's contour."""
        instances = self.instances
        prediction = instances.decode_detection(self.partners[index])
        contour = trace_contour(prediction, instances.height, instances.width)
        points = contour.points[~contour.frame]
        common = instances.common_boxes[index, instances.touching[index]][:, None]
        inside = ((points >= common[..., :2]) & (points <= common[..., 2:])).all(axis=2)
        candidates = points[inside.any(axis=0)]
        x1, y1, x2, y2 = instances.boxes[index]
        distance = max(_LEAST_DISTANCE, _DISTANCE_SHARE * math.hypot(x2 - x1, y2 - y1))
        far = ~find_near_points(candidates, self.contours, distance)
        return int(np.count_nonzero(far)) / max(1, len(points))
