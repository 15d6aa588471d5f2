"""What goes wrong where objects meet: leak, miss, double claim, spurious edges, straight seams.

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
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .contours import find_arcs, find_near_points, find_straight_runs, trace_contour
from .crops import count_common_pixels, find_box_window
from .image_instances import ImageInstances

__all__ = ["ImageErrors", "MatchErrors", "PairErrors", "Seam", "measure_errors"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]

_MET_FROM = 0.05  # least overlap of a met object
_LEAST_DISTANCE, _DISTANCE_SHARE = 2.0, 0.02  # pixels; share of the diagonal of b_i
_LEAST_SEAM, _SEAM_SHARE = 6.0, 0.15  # pixels; share of the square root of |G_i|


@dataclass(frozen=True)
class Seam:
    """A straight run of a spurious edge: what Figure 6 shows where two objects meet.

    The tolerance of 1 px also accepts pieces of a gentle curve, see `contours.find_straight_runs`.
    So read seams next to the spurious edges, and compare one model with another.

    Attributes:
        points: (K, 2) float64, x and y of the midpoints of its pixel sides. A pixel in column c and
            row r covers c to c + 1, r to r + 1; its centre is at (c + 0.5, r + 0.5).
        length: of its chord, in pixels.
        relative: its length in units of the square root of |G_i|.
        other: index of the other object of the pair that the seam belongs to: the matched j whose
            b_i ∩ b_j has the most of its points, of equals the first; None if none has a point.
    """

    points: Floats = field(repr=False)
    length: float
    relative: float
    other: int | None


@dataclass(frozen=True)
class MatchErrors:
    """The errors at a matched object. Shares are 0 to 1; NaN means that there is no such share.

    Attributes:
        object: index of the object.
        annotation_id: of the object.
        detection: position in the image's list of detections.
        leak: share of P_i on pixels that belong to another object and not to G_i; met objects only.
        miss: share of G_i inside the contested region that P_i leaves out; only for met objects
            with a pixel there. A pixel is inside when its centre is inside.
        spurious_edge: share of P_i's contour, in pixel sides, that is spurious; met objects only. A
            side is spurious when it lies in the contested region, border included, and farther than
            max(2 px, 2 % of the diagonal of b_i) from the contours of all objects. The distance is
            measured from midpoint to midpoint. Sides on the image's frame are no contour.
        edges: stretches of spurious contour, (K, 2) each, see `Seam.points`.
        seams: the straight runs of the edges, see `contours.find_straight_runs`, whose chord is at
            least max(6 px, 15 % of the square root of |G_i|) long.
    """

    object: int
    annotation_id: Any
    detection: int
    leak: float = math.nan
    miss: float = math.nan
    spurious_edge: float = math.nan
    edges: tuple[Floats, ...] = field(repr=False, default=())
    seams: tuple[Seam, ...] = ()


@dataclass(frozen=True)
class PairErrors:
    """The errors at two matched objects whose boxes have an area in common.

    Attributes:
        objects: i < j, indices of the objects.
        double_claim: IoU of P_i and P_j, 0 to 1.
        seams: number of seams of P_i and P_j that belong to the pair.
        seam_length: their lengths added up, see `Seam.relative`.
    """

    objects: tuple[int, int]
    double_claim: float
    seams: int
    seam_length: float


@dataclass(frozen=True)
class ImageErrors:
    """Where and how much a model is wrong on one image.

    Attributes:
        instances: the image.
        matches: of the matched objects, in the order of the annotations.
        pairs: in ascending order of their objects.
    """

    instances: ImageInstances = field(repr=False)
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
            "errors/seam_length": _add_up(pair.seam_length for pair in self.pairs),
            "errors/seam_share": _add_up(float(pair.seams > 0) for pair in self.pairs),
        }

    @property
    def means(self) -> dict[str, float]:
        """Metric without "errors/" -> its mean on the image; NaN where nothing can be measured."""
        return {
            name.removeprefix("errors/"): total / number if number else math.nan
            for name, (total, number) in self.sums.items()
        }

    @property
    def seams(self) -> list[Seam]:
        """All straight seams of the image."""
        return [seam for match in self.matches for seam in match.seams]

    @property
    def regions(self) -> Floats:
        """(R, 4) float64, XYXY: the rectangles that `contested` is made of."""
        regions: Floats = self.instances.common_boxes[np.triu(self.instances.touching)]
        return regions

    @property
    def contested(self) -> Bools:
        """(H, W), the pixels where the boxes of two objects overlap."""
        height, width = self.instances.height, self.instances.width
        contested = np.zeros((height, width), dtype=bool)
        for box in self.regions:
            contested[find_box_window(box, height, width)] = True
        return contested


def _add_up(values: Iterable[float]) -> tuple[float, int]:
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers), len(numbers)


def measure_errors(instances: ImageInstances) -> ImageErrors:
    """Return the errors at all matched objects and pairs of an image."""
    measurement = _Measurement(instances)
    matches = tuple(measurement.measure_match(index) for index in measurement.partners)
    seams: dict[tuple[int, int | None], list[float]] = {}
    for match in matches:
        for seam in match.seams:
            seams.setdefault((match.object, seam.other), []).append(seam.relative)
    pairs = []
    for i in measurement.partners:
        for j in measurement.partners:
            if i < j and instances.touching[i, j]:
                a, b = (instances.decode_detection(measurement.partners[k]) for k in (i, j))
                common = count_common_pixels(a, b)
                found = seams.get((i, j), []) + seams.get((j, i), [])
                claim = common / (a.area + b.area - common)
                pairs.append(PairErrors((i, j), claim, len(found), float(sum(found))))
    return ImageErrors(instances, matches, tuple(pairs))


class _Measurement:
    """Measures the matched objects of an image and keeps what they share.

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
        if not instances.touching[index].any():
            return MatchErrors(**names)
        share, edges, seams = self._find_edges(index)
        if instances.overlap[index] < _MET_FROM:
            return MatchErrors(**names, edges=edges, seams=seams)
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
            spurious_edge=share,
            edges=edges,
            seams=seams,
        )

    def _find_edges(self, index: int) -> tuple[float, tuple[Floats, ...], tuple[Seam, ...]]:
        """Return the spurious share of a prediction's contour, its stretches, and their seams."""
        instances = self.instances
        prediction = instances.decode_detection(self.partners[index])
        contour = trace_contour(prediction, instances.height, instances.width)
        points = contour.points
        neighbours = np.flatnonzero(instances.touching[index])
        spurious = ~contour.frame & self._lie_inside(points, index, neighbours).any(axis=0)
        x1, y1, x2, y2 = instances.boxes[index]
        distance = max(_LEAST_DISTANCE, _DISTANCE_SHARE * math.hypot(x2 - x1, y2 - y1))
        candidates = np.flatnonzero(spurious)
        spurious[candidates] = ~find_near_points(points[candidates], self.contours, distance)

        side = math.sqrt(instances.object_crops[index].area)
        least = max(_LEAST_SEAM, _SEAM_SHARE * side)
        matched = neighbours[np.isin(neighbours, list(self.partners))]
        edges: list[Floats] = []
        seams: list[Seam] = []
        for arc in find_arcs(contour, spurious):
            edges.append(points[arc])
            for run in find_straight_runs(points[arc], contour.steps[arc], least):
                part = points[arc[run.start : run.stop]]
                other = None
                if len(matched):
                    held = self._lie_inside(part, index, matched).sum(axis=1)
                    other = int(matched[held.argmax()]) if held.any() else None
                seams.append(Seam(part, run.length, run.length / side, other))
        drawn = int(np.count_nonzero(~contour.frame))
        share = np.count_nonzero(spurious) / max(1, drawn)
        return share, tuple(edges), tuple(seams)

    def _lie_inside(self, points: Floats, index: int, others: Ints) -> Bools:
        """Return (J, N): which of N points lie in b_i ∩ b_j for each of the J others."""
        box = self.instances.common_boxes[index, others][:, None]
        return ((points >= box[..., :2]) & (points <= box[..., 2:])).all(axis=2)
