"""What goes wrong where objects meet: leak, miss, double claim, spurious edges, straight seams.

Figure 6 of the Mask R-CNN paper (arXiv:1703.06870) shows such errors of FCIS; it gives no numbers,
and these metrics are not the paper's. Letters, for one image, crowds left out: object i has the
visible mask G_i and the box b_i; P_i is the detection that COCO's matching at mask IoU 0.5 gives to
it, if any. The contested region of i is the union of b_i ∩ b_j over all other objects j, matched or
not, of any class. Objects are *met* when their overlap (largest box IoU) is 0.05 or more; a *pair*
is two matched objects whose boxes have an area in common.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .contours import arcs, crack_points, near, straight_runs, trace
from .crops import Crop, box_window, intersection
from .image_instances import Scene

__all__ = ["MatchErrors", "OverlapErrors", "PairErrors", "Seam", "measure_errors"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_LEAST_DISTANCE, _DISTANCE_SHARE = 2.0, 0.02  # px; of the diagonal of b_i
_LEAST_SEAM, _SEAM_SHARE = 6.0, 0.15  # px; of the square root of |G_i|


@dataclass(frozen=True)
class Seam:
    """A straight run of a spurious edge: what Figure 6 shows where two objects meet.

    The tolerance of 1 px also lets a gentle curve pass in pieces, see `contours.straight_runs`:
    read seams beside the spurious edges that they are part of, and one model's beside another's.

    Attributes:
        points: (K, 2) float64, x and y of the midpoints of its pixel sides; a pixel in column c and
            row r covers c to c + 1, r to r + 1.
        length: of its chord, in pixels.
        relative: the same in units of the square root of |G_i|.
        other: index in the scene of the other object of the pair that it belongs to: the matched j
            whose b_i ∩ b_j has the most of its points, of equals the first; None where none has.
    """

    points: Floats = field(repr=False)
    length: float
    relative: float
    other: int | None


@dataclass(frozen=True)
class MatchErrors:
    """A matched object. The shares are 0 to 1; NaN: does not count in their means.

    Attributes:
        object: index in the scene.
        detection: index in the scene.
        leak: the share of P_i on pixels that are another object's and not G_i's; of met objects.
        miss: the share of G_i inside the contested region that P_i leaves out; of met objects with
            a pixel there. A pixel is inside when its centre is.
        spurious_edge: the share of P_i's contour, in pixel sides, that is spurious; of met objects.
            Spurious is what lies in the contested region, border included, and farther than
            max(2 px, 2 % of the diagonal of b_i) from the contours of all objects; pixel sides are
            measured from midpoint to midpoint, and those on the image's frame are no contour.
        edges: stretches of spurious contour, (K, 2) each, as in `Seam`.
        seams: the straight runs of the edges, see `contours.straight_runs`, whose chord is at least
            max(6 px, 15 % of the square root of |G_i|).
    """

    object: int
    detection: int
    leak: float
    miss: float
    spurious_edge: float
    edges: tuple[Floats, ...] = field(repr=False, default=())
    seams: tuple[Seam, ...] = ()


@dataclass(frozen=True)
class PairErrors:
    """Two matched objects whose boxes have an area in common.

    Attributes:
        objects: i < j, indices in the scene.
        double_claim: the IoU of P_i and P_j, 0 to 1.
        seam_length: of the seams of P_i and P_j that belong to the pair, in units of the square
            root of the mask that each is of.
        seams: how many.
    """

    objects: tuple[int, int]
    double_claim: float
    seam_length: float
    seams: int


@dataclass(frozen=True)
class OverlapErrors:
    """The matched objects and the pairs of one image, in ascending order."""

    matches: tuple[MatchErrors, ...]
    pairs: tuple[PairErrors, ...]


class _Meetings:
    """The parts of an image's geometry that its matched objects share."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.objects = np.flatnonzero(~scene.crowd)

    @cached_property
    def anything(self) -> Bools:
        """(H, W), the union of all objects."""
        union = np.zeros((self.scene.height, self.scene.width), dtype=bool)
        for index in self.objects:
            crop = self.scene.object_crops[index]
            union[crop.rows, crop.columns] |= crop.mask
        return union

    @cached_property
    def contours(self) -> Floats:
        """(M, 2), the contours of all objects."""
        crops = [self.scene.object_crops[index] for index in self.objects]
        points = [crack_points(crop, self.scene.height, self.scene.width) for crop in crops]
        return np.concatenate([np.zeros((0, 2)), *points])

    def contested(self, index: int) -> tuple[slice, slice, Bools]:
        """Return the window of an object's box, and which of its pixels are contested."""
        height, width = self.scene.height, self.scene.width
        rows, columns = box_window(self.scene.boxes[index], height, width)
        region = np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=bool)
        for other in np.flatnonzero(self.scene.touching[index]):
            r, c = box_window(self.scene.common_boxes[index, other], height, width)
            region[
                r.start - rows.start : r.stop - rows.start,
                c.start - columns.start : c.stop - columns.start,
            ] = True
        return rows, columns, region

    def inside(self, points: Floats, index: int, others: npt.NDArray[np.intp]) -> Bools:
        """Return (J, N): which points lie in b_i ∩ b_j for each of the others j."""
        box = self.scene.common_boxes[index, others][:, None]
        return ((points >= box[..., :2]) & (points <= box[..., 2:])).all(axis=2)


