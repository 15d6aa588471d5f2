"""Lines and parts in result files: the axis excess of binary masks, and the same-part error.

A result file has no soft masks, so binary ones are measured, with background around them. A mask
that is cut off by its RoI therefore has lines there, whatever the model: the excess says that lines
along the axes are there, not why. Masks of more than 168 px are scaled down to this side, which
rendered soft masks of 21 x 21 cells have.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as mask_util

from ..errors import UserError
from .axis_runs import measure_axis_lengths
from .detections import Detections
from .image_instances import ImageInstances
from .intervals import bootstrap_ratio, describe_interval
from .metrics import Metric
from .same_part import PAIRS, SamePartRecord, draw_same_part, measure_matched_parts

__all__ = [
    "LEAST_SIDE",
    "LINE_METRICS",
    "LineRecord",
    "compare_lines",
    "measure_lines",
    "render_binary_mask",
    "require_rois",
    "summarize_lines",
]

Floats = npt.NDArray[np.float64]
Entry = dict[str, float | None]

LEAST_SIDE = 64  # pixels; of smaller binary masks, the axis excess misses lines and invents some
EXCESS = "axis/excess"
_SIDE = 168  # pixels
_MARGIN = 4  # pixels of background around a mask


def _describe_metrics() -> dict[str, Metric]:
    found = {
        EXCESS: Metric(
            "axis excess",
            "",
            False,
            "Length of contour in runs parallel to an axis, divided by the same length in rotated "
            "copies of the mask: 1 for masks without a preference. Matched masks with a side of "
            f"{LEAST_SIDE} px or more count. Two models are compared by the ratio.",
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
    """Raise if the boxes of detections are the boxes of the masks, as mask voting leaves them.

    Args:
        detections: with boxes.
        name: of the file, for the message.

    Raises:
        UserError: every box is the tight box of its mask.
    """
    found = [detection for image in detections.values() for detection in image]
    tight = [d.box is not None and np.allclose(d.box, mask_util.toBbox(d.mask)) for d in found]
    if found and all(tight):
        raise UserError(
            f"{name}: expected the boxes that masks were made in, and every box is the tight box "
            "of its mask, as FCIS's mask voting leaves it. Give detections that were made with "
            "MODEL.FCIS.MASK_VOTING False, or do not ask for the same-part error"
        )


def render_binary_mask(mask: npt.NDArray[np.bool_]) -> Floats:
    """Return a binary mask for `measure_axis_lengths`: at most 168 px, with 4 px of background."""
    image = Image.fromarray(mask.astype(np.float32))
    scale = min(1.0, _SIDE / max(mask.shape))
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in mask.shape)
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.pad(np.asarray(image, dtype=np.float64), _MARGIN)


def measure_lines(instances: ImageInstances, *, parts: int | None = None) -> LineRecord:
    """Measure the detections of an image that are matched with objects.

    Args:
        instances: the image, with its detections.
        parts: k; the detections then have RoIs. None: no same-part errors.
    """
    masks, length, rotated = 0, 0.0, 0.0
    for detection in instances.match().values():
        mask = instances.decode_detection(detection).mask
        if max(mask.shape) < LEAST_SIDE:
            continue
        runs, copies = measure_axis_lengths(render_binary_mask(mask))
        masks, length, rotated = masks + 1, length + runs.length, rotated + copies
    same = None
    if parts is not None:
        same = measure_matched_parts(instances, k=parts)
    return LineRecord(masks, length, rotated, same)


def summarize_lines(
    records: Sequence[LineRecord], *, draws: int = 1000, seed: int = 0
) -> dict[str, Entry]:
    """Return the numbers of a model: one of `LINE_METRICS` -> {"value", "low", "high"}.

    Args:
        records: of each image.
        draws: of the bootstrap over images.
        seed: of the draws.
    """
    values = _compute_values(records, draws, seed)
    return {name: describe_interval(found) for name, found in values.items()}


def compare_lines(
    records_a: Sequence[LineRecord],
    records_b: Sequence[LineRecord],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Entry]]:
    """Return the numbers of two models, and their ratio or their difference.

    Args:
        records_a: of one model, of each image.
        records_b: of another model, of the same images.
        draws: of the paired bootstrap over images.
        seed: of the draws.

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
        compared[name] = {k: describe_interval(v) for k, v in {"a": a, "b": b, **both}.items()}
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
