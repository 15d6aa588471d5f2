"""Ground truth next to prediction, for a few images of a run's test set."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog

from ..arrays import Floats, RGBArray
from ..data.bands import read_picture
from ..errors import UserError, count_noun
from .drawing.pictures import draw_instances, encode_jpegs
from .drawing.sheets import make_tile_sheet, resize_picture
from .instances import Annotated, decode_ground_truth, decode_predictions
from .run_data import spread_evenly
from .text import isolate

__all__ = [
    "NO_PICTURE",
    "PAGE_BYTES",
    "Pair",
    "Sample",
    "choose_samples",
    "draw_truth_and_prediction",
    "load_samples",
    "make_pairs",
    "make_prediction_sheet",
]

_SHEET_TILE = 440  # pixels, the longer side: four columns make a sheet 1810 wide
_SMALL, _SMALL_TILE, _LARGE_TILE = 320, 380, 620  # on the page, small images get small tiles
_MAX_SIDE = 1280  # pixels; larger images and their masks are shrunk before they are drawn
_AT_ONCE = 256  # predictions that are compared with all objects together
NO_PICTURE = "A picture is left out"
PAGE_BYTES = 4_000_000  # of base64 pictures; keeps a page under 6 MB


@dataclass(frozen=True)
class Sample:
    """An image with its ground truth and the run's predictions above the threshold."""

    name: str
    image: RGBArray = field(repr=False)
    truth: Annotated
    predicted: Annotated
    colors: list[int] = field(repr=False)  # of the predictions, see `draw_instances`
    image_id: Any = None


@dataclass(frozen=True)
class Pair:
    """Two pictures for the page as data URLs, with their size in pixels and their captions."""

    title: str
    truth_url: str = field(repr=False)
    predicted_url: str = field(repr=False)
    truth_text: str
    predicted_text: str
    width: int
    height: int


def choose_samples(
    name: str,
    predictions: dict[Any, list[dict[str, Any]]],
    wanted: int,
    threshold: float,
) -> tuple[list[Sample], list[str]]:
    """Return `wanted` images spread evenly over data set `name`, and what went wrong, as sentences.

    Args:
        name: in detectron2's catalog.
        predictions: image id -> COCO results.
        wanted: how many; fewer when the data set is smaller.
        threshold: predictions with a lower score are left out.
    """
    records = DatasetCatalog.get(name)
    chosen = [records[index] for index in spread_evenly(len(records), wanted)]
    return load_samples(name, chosen, predictions, threshold)


def load_samples(
    name: str,
    records: Sequence[dict[str, Any]],
    predictions: dict[Any, list[dict[str, Any]]],
    threshold: float,
    known: Mapping[Any, Sample] | None = None,
) -> tuple[list[Sample], list[str]]:
    """Return the images of some records of data set `name`; see `choose_samples`.

    Args:
        name: see `choose_samples`.
        records: the records.
        predictions: see `choose_samples`.
        threshold: see `choose_samples`.
        known: image id -> its sample, if it has been loaded before.
    """
    samples, problems = [], []
    for record in records:
        if known and record["image_id"] in known:
            samples.append(known[record["image_id"]])
            continue
        try:
            image = read_picture(record)
        except UserError as error:
            problems.append(f"{NO_PICTURE}: {error}.")
            continue
        height, width = image.shape[:2]
        shrink = min(1.0, _MAX_SIDE / max(height, width))
        results = predictions.get(record["image_id"], [])
        truth = decode_ground_truth(record, height, width, shrink)
        found = decode_predictions(results, name, threshold, height, width, shrink)
        samples.append(
            Sample(
                record["file_name"].replace("\\", "/").rsplit("/", 1)[-1],
                resize_picture(image, *(max(1, round(side * shrink)) for side in (width, height))),
                truth,
                found,
                _match_colors(found, truth),
                record["image_id"],
            )
        )
    return samples, problems


def _label(class_names: list[str], class_id: int, score: float | None) -> str:
    known = 0 <= class_id < len(class_names)
    # One class needs no name on every object, and its labels would hide a crowd of small ones.
    name = "" if len(class_names) == 1 else class_names[class_id] if known else "?"
    return " ".join(part for part in (name, "" if score is None else f"{score:.2f}") if part)


