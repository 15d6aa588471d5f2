"""Ground truth and two models side by side on the images where they differ most in their overlaps.

Contested regions, where the boxes of two objects overlap, are outlined.
"""

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from pycocotools.coco import COCO

from ..arrays import RGB, Bools, RGBArray
from ..data.bands import read_picture
from ..errors import UserError, count_noun
from ..layers.packed_masks import PackedMasks
from ..overlap.comparison import METRICS, Detection, Detections, ImageRecord
from ..overlap.image_instances import read_image_instances
from ..overlap.metrics import RATIOS
from .drawing.pictures import draw_instances
from .drawing.sheets import make_tile_sheet, resize_picture
from .instances import decode_masks

__all__ = [
    "Case",
    "CasePictures",
    "Side",
    "draw_case",
    "draw_gallery",
    "make_case_sheet",
    "rank_differences",
]


_BLACK: RGB = (0, 0, 0)
_WHITE: RGB = (255, 255, 255)
_MARGIN = 0.08  # around the objects that meet, as a share of the longer side
_LEAST_SIDE = 64  # pixels of the image that are shown at least: fewer would be a mosaic
_SHEET_TILE = 300  # pixels
_TILE = 380  # pixels
_SHOWN = ("errors/leak", "errors/miss", "errors/spurious_edge")  # more would not fit a tile
_PATIENCE = 10  # images that cannot be read: then the folder is the wrong one


@dataclass(frozen=True)
class Side:
    """What one model predicts on an image.

    Attributes:
        masks: N masks.
        objects: for each mask, the index of the object that it is matched with, or None.
        text: the model's numbers on this image, in one line.
    """

    masks: PackedMasks = field(repr=False)
    objects: Sequence[int | None]
    text: str


@dataclass(frozen=True)
class Case:
    """An image with its ground truth and both models' predictions.

    Attributes:
        name: the name of the image.
        image: (H, W, 3) uint8 RGB.
        truth: the G visible masks; crowds are left out.
        contested: (H, W) bool, where boxes of two objects overlap.
        sides: the predictions of the two models.
        text: one line about the ground truth.
    """

    name: str
    image: RGBArray = field(repr=False)
    truth: PackedMasks = field(repr=False)
    contested: Bools = field(repr=False)
    sides: tuple[Side, Side]
    text: str


@dataclass(frozen=True)
class CasePictures:
    """The three pictures of a case, (H, W, 3) uint8, with a line of text for each."""

    name: str
    tiles: tuple[RGBArray, RGBArray, RGBArray] = field(repr=False)
    texts: tuple[str, str, str]


def rank_differences(first: Sequence[ImageRecord], second: Sequence[ImageRecord]) -> list[Any]:
    """Return the ids of the images whose overlap errors differ, the largest difference first.

    The difference of an image is the sum over leak, miss, double claim and spurious edges. Each of
    them counts with the absolute difference of its sums over the objects or pairs of the image.
    """
    gaps = []
    for one, other in zip(first, second, strict=True):
        gap = sum(abs(one.sums[name][0] - other.sums[name][0]) for name in RATIOS)
        if gap > 0:
            gaps.append((gap, one.image_id))
    return [image_id for _, image_id in sorted(gaps, key=lambda pair: -pair[0])]


def draw_gallery(
    truth: COCO,
    folder: str | os.PathLike[str],
    detections: tuple[Detections, Detections],
    records: tuple[Sequence[ImageRecord], Sequence[ImageRecord]],
    wanted: int,
    *,
    score_threshold: float = 0.5,
) -> tuple[list[CasePictures], list[str]]:
    """Return pictures of the `wanted` images that differ most, and sentences on what went wrong.

    Detections that are matched with an object are drawn, the others from `score_threshold` on. Only
    one image is in memory at a time.

    Args:
        truth: the data set.
        folder: the folder of its images.
        detections: the detections of the two models.
        records: the measurements on the detections of each model, for the same images.
        wanted: the number of images to draw; the next image replaces one that cannot be read.
        score_threshold: 0 to 1.
    """
    drawn: list[CasePictures] = []
    problems: list[str] = []
    measured = [{record.image_id: record for record in side} for side in records]
    for image_id in rank_differences(*records):
        if len(drawn) == wanted or len(problems) == _PATIENCE:
            break
        entry = truth.imgs[image_id]
        record = {**entry, "file_name": os.path.join(folder, str(entry.get("file_name", "")))}
        try:
            image = read_picture(record)
        except UserError as error:
            problems.append(f"A picture is left out: {error}.")
            continue
        sides = [
            (found.get(image_id, []), known[image_id])
            for found, known in zip(detections, measured, strict=True)
        ]
        drawn.append(draw_case(_make_case(truth, image_id, image, sides, score_threshold), _TILE))
    return drawn, problems


