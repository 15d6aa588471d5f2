"""Pictures of the proposals and detections of each method, next to the ground truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from torchvision.ops import box_iou

from mask_rcnn_ext.arrays import Floats, RGBArray
from mask_rcnn_ext.errors import count_noun
from mask_rcnn_ext.report.drawing.pictures import draw_instances
from mask_rcnn_ext.report.drawing.sheets import make_tile_sheet, resize_picture
from mask_rcnn_ext.report.gallery import Sample, choose_samples, draw_truth_and_prediction

from .results import MethodResults

__all__ = ["ImagePictures", "MethodPictures", "draw_pictures", "make_lineage_sheet"]


_TILE, _SHEET_TILE = 400, 320  # pixels
_HIT_IOU = 0.5
_SCORE_THRESHOLD = 0.5  # detections below it are not drawn
_MISS_COLOR, _HIT_COLOR = 2, 0  # ids: yellow, and red for a proposal that covers an object


@dataclass(frozen=True)
class MethodPictures:
    """What a method proposes and finds on an image: pictures, (H, W, 3) uint8, and a line each."""

    variant: str
    proposals: RGBArray = field(repr=False)
    found: RGBArray = field(repr=False)
    proposals_text: str
    found_text: str


@dataclass(frozen=True)
class ImagePictures:
    """An image: a picture of its ground truth, (H, W, 3) uint8, and the pictures of each method."""

    name: str
    truth: RGBArray = field(repr=False)
    text: str
    methods: list[MethodPictures]


def draw_pictures(
    name: str,
    predictions: Mapping[str, dict[Any, list[dict[str, Any]]]],
    proposals: Mapping[str, Mapping[str, Floats]],
    wanted: int,
) -> tuple[list[ImagePictures], list[str]]:
    """Return pictures of `wanted` images spread evenly over a data set, and what went wrong.

    Args:
        name: the data set, in detectron2's catalog, of images up to 1280 pixels.
        predictions: variant -> image id -> COCO results.
        proposals: variant -> file name of the image -> (N, 4), XYXY_ABS, those to draw.
        wanted: how many images.
    """
    problems: list[str] = []
    by_variant: dict[str, list[Sample]] = {}
    for variant, results in predictions.items():
        by_variant[variant], problems = choose_samples(name, results, wanted, _SCORE_THRESHOLD)
    class_names = list(MetadataCatalog.get(name).thing_classes)
    drawn = []
    for samples in zip(*by_variant.values(), strict=True):
        truth, _ = draw_truth_and_prediction(samples[0], class_names, _TILE)
        methods = [
            _draw_method(variant, sample, proposals[variant][sample.name], class_names)
            for variant, sample in zip(by_variant, samples, strict=True)
        ]
        text = count_noun(len(samples[0].truth.classes), "object")
        drawn.append(ImagePictures(samples[0].name, truth, text, methods))
    return drawn, problems


def _draw_method(
    variant: str, sample: Sample, proposals: Floats, class_names: list[str]
) -> MethodPictures:
    boxes = (torch.from_numpy(np.asarray(b)) for b in (proposals, sample.truth.boxes))
    hits = box_iou(*boxes).numpy() >= _HIT_IOU
    covers = np.asarray(hits.any(axis=1))
    order = np.argsort(covers, kind="stable")  # proposals that cover an object last, on top
    drawn = draw_instances(
        sample.image,
        boxes=proposals[order],
        scale=_TILE / max(sample.image.shape[:2]),
        color_ids=[_HIT_COLOR if covers[index] else _MISS_COLOR for index in order],
    )
    _, found = draw_truth_and_prediction(sample, class_names, _TILE)
    covered, total = int(hits.any(axis=0).sum()), len(sample.truth.classes)
    return MethodPictures(
        variant,
        drawn,
        found,
        f"{len(proposals)} boxes cover {covered} of {count_noun(total, 'object')}",
        count_noun(len(sample.predicted.classes), "detection"),
    )


def make_lineage_sheet(
    images: Sequence[ImagePictures], methods: Sequence[MethodResults], heading: str
) -> RGBArray:
    """Return a sheet, one image a row: ground truth, then proposals and detections in their order.

    Methods that share their proposals share one column of them. Methods with a `base` and
    variations (see `runs.Method`) are left out.

    Args:
        images: at least one.
        methods: the methods, in the order of the columns.
        heading: text above the sheet; its first line is bold.
    """
    titles, columns = ["Ground truth"], []
    former = None
    for method in methods:
        if method.base is not None or method.variation:
            continue
        if method.proposals != former:
            former = method.proposals
            stored = former == "stored"
            titles.append("Selective search" if stored else f"RPN of {method.name}")
            columns.append((method.variant, "proposals"))
        titles.append(method.name)
        columns.append((method.variant, "found"))
    tiles, texts = [], []
    for image in images:
        by_variant = {pictures.variant: pictures for pictures in image.methods}
        cells = [(image.truth, image.text)]
        for variant, kind in columns:
            drawn = by_variant[variant]
            cells.append((getattr(drawn, kind), getattr(drawn, f"{kind}_text")))
        tiles += [resize_picture(tile, _SHEET_TILE, _SHEET_TILE) for tile, _ in cells]
        texts += [text for _, text in cells]
    return make_tile_sheet(tiles, texts, len(titles), heading, titles)
