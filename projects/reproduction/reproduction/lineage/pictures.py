"""What each method of the lineage proposes and finds on a few images, beside the ground truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog

from mask_rcnn_ext.report.drawing.pictures import contact_sheet, draw_instances
from mask_rcnn_ext.report.drawing.sheets import resize_picture
from mask_rcnn_ext.report.gallery import Sample, choose_samples, draw_sample

__all__ = ["MethodTiles", "Scene", "draw_scenes", "lineage_sheet"]

RGBArray = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_TILE, _SHEET_TILE = 400, 320  # pixels
_HIT_IOU = 0.5
_MISS_COLOR, _HIT_COLOR = 2, 0  # ids: yellow, and red for a proposal that covers an object


@dataclass(frozen=True)
class MethodTiles:
    """What a method proposes and finds on an image: pictures, (H, W, 3) uint8, and a line each."""

    variant: str
    proposals: RGBArray = field(repr=False)
    found: RGBArray = field(repr=False)
    proposals_text: str
    found_text: str


@dataclass(frozen=True)
class Scene:
    """An image: the picture of its ground truth, (H, W, 3) uint8, and those of each method."""

    name: str
    truth: RGBArray = field(repr=False)
    text: str
    methods: list[MethodTiles]


def draw_scenes(
    name: str,
    predictions: Mapping[str, dict[Any, list[dict[str, Any]]]],
    proposals: Mapping[str, Mapping[str, Floats]],
    wanted: int,
    *,
    score_threshold: float = 0.5,
) -> tuple[list[Scene], list[str]]:
    """Return pictures of `wanted` images spread evenly over a data set, and what went wrong.

    Args:
        name: the data set, in detectron2's catalog, of images up to 1280 pixels.
        predictions: variant -> image id -> COCO results.
        proposals: variant -> file name of the image -> (N, 4), XYXY_ABS, those to draw.
        wanted: how many images.
        score_threshold: detections below it are not drawn; 0-1.
    """
    problems: list[str] = []
    by_variant: dict[str, list[Sample]] = {}
    for variant, results in predictions.items():
        by_variant[variant], problems = choose_samples(name, results, wanted, score_threshold)
    class_names = list(MetadataCatalog.get(name).thing_classes)
    scenes = []
    for samples in zip(*by_variant.values(), strict=True):
        truth, _ = draw_sample(samples[0], class_names, _TILE)
        tiles = [
            _method_tiles(variant, sample, proposals[variant][sample.name], class_names)
            for variant, sample in zip(by_variant, samples, strict=True)
        ]
        text = _count(len(samples[0].truth.classes), "object")
        scenes.append(Scene(samples[0].name, truth, text, tiles))
    return scenes, problems


def _method_tiles(
    variant: str, sample: Sample, proposals: Floats, class_names: list[str]
) -> MethodTiles:
    hits = _ious(proposals, sample.truth.boxes) >= _HIT_IOU
    covers = np.asarray(hits.any(axis=1))
    order = np.argsort(covers, kind="stable")  # those that cover an object are drawn last, on top
    drawn = draw_instances(
        sample.image,
        boxes=proposals[order],
        scale=_TILE / max(sample.image.shape[:2]),
        color_ids=[_HIT_COLOR if covers[index] else _MISS_COLOR for index in order],
    )
    _, found = draw_sample(sample, class_names, _TILE)
    covered, total = int(hits.any(axis=0).sum()), len(sample.truth.classes)
    return MethodTiles(
        variant,
        drawn,
        found,
        f"{len(proposals)} boxes cover {covered} of {_count(total, 'object')}",
        f"{_count(len(sample.predicted.classes), 'detection')}",
    )


def _ious(first: Floats, second: Floats) -> Floats:
    """Return the IoU of boxes (N, 4) and (M, 4), XYXY, as (N, M)."""
    if not len(first) or not len(second):
        return np.zeros((len(first), len(second)))
    xywh = [np.hstack([b[:, :2], b[:, 2:] - b[:, :2]]) for b in (first, second)]
    return np.asarray(mask_util.iou(*xywh, [0] * len(second)), dtype=np.float64)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def lineage_sheet(
    scenes: Sequence[Scene], methods: Sequence[Mapping[str, Any]], heading: str
) -> RGBArray:
    """Return a sheet, one image a row: ground truth, then proposals and detections in their order.

    Proposals stand once for all methods that are given the same. A method that is fitted to
    another's network, or lies between two, is left out.

    Args:
        scenes: at least one.
        methods: of `lineage.json`.
        heading: above all; its first line in bold.
    """
    titles, pick = ["Ground truth"], [("", "truth")]
    shown = None
    for method in methods:
        if method["base"] is not None or method["variation"]:
            continue
        if method["proposals"] != shown:
            shown = method["proposals"]
            stored = shown == "stored"
            titles.append("Selective search" if stored else f"RPN of {method['name']}")
            pick.append((method["variant"], "proposals"))
        titles.append(method["name"])
        pick.append((method["variant"], "found"))
    tiles, texts = [], []
    for scene in scenes:
        by_variant = {tiles.variant: tiles for tiles in scene.methods}
        for variant, kind in pick:
            source = scene if kind == "truth" else by_variant[variant]
            tiles.append(resize_picture(getattr(source, kind), _SHEET_TILE, _SHEET_TILE))
            texts.append(scene.text if kind == "truth" else getattr(source, f"{kind}_text"))
    return contact_sheet(tiles, texts, len(pick), heading, titles)