def measure_errors(scene: Scene, met_from: float = 0.05) -> OverlapErrors:
    """Return the errors at all matched objects and pairs of an image.

    Args:
        scene: the image.
        met_from: the least overlap of met objects.
    """
    partners = scene.partners()
    meetings = _Meetings(scene)
    matches = tuple(
        _match_errors(meetings, partners, index, met=bool(scene.overlap[index] >= met_from))
        for index in partners
    )
    pairs = []
    seams: dict[tuple[int, int | None], list[float]] = {}
    for match in matches:
        for seam in match.seams:
            seams.setdefault((match.object, seam.other), []).append(seam.relative)
    for i in partners:
        for j in partners:
            if i < j and meetings.scene.touching[i, j]:
                a, b = (scene.detection_crop(partners[k]) for k in (i, j))
                common = intersection(a, b)
                found = seams.get((i, j), []) + seams.get((j, i), [])
                claim = common / (a.area + b.area - common)
                pairs.append(PairErrors((i, j), claim, float(sum(found)), len(found)))
    return OverlapErrors(matches, tuple(pairs))


def _match_errors(
    meetings: _Meetings, partners: dict[int, int], index: int, *, met: bool
) -> MatchErrors:
    scene, detection = meetings.scene, partners[index]
    if not meetings.scene.touching[index].any():
        return MatchErrors(index, detection, math.nan, math.nan, math.nan)
    prediction, truth = scene.detection_crop(detection), scene.object_crops[index]
    leak = miss = math.nan
    if met:
        others = meetings.anything[prediction.rows, prediction.columns]
        own = truth.window(prediction.rows, prediction.columns)
        leak = np.count_nonzero(prediction.mask & others & ~own) / prediction.area
        rows, columns, region = meetings.contested(index)
        inside = truth.window(rows, columns) & region
        if inside.any():
            left_out = inside & ~prediction.window(rows, columns)
            miss = np.count_nonzero(left_out) / np.count_nonzero(inside)
    share, edges, seams = _edges(meetings, partners, index, prediction)
    return MatchErrors(
        object=index,
        detection=detection,
        leak=leak,
        miss=miss,
        spurious_edge=share if met else math.nan,
        edges=edges,
        seams=seams,
    )


def _edges(
    meetings: _Meetings, partners: dict[int, int], index: int, prediction: Crop
) -> tuple[float, tuple[Floats, ...], tuple[Seam, ...]]:
    """Return the spurious share of a prediction's contour, its stretches, and their seams."""
    scene = meetings.scene
    contour = trace(prediction, scene.height, scene.width)
    points = contour.points
    spurious = ~contour.frame
    drawn = int(np.count_nonzero(spurious))
    spurious &= meetings.inside(points, index, np.flatnonzero(meetings.scene.touching[index])).any(
        axis=0
    )
    x1, y1, x2, y2 = scene.boxes[index]
    distance = max(_LEAST_DISTANCE, _DISTANCE_SHARE * math.hypot(x2 - x1, y2 - y1))
    candidates = np.flatnonzero(spurious)
    spurious[candidates] = ~near(points[candidates], meetings.contours, distance)

    side = math.sqrt(scene.object_crops[index].area)
    least = max(_LEAST_SEAM, _SEAM_SHARE * side)
    matched = np.array([j for j in partners if meetings.scene.touching[index, j]], dtype=np.intp)
    edges: list[Floats] = []
    seams: list[Seam] = []
    for arc in arcs(contour, spurious):
        edges.append(points[arc])
        for run in straight_runs(points[arc], contour.steps[arc], least):
            part = points[arc[run.start : run.stop]]
            other = None
            if len(matched):
                held = meetings.inside(part, index, matched).sum(axis=1)
                other = int(matched[held.argmax()]) if held.any() else None
            seams.append(Seam(part, run.length, run.length / side, other))
    return np.count_nonzero(spurious) / max(1, drawn), tuple(edges), tuple(seams)
