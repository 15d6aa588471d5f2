"""Instances of a data set and predictions of a run: counted, and decoded to be drawn."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ..arrays import Floats
from ..errors import UserError
from ..layers.packed_masks import MaskCrop, PackedMasks
from ..layers.rle import check_mask, compress
from ..overlap.crops import decode_crop

__all__ = [
    "Annotated",
    "DatasetSummary",
    "count_bins",
    "count_instances",
    "count_sizes",
    "decode_ground_truth",
    "decode_masks",
    "decode_predictions",
]

_SIZE_STEPS = (0, 16, 32, 48, 64, 96, 128, 192, 256, 384)  # pixels; the last bin is open
_ROUNDING = 1e-6  # pixels that may be missing from half a pixel of a shrunk mask


@dataclass(frozen=True)
class Annotated:
    """Instances of one image: ground truth or predictions, best score first.

    Attributes:
        masks: N masks, or None when the instances have boxes only.
        boxes: (N, 4) float64, XYXY_ABS in pixels.
        classes: N contiguous class ids; -1 for one that the data set does not know.
        scores: N scores in 0-1, or None for ground truth.
    """

    masks: PackedMasks | None
    boxes: npt.NDArray[np.float64]
    classes: list[int]
    scores: list[float] | None = None


@dataclass(frozen=True)
class DatasetSummary:
    """Counts over one data set; crowd regions are left out of all but `crowds`."""

    name: str  # in detectron2's catalog
    images: int
    instances: int
    crowds: int
    class_names: list[str]  # in the order of the contiguous ids
    per_class: list[int]  # instances of each class
    sizes: list[float] = field(repr=False)  # square roots of the box areas, pixels


def count_instances(name: str) -> DatasetSummary:
    """Count images, instances and classes of a registered data set."""
    records = DatasetCatalog.get(name)
    per_class: Counter[int] = Counter()
    crowds, sizes = 0, []
    for record in records:
        for annotation in record.get("annotations", []):
            if annotation.get("iscrowd", 0):
                crowds += 1
                continue
            per_class[annotation["category_id"]] += 1
            x0, y0, x1, y1 = BoxMode.convert(
                list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS
            )
            sizes.append(math.sqrt(max(0.0, x1 - x0) * max(0.0, y1 - y0)))
    names = list(MetadataCatalog.get(name).get("thing_classes", []))
    names += [f"class {i}" for i in range(len(names), max(per_class, default=-1) + 1)]
    counts = [per_class[i] for i in range(len(names))]
    return DatasetSummary(name, len(records), sum(counts), crowds, names, counts, sizes)


def count_sizes(sizes: Sequence[float]) -> list[tuple[str, int]]:
    """Return (range in pixels, count) of the square roots of box areas, up to the largest."""
    names = [f"{low} to {high}" for low, high in itertools.pairwise(_SIZE_STEPS)]
    return count_bins(sizes, _SIZE_STEPS, names)


def count_bins(
    values: Sequence[float], steps: Sequence[int], names: Sequence[str]
) -> list[tuple[str, int]]:
    """Return (name, count) of the values in each range, up to the last one that has any.

    Args:
        values: the values; none is below the first step.
        steps: the lowest values of the ranges; the last range has no upper end.
        names: the names of the ranges, except the last one.
    """
    counts, _ = np.histogram(values, bins=[*steps, math.inf])
    shown = np.trim_zeros(counts, "b").tolist()
    return list(zip([*names, f"{steps[-1]}+"], shown, strict=False))


def decode_masks(
    segmentations: Sequence[Any], height: int, width: int, shrink: float = 1.0
) -> PackedMasks:
    """Return the masks of polygons, COCO RLE or bitmaps; only one of them is decoded at a time.

    Args:
        segmentations: N segmentations of an image of (height, width).
        height: in pixels.
        width: in pixels.
        shrink: at most 1; the masks are this many times as large.

    Returns:
        N masks of an image of (round(height * shrink), round(width * shrink)), at least 1 pixel.

    Raises:
        UserError: pycocotools could not read a mask, see `check_mask`; or a bitmap does not have
            the size of the image.
    """
    small = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    crops = (_decode(index, given, height, width) for index, given in enumerate(segmentations))
    return PackedMasks(small, (_shrink(crop, (height, width), small) for crop in crops))


def _decode(index: int, segmentation: Any, height: int, width: int) -> MaskCrop:
    """Return the mask at `index` of an image in its box."""
    try:
        if not isinstance(segmentation, np.ndarray):
            check_mask(segmentation, height, width)
            return decode_crop(compress(segmentation, height, width))
        if segmentation.shape != (height, width):
            raise ValueError(f"bitmap of {segmentation.shape}, the image is {(height, width)}")
        return MaskCrop(0, 0, segmentation.astype(bool)).trim()
    except ValueError as error:
        raise UserError(f"broken mask {index} of an image: {error}") from error


def _shrink(crop: MaskCrop, size: tuple[int, int], new_size: tuple[int, int]) -> MaskCrop:
    """Return a mask of an image of `size` (H, W) in an image of `new_size`, which is no larger.

    It has the pixels of which the mask covers half or more, as with OpenCV's INTER_AREA. OpenCV
    would need the whole image for each mask; only the box of the mask is read here.
    """
    if new_size == size or not crop.mask.size:
        return crop
    (top, rows), (left, columns) = (
        _find_edges(part, old, new)
        for part, old, new in zip((crop.rows, crop.columns), size, new_size, strict=True)
    )
    begin_y, begin_x = int(rows[0]), int(columns[0])
    part = crop.cut(
        slice(begin_y, math.ceil(rows[-1])), slice(begin_x, math.ceil(columns[-1]))
    ).astype(np.float64)
    covered = _sum_between(_sum_between(part, rows - begin_y).T, columns - begin_x).T
    least = 0.5 * math.prod(size) / math.prod(new_size) - _ROUNDING
    return MaskCrop(top, left, covered >= least).trim()


def _find_edges(part: slice, old: int, new: int) -> tuple[int, Floats]:
    """Return the first new pixel that a part of an axis reaches, and the edges of it and the next.

    The edges are in old pixels.
    """
    scale = old / new
    first, end = int(part.start / scale), min(new, math.ceil(part.stop / scale))
    return first, np.minimum(np.arange(first, end + 1) * scale, old)


def _sum_between(values: Floats, edges: Floats) -> Floats:
    """Return the sums (N, w) of rows of values (h, w) between N + 1 edges, which may cut rows."""
    sums = np.zeros((len(values) + 1, values.shape[1]))
    np.cumsum(values, axis=0, out=sums[1:])
    rows = np.minimum(edges.astype(np.intp), len(values) - 1)
    return np.diff(sums[rows] + values[rows] * (edges - rows)[:, None], axis=0)


def decode_ground_truth(
    record: dict[str, Any], height: int, width: int, shrink: float = 1.0
) -> Annotated:
    """Return the ground truth of a record of detectron2's, without crowd regions.

    Args:
        record: a record of an image of (height, width).
        height: in pixels.
        width: in pixels.
        shrink: at most 1; masks and boxes are this many times as large.
    """
    kept = [a for a in record.get("annotations", []) if not a.get("iscrowd", 0)]
    boxes = [BoxMode.convert(list(a["bbox"]), a["bbox_mode"], BoxMode.XYXY_ABS) for a in kept]
    masks = None
    if all("segmentation" in a for a in kept):
        masks = decode_masks([a["segmentation"] for a in kept], height, width, shrink)
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4) * shrink
    return Annotated(masks, corners, [int(a["category_id"]) for a in kept])


def decode_predictions(
    results: Sequence[dict[str, Any]],
    name: str,
    threshold: float,
    height: int,
    width: int,
    shrink: float = 1.0,
) -> Annotated:
    """Return an image's COCO `results` with a score >= `threshold`, best first.

    Args:
        results: COCO results of one image of (height, width).
        name: the data set, for its category ids.
        threshold: 0-1.
        height: in pixels.
        width: in pixels.
        shrink: at most 1; masks and boxes are this many times as large.
    """
    kept = sorted((r for r in results if r["score"] >= threshold), key=lambda r: -r["score"])
    boxes = np.array([r["bbox"] for r in kept], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # COCO's are (x, y, width, height)
    to_class = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
    ids = [int(r["category_id"]) for r in kept]
    classes = ids if to_class is None else [to_class.get(i, -1) for i in ids]
    masks = None
    if all("segmentation" in r for r in kept):
        masks = decode_masks([r["segmentation"] for r in kept], height, width, shrink)
    return Annotated(masks, boxes * shrink, classes, [float(r["score"]) for r in kept])
