"""Pictures like Figure 6 of the Mask R-CNN paper: nested pairs of one class, drawn by each model.

The boxes alone decide which pairs are shown, so no model is favoured.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO

from mask_rcnn_ext.arrays import Bools, Floats, RGBArray
from mask_rcnn_ext.data.bands import read_picture
from mask_rcnn_ext.layers.mask_crops import MaskCrop
from mask_rcnn_ext.overlap.image_instances import ImageInstances, read_image_instances
from mask_rcnn_ext.overlap.same_part import measure_part_share
from mask_rcnn_ext.report.drawing.sheets import make_tile_sheet, resize_picture

from .experiment import MEASURED_PARTS, NestedRun, find_nested
from .given_boxes import load_dataset, load_trained, predict_in_true_boxes

__all__ = [
    "CAPTION",
    "COLUMNS",
    "LEGEND",
    "PAIR_RULE",
    "NestedPair",
    "PairPictures",
    "choose_pairs",
    "draw_pairs",
    "make_pairs_sheet",
]


# Variant -> k of its parts; None: it has none. The columns of the sheet, after image and truth.
COLUMNS = {"fcis_tiny_nested_k7": 7, "fcis_tiny_nested_k3": 3, "mask_rcnn_tiny_nested": None}
PAIR_RULE = (
    "All pairs are from nested_shapes_val, and the smaller box lies in the larger one. For each "
    "class, the pictures show the pairs that read the largest share of their common area from the "
    "same part (mean of k = 7 and k = 3). The choice uses the boxes only, not the predictions."
)

LEGEND = (
    "Blue: the outer object; red: the inner one. Ticks: the lines between the parts of their boxes."
)
CAPTION = (
    "Nested pairs of one class: the masks that each model predicts in the true boxes. The outer "
    "object is blue, the inner one red. The ticks mark the sides of a box and the lines between "
    "its parts. Ticks above and on the left belong to the blue box, those below and on the right "
    "to the red box. A mask ends at its box, so straight lines at the outermost ticks are sides of "
    "the box. "
    f"{PAIR_RULE}"
)

_TILE, _RIM, _TICK = 320, 14, 10  # pixels: a crop, the white border around it, a tick on it
_MARGIN = 0.06  # around the larger box, as a share of its longer side
_OUTER, _INNER = (26, 86, 219), (214, 40, 40)  # blue and red
_TINT, _FADE = 0.12, 0.35  # opacity of a mask; how far the image is faded to white below masks
_LINE = 2  # pixels, of a contour

_Drawn = Mapping[int, tuple[MaskCrop, Floats]]  # see `GivenBoxMasks.predictions`


@dataclass(frozen=True)
class NestedPair:
    """Two objects of one class, one in the other.

    Attributes:
        image_id: the image's id in the data set.
        outer, inner: their indices in the image's `ImageInstances`.
        share: the part of the boxes' common area that both read from the same part, 0 to 1, the
            mean of k = 7 and k = 3.
        category: the index of their class in `ImageInstances`.
    """

    image_id: Any
    outer: int
    inner: int
    share: float
    category: int


@dataclass(frozen=True)
class PairPictures:
    """The pictures of a pair, (H, W, 3) uint8: the image, the truth, and each of `COLUMNS`."""

    name: str
    category: int
    tiles: list[RGBArray] = field(repr=False)


def choose_pairs(truth: COCO, wanted: int) -> list[NestedPair]:
    """Return the pairs that `PAIR_RULE` chooses: the best one of each class, then the second ones.

    Args:
        truth: the data set.
        wanted: how many pairs of each class, if there are as many.
    """
    by_class: dict[int, list[NestedPair]] = {}
    for image_id in truth.imgs:
        instances = read_image_instances(truth, image_id, {})
        for i, j in find_nested(instances):
            if instances.classes[i] == instances.classes[j]:
                pair = _describe(instances, i, j)
                by_class.setdefault(pair.category, []).append(pair)
    ranked = [sorted(pairs, key=lambda pair: -pair.share) for _, pairs in sorted(by_class.items())]
    return [pairs[rank] for rank in range(wanted) for pairs in ranked if rank < len(pairs)]


def _describe(instances: ImageInstances, i: int, j: int) -> NestedPair:
    boxes = instances.boxes
    shares = []
    for k in MEASURED_PARTS:
        same, common = measure_part_share(boxes[i], boxes[j], k)
        shares.append(same / common)
    inner, outer = sorted((i, j), key=lambda o: float((boxes[o, 2:] - boxes[o, :2]).prod()))
    category = int(instances.classes[i])
    return NestedPair(instances.image_id, outer, inner, float(np.mean(shares)), category)


def draw_pairs(runs: Sequence[NestedRun], dataset: str, wanted: int) -> list[PairPictures]:
    """Return the pictures of the chosen pairs, with the masks of the first training of each model.

    Args:
        runs: finished runs; `COLUMNS` are taken from them.
        dataset: a registered data set with a COCO json.
        wanted: how many pairs.
    """
    truth = load_dataset(dataset)
    pairs = choose_pairs(truth, wanted)
    ids = {pair.image_id for pair in pairs}
    found: list[dict[Any, _Drawn]] = []
    for variant in COLUMNS:
        run = next(run for run in runs if run.variant == variant)
        cfg, model = load_trained(run.folder)
        drawn = predict_in_true_boxes(cfg, model, truth, dataset, ids)
        found.append({masks.instances.image_id: masks.predictions for masks in drawn})
    folder = Path(MetadataCatalog.get(dataset).image_root)
    pictures = []
    for pair in pairs:
        instances = read_image_instances(truth, pair.image_id, {})
        record = truth.imgs[pair.image_id]
        name = str(record["file_name"])
        image = read_picture({**record, "file_name": str(folder / name)})
        columns = [by_image[pair.image_id] for by_image in found]
        tiles = _draw_tiles(image, instances, pair, columns)
        pictures.append(PairPictures(name, pair.category, tiles))
    return pictures


def _draw_tiles(
    image: RGBArray,
    instances: ImageInstances,
    pair: NestedPair,
    found: Iterable[_Drawn],
) -> list[RGBArray]:
    """Return the tiles of a pair: the image, the truth, and each model's masks with its lattice."""
    boxes = instances.boxes[[pair.outer, pair.inner]]
    window = _find_window(boxes, instances.height, instances.width)

    def draw(masks: Sequence[Bools], k: int | None = None) -> RGBArray:
        rows, columns = window
        scale = _TILE / max(rows.stop - rows.start, columns.stop - columns.start)
        size = [round(scale * (part.stop - part.start)) for part in (columns, rows)]
        tile = resize_picture(image[rows, columns], *size)
        if masks:
            tile = (tile + _FADE * (255.0 - tile)).astype(np.uint8)
            _draw_masks(tile, masks)
        white = (255,) * 3
        rimmed = cv2.copyMakeBorder(tile, *(_RIM,) * 4, cv2.BORDER_CONSTANT, value=white)
        tile = np.asarray(rimmed, np.uint8)
        if k is not None:
            corner = np.array([columns.start, rows.start] * 2)
            _draw_lattice(tile, (boxes - corner) * scale + _RIM, k)
        return tile

    objects = (pair.outer, pair.inner)
    truth = [instances.object_crops[index].cut(*window) for index in objects]
    tiles = [draw([]), draw(truth)]
    for by_object, k in zip(found, COLUMNS.values(), strict=True):
        tiles.append(draw([by_object[index][0].cut(*window) for index in objects], k))
    return tiles