def _match_colors(found: Annotated, expected: Annotated) -> list[int]:
    """Return a colour id per prediction: its object's (IoU >= 0.5), or a new one."""
    number = len(expected.classes)
    if not number:
        return list(range(len(found.classes)))
    colors, free = [], np.ones(number, dtype=bool)
    spare = itertools.count(number)
    for ious in _measure_ious(found, expected):
        left = np.where(free, ious, -1.0)
        best = int(left.argmax())
        if left[best] >= 0.5:
            free[best] = False
            colors.append(best)
        else:
            colors.append(next(spare))
    return colors


def _measure_ious(found: Annotated, expected: Annotated) -> Iterator[Floats]:
    """Yield the IoUs (G,) of each prediction with the G objects: of masks, else of boxes."""
    first: Any
    second: Any
    if found.masks is not None and expected.masks is not None:
        first, second = found.masks.encode(), expected.masks.encode()
    else:
        first, second = (
            np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]) for b in (found.boxes, expected.boxes)
        )
    for start in range(0, len(first), _AT_ONCE):
        part = first[start : start + _AT_ONCE]
        yield from np.asarray(mask_util.iou(part, second, [0] * len(second)))


def draw_truth_and_prediction(
    sample: Sample, class_names: list[str], longer_side: int
) -> tuple[RGBArray, RGBArray]:
    """Return the pictures of ground truth and prediction; a match has its object's colour."""
    scale = longer_side / max(sample.image.shape[:2])
    pictures = []
    for shown, colors in ((sample.truth, None), (sample.predicted, sample.colors)):
        scores: list[float] | list[None] = shown.scores or [None] * len(shown.classes)
        labels = [_label(class_names, c, s) for c, s in zip(shown.classes, scores, strict=True)]
        # A box around every mask adds little and clutters; it is drawn where there is no mask.
        boxes = shown.boxes if shown.masks is None else None
        pictures.append(draw_instances(sample.image, shown.masks, boxes, labels, scale, colors))
    return pictures[0], pictures[1]


def make_prediction_sheet(samples: list[Sample], class_names: list[str], heading: str) -> RGBArray:
    """Return a sheet, two samples a row, each ground truth next to prediction; 1810 pixels wide."""
    tiles: list[RGBArray] = []
    titles: list[str] = []
    for sample in samples:
        tiles += draw_truth_and_prediction(sample, class_names, _SHEET_TILE)
        titles.append(f"{sample.name} · {count_noun(len(sample.truth.classes), 'object')}")
        titles.append(count_noun(len(sample.predicted.classes), "prediction"))
    columns = 4 if len(samples) > 1 else 2
    names = ["Ground truth", "Prediction"] * (columns // 2)
    return make_tile_sheet(tiles, titles, columns, heading, names)


def _count_text(classes: list[int], class_names: list[str]) -> str:
    counts = Counter(classes)
    names = {c: class_names[c] if 0 <= c < len(class_names) else "unknown" for c in counts}
    return (
        ", ".join(f"{count} \u00d7 {isolate(names[c])}" for c, count in sorted(counts.items()))
        or "nothing"
    )


def make_pairs(
    samples: list[Sample], class_names: list[str], most_bytes: int = PAGE_BYTES
) -> list[Pair]:
    """Return pictures to embed, `most_bytes` at most: the JPEG quality falls, then some go."""
    if not samples:
        return []
    sides = [max(sample.image.shape[:2]) for sample in samples]
    side = _SMALL_TILE if np.median(sides) <= _SMALL else _LARGE_TILE
    drawn = [draw_truth_and_prediction(sample, class_names, side) for sample in samples]
    urls = encode_jpegs(drawn, 88, most_bytes)
    while urls and sum(len(url) for pair in urls for url in pair) > most_bytes:
        urls.pop()
    return [
        Pair(
            sample.name,
            left_url,
            right_url,
            _count_text(sample.truth.classes, class_names),
            _count_text(sample.predicted.classes, class_names),
            left.shape[1],
            left.shape[0],
        )
        for sample, (left, _), (left_url, right_url) in zip(samples, drawn, urls, strict=False)
    ]
