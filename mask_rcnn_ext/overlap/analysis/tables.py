"""Tables of matched detections, from which AP is computed: of all objects, by size, by overlap.

As in COCO, objects that do not belong to a part are ignored, and so are the detections that match
them. An unmatched detection belongs to a size by its own area, and to an overlap level by the level
of the nearest object, see `matching.find_nearest_levels`.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np

from ...arrays import Bools, Ints
from ...files import read_json
from ..average_precision import APTable
from ..matching import LEVELS
from .image_pairs import ImagePairs, Kind, group_by_image, match_image, read_image_pairs

__all__ = ["SIZES", "make_tables", "match_all", "read_ap_table"]

_Rule = tuple[Callable[[ImagePairs], Bools], Callable[[ImagePairs], Bools]]

_EVERYTHING: _Rule = (lambda i: ~i.crowd, lambda i: np.ones(len(i.scores), bool))
# COCO's areas in pixels; both ends belong to a part.
SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}


def match_all(images: Sequence[ImagePairs]) -> list[Ints]:
    """Return (D,) of each image: the object that each detection matches at IoU 0.5; -1 for none."""
    return [match_image(image, ~image.crowd)[0] for image in images]


def make_tables(images: Sequence[ImagePairs], num_classes: int) -> dict[str, APTable]:
    """Return the tables "all", "small", "medium", "large", "none", "partial" and "heavy".

    The categories of a table are the places of the classes.

    Args:
        images: the data set.
        num_classes: the number of classes of the data set.
    """
    rules: dict[str, _Rule] = {"all": _EVERYTHING}
    rules |= {name: _make_size_rule(*bounds) for name, bounds in SIZES.items()}
    rules |= {name: _make_level_rule(index) for index, name in enumerate(LEVELS)}
    return {name: _make_table(images, num_classes, *rule) for name, rule in rules.items()}


def read_ap_table(
    annotations: str | os.PathLike[str], predictions: str | os.PathLike[str], kind: Kind
) -> APTable:
    """Return the table "all" of the predictions in a file.

    Args:
        annotations: COCO-format json of the data set.
        predictions: `coco_instances_results.json` of a run.
        kind: "segm" or "bbox", see `read_image_pairs`.

    Raises:
        UserError: a file cannot be read; or see `read_image_pairs`.
    """
    content = read_json(annotations)
    images = read_image_pairs(content, group_by_image(read_json(predictions)), kind)
    return _make_table(images, len(content["categories"]), *_EVERYTHING)


def _make_size_rule(low: float, high: float) -> _Rule:
    return (
        lambda i: ~i.crowd & (i.areas >= low) & (i.areas <= high),
        lambda i: (i.detection_areas >= low) & (i.detection_areas <= high),
    )


def _make_level_rule(index: int) -> _Rule:
    return (
        lambda i: ~i.crowd & (i.levels == index),
        lambda i: (i.detection_levels == index) | (i.detection_levels < 0),
    )


def _make_table(
    images: Sequence[ImagePairs],
    num_classes: int,
    choose_objects: Callable[[ImagePairs], Bools],
    choose_detections: Callable[[ImagePairs], Bools],
) -> APTable:
    objects = np.zeros((num_classes, len(images)), dtype=np.int32)
    parts = []
    for place, image in enumerate(images):
        counts = choose_objects(image)
        np.add.at(objects[:, place], image.classes[counts], 1)
        matches = match_image(image, counts)
        hit = matches >= 0
        right = np.zeros_like(hit)
        right[hit] = counts[matches[hit]]
        counted = np.where(hit, right, choose_detections(image))
        parts.append((image.detection_classes, image.scores, right, counted))
    return APTable.join(parts, dict(enumerate(objects)))