def _make_case(
    truth: COCO,
    image_id: Any,
    image: RGBArray,
    measured: Sequence[tuple[list[Detection], ImageRecord]],
    threshold: float,
) -> Case:
    annotations = [a for a in truth.imgToAnns[image_id] if not a.get("iscrowd", 0)]
    height, width = image.shape[:2]
    order = {annotation["id"]: index for index, annotation in enumerate(annotations)}
    sides = []
    for detections, record in measured:
        matched = {position: order[annotation] for position, annotation in record.matches.items()}
        shown = [
            (index, detection)
            for index, detection in enumerate(detections)
            if index in matched or detection.score >= threshold
        ]
        sides.append(
            Side(
                decode_masks([found.mask for _, found in shown], height, width),
                [matched.get(index) for index, _ in shown],
                _describe(record),
            )
        )
    return Case(
        os.path.basename(str(truth.imgs[image_id].get("file_name", image_id))),
        image,
        decode_masks([a["segmentation"] for a in annotations], height, width),
        read_image_instances(truth, image_id, {}).contested,
        (sides[0], sides[1]),
        count_noun(len(annotations), "object"),
    )


def _describe(record: ImageRecord) -> str:
    """Return the numbers of an image in one line."""
    sums = {name: record.sums[name] for name in _SHOWN}
    return " \u00b7 ".join(
        f"{METRICS[name].label} {100 * total / number:.0f} %"
        for name, (total, number) in sums.items()
        if number
    )


def _choose_window(case: Case) -> tuple[slice, slice]:
    """Return the rows and columns to show: the objects that meet others, with a margin."""
    height, width = case.image.shape[:2]
    crops = [crop.trim() for crop in case.truth]
    # A contested region lies in the object's box, perhaps outside its mask.
    shown = [crop for crop in crops if case.contested[crop.rows, crop.columns].any()]
    if not shown:
        return slice(0, height), slice(0, width)
    rows = min(crop.top for crop in shown), max(crop.rows.stop for crop in shown)
    columns = min(crop.left for crop in shown), max(crop.columns.stop for crop in shown)
    longer = max(rows[1] - rows[0], columns[1] - columns[0])
    side = max(round(longer * (1 + 2 * _MARGIN)), _LEAST_SIDE)
    return _center_span(rows, side, height), _center_span(columns, side, width)


def _center_span(ends: tuple[int, int], side: int, limit: int) -> slice:
    """Return a span of `side` pixels centred between `ends`, moved to lie within 0 to `limit`."""
    side = min(side, limit)
    start = max(0, min((sum(ends) - side) // 2, limit - side))
    return slice(start, start + side)


def _outline_contested(tile: RGBArray, contested: Bools) -> None:
    """Outline regions with white dashes on a thin black line, visible on any background."""
    height, across = tile.shape[:2]
    size = (across, height)
    large = cv2.resize(contested.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    dash = max(5, round(math.hypot(height, across) / 80))
    width = max(2, round(dash / 4))
    for contour in contours:
        cv2.polylines(tile, [contour], True, _BLACK, width - 1, cv2.LINE_AA)
        for start in range(0, len(contour), 2 * dash):
            dashed = contour[start : start + dash]
            cv2.polylines(tile, [dashed], False, _WHITE, width, cv2.LINE_AA)


def _prediction_colors(side: Side, truth_count: int) -> list[int]:
    """Return a colour id for each prediction: its object's, or one that no object has."""
    spare = itertools.count(truth_count)
    return [next(spare) if index is None else index for index in side.objects]


def draw_case(case: Case, longer_side: int) -> CasePictures:
    """Return pictures of ground truth, first and second model, `longer_side` pixels large.

    An object and the prediction matched with it have one colour. The pictures show a square around
    the objects that meet, or the whole image if no objects meet.
    """
    rows, columns = _choose_window(case)
    image = np.ascontiguousarray(case.image[rows, columns])
    scale = longer_side / max(image.shape[:2])

    def tile(masks: PackedMasks, colors: list[int]) -> RGBArray:
        shown = masks.cut(rows, columns)
        picture = draw_instances(image, shown, scale=scale, color_ids=colors)
        _outline_contested(picture, case.contested[rows, columns])
        return picture

    count = len(case.truth)
    first, second = (tile(s.masks, _prediction_colors(s, count)) for s in case.sides)
    truth = tile(case.truth, list(range(count)))
    texts = (case.text, case.sides[0].text, case.sides[1].text)
    return CasePictures(case.name, (truth, first, second), texts)


def make_case_sheet(drawn: Sequence[CasePictures], names: Sequence[str], heading: str) -> RGBArray:
    """Return a sheet, two cases a row, each ground truth, first and second model.

    Args:
        drawn: the pictures of each case; at least one case.
        names: the names of the two models.
        heading: text at the top; its first line is bold.
    """
    tiles: list[RGBArray] = []
    titles: list[str] = []
    for case in drawn:
        ratio = _SHEET_TILE / max(case.tiles[0].shape[:2])
        size = [max(1, round(side * ratio)) for side in case.tiles[0].shape[1::-1]]
        tiles += [resize_picture(tile, size[0], size[1]) for tile in case.tiles]
        titles += case.texts
    columns = 6 if len(drawn) > 1 else 3
    return make_tile_sheet(
        tiles, titles, columns, heading, ["Ground truth", *names] * (columns // 3)
    )
