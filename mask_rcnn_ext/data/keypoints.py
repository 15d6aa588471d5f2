"""Completes the keypoints of objects that have none, for training and for COCO's evaluation."""

import logging
import reprlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..errors import UserError, count_noun, name_some

__all__ = ["NUM_COCO_KEYPOINTS", "complete_keypoints", "complete_true_keypoints", "count_numbers"]

NUM_COCO_KEYPOINTS = 17  # of a person; pycocotools has their tolerances (OKS sigmas)

logger = logging.getLogger(__name__)


def complete_keypoints(records: Sequence[dict], num_keypoints: int) -> list[dict]:
    """Give objects without keypoints unlabelled keypoints, which the loss ignores.

    detectron2 needs keypoints on all objects of an image, or on no object.

    Args:
        records: images in detectron2's format. They are not changed.
        num_keypoints: K, the number of keypoints of the model.

    Returns:
        The images, each object with `keypoints`: 3 K numbers, x, y and visibility of each.

    Raises:
        UserError: the keypoints of an object are not 3 K numbers.
    """
    result, wrong = [], []
    total = without = 0
    for record in records:
        annotations = list(record.get("annotations", ()))
        for i, annotation in enumerate(annotations):
            count = count_numbers(annotation.get("keypoints"))
            if count == 0:
                annotations[i] = {**annotation, "keypoints": [0.0] * (3 * num_keypoints)}
                without += 1
            elif count != 3 * num_keypoints:
                shown = reprlib.repr(annotation["keypoints"])
                wrong.append(f"object {i + 1} of {record.get('file_name')} has {shown}")
        total += len(annotations)
        result.append({**record, "annotations": annotations})
    if wrong:
        raise _wrong_keypoints(wrong, num_keypoints)
    if without:
        logger.info(
            "%d of %d objects have no keypoints. They count as not labelled.", without, total
        )
    return result


def complete_true_keypoints(annotations: Iterable[dict[str, Any]], num_keypoints: int) -> None:
    """Give objects of a COCO json without keypoints unlabelled keypoints, in place.

    pycocotools needs `keypoints` and `num_keypoints` on every object. It treats an object without a
    labelled keypoint as a region in which detections do not count.

    Args:
        annotations: the annotations of the json.
        num_keypoints: K, the number of keypoints of the model.

    Raises:
        UserError: the keypoints of an object are not 3 K numbers.
    """
    wrong = []
    for annotation in annotations:
        count = count_numbers(annotation.get("keypoints"))
        if count == 0:
            annotation.update(keypoints=[0] * (3 * num_keypoints), num_keypoints=0)
        elif count != 3 * num_keypoints:
            shown = reprlib.repr(annotation["keypoints"])
            wrong.append(f"annotation {annotation['id']} has {shown}")
        elif "num_keypoints" not in annotation:
            annotation["num_keypoints"] = sum(v > 0 for v in annotation["keypoints"][2::3])
    if wrong:
        raise _wrong_keypoints(wrong, num_keypoints)


def _wrong_keypoints(wrong: list[str], num_keypoints: int) -> UserError:
    return UserError(
        f"{count_noun(len(wrong), 'object')} with wrong keypoints: expected "
        f"{3 * num_keypoints} numbers, which are x, y and visibility of the model's "
        f"{count_noun(num_keypoints, 'keypoint')}: {name_some(wrong, 3)}. "
        "Leave out the keypoints of objects that have none"
    )


def count_numbers(keypoints: Any) -> int:
    """Return the length of a flat list of numbers: 0 for None, -1 for anything else."""
    try:
        numbers = np.asarray([] if keypoints is None else keypoints)
    except ValueError:  # lists of unequal length
        return -1
    flat = numbers.ndim == 1 and numbers.dtype.kind in "iuf" and np.isfinite(numbers).all()
    return len(numbers) if flat else -1
