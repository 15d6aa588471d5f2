"""The images on which two models differ most where objects overlap, chosen and drawn."""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from ..errors import UserError
from ..overlap.comparison import Detections, ImageRecord
from ..overlap.image_instances import read_image_instances
from ..overlap.overlap_errors import ImageErrors, measure_errors
from .comparison_pictures import Case, Drawn, Side, draw_case
from .instances import load_picture

__all__ = ["draw_gallery", "rank_images"]

RGBArray = npt.NDArray[np.uint8]

_TILE = 380  # pixels
_RANKED = ("errors/leak", "errors/miss", "errors/double_claim", "errors/seam_length")
_PATIENCE = 10  # images that cannot be read: then the folder is the wrong one


def rank_images(first: Sequence[ImageRecord], second: Sequence[ImageRecord]) -> list[Any]:
    """Return the ids of the images whose overlap errors differ, most first.

    How much: the differences, regardless of their sign, of the image's summed leak, miss and double
    claim (shares of each object or pair) and seam length (in units of its object's size).
    """
    gaps = []
    for one, other in zip(first, second, strict=True):
        sums = [{k: r.sums.get(k, (0.0, 0))[0] for k in _RANKED} for r in (one, other)]
        gap = sum(abs(sums[0][name] - sums[1][name]) for name in _RANKED)
        if gap > 0:
            gaps.append((gap, one.image_id))
    return [image_id for _, image_id in sorted(gaps, key=lambda pair: -pair[0])]


def draw_gallery(
    truth: COCO,
    folder: str | os.PathLike[str],
    detections: tuple[Detections, Detections],
    ranked: Sequence[Any],
    wanted: int,
    *,
    score_threshold: float = 0.5,
) -> tuple[list[Drawn], list[str]]:
    """Return pictures of the first `wanted` of the ranked images, and what went wrong.

    Drawn are the detections that are matched with an object, and others from the threshold on. One
    image is held in memory at a time.

    Args:
        truth: the data set.
        folder: of its images.
        detections: of the two models.
        ranked: ids, see `rank_images`.
        wanted: how many; images that cannot be read are left out, and the next ones taken.
        score_threshold: 0 to 1.
    """
    drawn: list[Drawn] = []
    problems: list[str] = []
    for image_id in ranked:
        if len(drawn) == wanted or len(problems) == _PATIENCE:
            break
        entry = truth.imgs[image_id]
        record = {**entry, "file_name": os.path.join(folder, str(entry.get("file_name", "")))}
        try:
            image = load_picture(record)
        except UserError as error:
            problems.append(f"A picture is left out: {error}.")
            continue
        drawn.append(draw_case(_case(truth, image_id, image, detections, score_threshold), _TILE))
    return drawn, problems


def _case(
    truth: COCO,
    image_id: Any,
    image: RGBArray,
    detections: tuple[Detections, Detections],
    threshold: float,
) -> Case:
    annotations = [a for a in truth.imgToAnns[image_id] if not a.get("iscrowd", 0)]
    masks = [truth.annToMask(annotation).astype(bool) for annotation in annotations]
    order = {annotation["id"]: index for index, annotation in enumerate(annotations)}
    sides, contested = [], np.zeros(image.shape[:2], dtype=bool)
    for found in detections:
        errors = measure_errors(read_image_instances(truth, image_id, found))
        contested = errors.contested
        matched = {match.detection: order[match.annotation_id] for match in errors.matches}
        shown = [
            (index, detection)
            for index, detection in enumerate(found.get(image_id, []))
            if index in matched or detection.score >= threshold
        ]
        pixels = [mask_util.decode(detection.mask).astype(bool) for _, detection in shown]
        sides.append(
            Side(
                np.stack(pixels) if pixels else np.zeros((0, *image.shape[:2]), dtype=bool),
                [matched.get(index) for index, _ in shown],
                [seam.points[[0, -1]] for seam in errors.seams],  # contours go in steps
                _describe(errors),
            )
        )
    count = len(annotations)
    return Case(
        os.path.basename(str(truth.imgs[image_id].get("file_name", image_id))),
        image,
        np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), dtype=bool),
        contested,
        (sides[0], sides[1]),
        f"{count} object" if count == 1 else f"{count} objects",
    )


def _describe(errors: ImageErrors) -> str:
    """Return the image's figures in a line."""
    count, length = len(errors.seams), sum(seam.length for seam in errors.seams)
    parts = ["no seam" if not count else f"{count} seam{'s' * (count > 1)}, {length:.0f} px"]
    means = errors.means
    for name in ("leak", "miss"):
        if not math.isnan(value := means[name]):
            parts.append(f"{name} {100 * value:.0f} %")
    return " \u00b7 ".join(parts)
