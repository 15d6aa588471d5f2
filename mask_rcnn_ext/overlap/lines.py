"""Lines and parts in result files: the axis excess of binary masks, and the same-part error.

A result file has no soft masks, so binary masks are measured. If a RoI cuts off its mask, the mask
has a line there, whatever the model. So contour within 3 % of the RoI's sides does not count. If
RoIs are unknown, a mask is measured with background around it, and such lines count. Contour on the
frame of the image never counts. Arrays of more than 168 px are scaled down to this side, which is
the side of rendered soft masks of 21 x 21 cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..arrays import Floats
from ..errors import UserError
from ..layers.mask_crops import MaskCrop
from .axis_runs import measure_axis_lengths
from .detections import Detections, have_rois
from .image_instances import ImageInstances
from .intervals import bootstrap_ratio, describe_draws
from .metrics import Metric
from .same_part import PAIRS, SamePartRecord, draw_same_part, measure_matched_parts

__all__ = [
    "LEAST_SIDE",
    "LINE_METRICS",
    "LineRecord",
    "compare_lines",
    "measure_lines",
    "render_binary_mask",
    "render_in_roi",
    "require_rois",
    "summarize_lines",
]

Entry = dict[str, float | None]

LEAST_SIDE = 64  # pixels; in smaller binary masks, lines are missed and false lines are found
EXCESS = "axis/excess"
_SIDE = 168  # pixels
_INSET = 0.03  # share of the side of a RoI; pasting may draw its edge half a cell further inside
_MARGIN = 4  # pixels of background around a mask


def _describe_metrics() -> dict[str, Metric]:
    found = {
        EXCESS: Metric(
            "axis excess",
            "",
            False,
            "Length of contour in runs parallel to an axis, divided by the same length in rotated "
            "copies of the mask: 1 for masks without a preference. Matched masks with a side of "
            f"{LEAST_SIDE} px or more count; of each, the contour inside its RoI, if all RoIs are "
            "known. Undefined if the rotated copies have no such runs, as of few rectangles. Two "
            "models are compared by the ratio.",
        )
    }
    for pair, name in zip(PAIRS, ("one class", "two classes"), strict=True):
        for region, where, meaning in (
            ("same", "in the same part", "where both RoIs read the same of the k x k parts"),
            ("other", "elsewhere", "where they read two different parts"),
        ):
            found[f"same_part/{pair}/{region}"] = Metric(
                f"pixel error {where}, pairs of {name}",
                "%",
                False,
                f"Share of wrong pixels in the common area of two RoIs, {meaning}.",
            )
        found[f"same_part/{pair}/difference"] = Metric(
            f"same-part error, pairs of {name}",
            "points",
            False,
            "Pixel error where both RoIs read the same part, minus the error elsewhere in their "
            "common area: above 0 where the parts of FCIS contradict each other.",
        )
    return found


# "task/metric" -> its description, in the order of a table. "same_part/..." needs boxes and k.
LINE_METRICS = _describe_metrics()


@dataclass(frozen=True)
class LineRecord:
    """The matched detections of one image: the unit of the bootstrap.

    Attributes:
        masks: number of masks whose axis length is measured.
        length: their axis length, in pixels.
        rotated: mean axis length of their rotated copies.
        same_part: None where k is not known.
    """

    masks: int
    length: float
    rotated: float
    same_part: SamePartRecord | None


def require_rois(detections: Detections, name: str) -> None:
    """Raise if the boxes of detections are the tight boxes of their masks, as after mask voting.

    Args:
        detections: the detections, with their boxes.
        name: the name of the file, for the message.

    Raises:
        UserError: every box is the tight box of its mask.
    """
    if not have_rois(detections):
        raise UserError(
            f"{name}: expected the boxes in which the masks were predicted, but every box is the "
            "tight box of its mask, as after FCIS's mask voting. Give detections that were made "
            "with MODEL.FCIS.MASK_VOTING False, or do not ask for the same-part error"
        )


def render_binary_mask(crop: MaskCrop, height: int, width: int) -> Floats:
    """Return a binary mask for `measure_axis_lengths`: at most 168 px, with 4 px of background.

    A side on the frame of the image gets no background: the frame of the array does not count as
    contour.

    Args:
        crop: the mask in the image, without empty rows and columns around it.
        height: height of the image.
        width: width of the image.
    """
    ends = (crop.rows, height), (crop.columns, width)
    margins = [
        [_MARGIN * (side.start > 0), _MARGIN * (side.stop < length)] for side, length in ends
    ]
    return np.pad(_scale_down(crop.mask), margins)


def render_in_roi(crop: MaskCrop, roi: Floats) -> Floats:
    """Return a binary mask for `measure_axis_lengths`, cut to the inner part of its RoI.

    The frame of the array does not count as contour, so the cut by the RoI is not a line.

    Args:
        crop: the mask in the image.
        roi: (4,) float64, XYXY in pixels, inside the image.

    Returns:
        At most 168 px on a side. (1, 1), and 0, if the inner part has no pixels.
    """
    inset = np.maximum(_INSET * (roi[2:] - roi[:2]), 1.0)
    left, top = np.ceil(roi[:2] + inset).astype(int)
    right, bottom = np.floor(roi[2:] - inset).astype(int)
    if left >= right or top >= bottom:
        return np.zeros((1, 1))
    return _scale_down(crop.cut(slice(top, bottom), slice(left, right)))


def _scale_down(mask: npt.NDArray[np.bool_]) -> Floats:
    image = Image.fromarray(mask.astype(np.float32))
    scale = min(1.0, _SIDE / max(mask.shape))
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in mask.shape)
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float64)


def measure_lines(instances: ImageInstances, *, parts: int | None = None) -> LineRecord:
    """Measure the detections of an image that are matched with objects.

    Args:
        instances: the image, with its detections and, if known, their RoIs.
        parts: k; the detections then have RoIs. None: no same-part errors.
    """
    masks, length, rotated, rois = 0, 0.0, 0.0, instances.detection_rois
    if rois is not None:  # a file can have boxes of any size
        rois = rois.clip(0, [instances.width, instances.height] * 2)
    for detection in instances.match().values():
        crop = instances.decode_detection(detection)
        if max(crop.mask.shape) < LEAST_SIDE:
            continue
        runs, copies = measure_axis_lengths(
            render_binary_mask(crop, instances.height, instances.width)
            if rois is None
            else render_in_roi(crop, rois[detection])
        )
        masks, length, rotated = masks + 1, length + runs.length, rotated + copies
    same = None if parts is None else measure_matched_parts(instances, k=parts)
    return LineRecord(masks, length, rotated, same)


def summarize_lines(records: Sequence[LineRecord], *, draws: int = 1000) -> dict[str, Entry]:
    """Return the numbers of a model: one of `LINE_METRICS` -> {"value", "low", "high"}.

    Args:
        records: the record of each image.
        draws: number of draws of the bootstrap over images.
    """
    return describe_draws(_compute_values(records, draws, seed=0))


def compare_lines(
    records_a: Sequence[LineRecord],
    records_b: Sequence[LineRecord],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Entry]]:
    """Return the numbers of two models, and their ratio or their difference.

    Args:
        records_a: the record of each image, of one model.
        records_b: the records of another model, of the same images.
        draws: number of draws of the paired bootstrap over images.
        seed: seed of the draws.

    Returns:
        One of `LINE_METRICS` -> "a", "b", and "ratio" (a divided by b) of the axis excess or
        "difference" (a minus b) of the rest -> {"value", "low", "high"}.
    """
    first, second = (_compute_values(records, draws, seed) for records in (records_a, records_b))
    compared = {}
    for name in first:
        a, b = first[name], second[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            both = {"ratio": a / b} if name == EXCESS else {"difference": a - b}
        compared[name] = describe_draws({"a": a, "b": b, **both})
    return compared


def _compute_values(records: Sequence[LineRecord], draws: int, seed: int) -> dict[str, Floats]:
    """Return (1 + draws,) of each metric: its number, then its number in each draw."""
    length, rotated = (
        np.array([[getattr(record, name) for record in records]]) for name in ("length", "rotated")
    )
    values = {EXCESS: bootstrap_ratio(length, rotated, draws=draws, seed=seed)}
    parts = [record.same_part for record in records if record.same_part is not None]
    if len(parts) == len(records):
        found = draw_same_part([parts], draws=draws, seed=seed)
        values |= {f"same_part/{name}": numbers for name, numbers in found.items()}
    return values