def _find_window(boxes: Floats, height: int, width: int) -> tuple[slice, slice]:
    """Return rows and columns of a square around two boxes, as far as the image goes."""
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    half = (0.5 + _MARGIN) * float((high - low).max())
    centre = (low + high) / 2
    left, top = np.floor(centre - half).astype(int)
    right, bottom = np.ceil(centre + half).astype(int)
    return slice(max(0, top), min(height, bottom)), slice(max(0, left), min(width, right))


def _draw_masks(tile: RGBArray, masks: Sequence[Bools]) -> None:
    """Tint the pixels of the outer mask and of the inner one, and draw their contours.

    Args:
        tile: (H, W, 3); it is changed.
        masks: (h, w) each, of the same part of the image at its own size.
    """
    scaled = [
        (cv2.resize(mask.astype(np.float32), tile.shape[1::-1]) >= 0.5).astype(np.uint8)
        for mask in masks
    ]
    for mask, color in zip(scaled, (_OUTER, _INNER), strict=True):
        inside = mask.astype(bool)
        tile[inside] = ((1 - _TINT) * tile[inside] + _TINT * np.array(color)).round()
    for mask, color in zip(scaled, (_OUTER, _INNER), strict=True):
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, contours, -1, color, _LINE, cv2.LINE_AA)


def _draw_lattice(tile: RGBArray, boxes: Floats, k: int) -> None:
    """Draw ticks at the lines between parts: of the first box on top and left, else opposite.

    Args:
        tile: with a border of `_RIM` pixels; it is changed.
        boxes: (2, 4), XYXY in pixels of the tile.
        k: parts of a RoI in each direction.
    """
    height, width = tile.shape[:2]
    corners = ((0, 0), (width, height))
    for box, color, (x, y) in zip(boxes, (_OUTER, _INNER), corners, strict=True):
        ends = (_RIM - 1, _RIM - _TICK) if x == 0 else (-_RIM, _TICK - _RIM)
        for share in np.arange(k + 1) / k:
            across = round(float(box[0] + share * (box[2] - box[0])))
            down = round(float(box[1] + share * (box[3] - box[1])))
            cv2.line(tile, (across, y + ends[0]), (across, y + ends[1]), color, 1)
            cv2.line(tile, (x + ends[0], down), (x + ends[1], down), color, 1)


def make_pairs_sheet(
    pictures: Sequence[PairPictures], names: Sequence[str], heading: str
) -> RGBArray:
    """Return a sheet of pictures, one pair a row.

    Args:
        pictures: at least one.
        names: the names of the models in `COLUMNS`.
        heading: text above the sheet; its first line is bold.
    """
    titles = ["Image", "Truth", *names]
    tiles = [tile for picture in pictures for tile in picture.tiles]
    return make_tile_sheet(tiles, None, len(titles), heading, titles)
