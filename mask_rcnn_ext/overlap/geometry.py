"""The geometry of one image's overlap errors, for pictures and for ranking images."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO

from .crops import box_window
from .detections import Detections
from .errors import MatchErrors, Seam, measure_errors
from .image_instances import MAX_DETECTIONS, make_scene
from .image_metrics import error_sums

__all__ = ["ImageErrors", "PictureMatch", "seams"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PictureMatch:
    """A matched object of an image.

    Attributes:
        annotation_id: of the object.
        detection: index in the image's list of detections.
        leak, miss, spurious_edge: see `overlap.MatchErrors`; 0 to 1, NaN where they do not apply.
        edges: its stretches of spurious contour, (K, 2) each, in the coordinates of `ImageErrors`.
        seams: its straight seams.
    """

    annotation_id: Any
    detection: int
    leak: float
    miss: float
    spurious_edge: float
    edges: tuple[Floats, ...] = field(repr=False)
    seams: tuple[Seam, ...] = field(repr=False)


@dataclass(frozen=True)
class ImageErrors:
    """Where and how much a model is wrong on one image.

    Places are x and y in pixels; the pixel in column c and row r covers c to c + 1 and r to r + 1,
    so that its centre is at (c + 0.5, r + 0.5).

    Attributes:
        image_id: of the data set.
        contested: (H, W), the pixels where the boxes of two objects overlap, crowds left out.
        regions: (R, 4) float64, XYXY: the rectangles that `contested` is made of.
        matches: the matched objects, in the order of the annotations.
        pairs: annotation ids of the matched pairs whose boxes meet.
        errors: the image's means under the names of `metrics.METRICS` without "errors/"; shares are
            0 to 1; NaN where there is nothing to measure.
    """

    image_id: Any
    contested: Bools = field(repr=False)
    regions: Floats = field(repr=False)
    matches: tuple[PictureMatch, ...]
    pairs: tuple[tuple[Any, Any], ...]
    errors: dict[str, float]

    @property
    def leak(self) -> float:
        """Mean leak of the image, 0 to 1, or NaN."""
        return self.errors["leak"]

    @property
    def miss(self) -> float:
        """Mean miss of the image, 0 to 1, or NaN."""
        return self.errors["miss"]

    @property
    def seams(self) -> list[Seam]:
        """All straight seams of the image."""
        return [seam for match in self.matches for seam in match.seams]


def seams(coco_gt: COCO, image_id: Any, detections: Detections) -> ImageErrors:
    """Return the overlap errors of one image with their geometry.

    Args:
        coco_gt: the data set, see `load_truth`.
        image_id: of one of its images.
        detections: see `load_results`.
    """
    annotations = [a for a in coco_gt.imgToAnns[image_id] if a["category_id"] in coco_gt.cats]
    found = detections.get(image_id, [])
    scene = make_scene(coco_gt.imgs[image_id], annotations, found, MAX_DETECTIONS)
    measured = measure_errors(scene)

    def picture(match: MatchErrors) -> PictureMatch:
        return PictureMatch(
            annotation_id=scene.ids[match.object],
            detection=int(scene.source[match.detection]),
            leak=match.leak,
            miss=match.miss,
            spurious_edge=match.spurious_edge,
            edges=match.edges,
            seams=match.seams,
        )

    regions = scene.common_boxes[np.triu(scene.touching)]
    contested = np.zeros((scene.height, scene.width), dtype=bool)
    for box in regions:
        contested[box_window(box, scene.height, scene.width)] = True
    means = {
        name.removeprefix("errors/"): total / number if number else float("nan")
        for name, (total, number) in error_sums(measured).items()
    }
    return ImageErrors(
        image_id=image_id,
        contested=contested,
        regions=regions,
        matches=tuple(picture(match) for match in measured.matches),
        pairs=tuple((scene.ids[i], scene.ids[j]) for i, j in (p.objects for p in measured.pairs)),
        errors=means,
    )
