"""COCO's evaluation in compiled code, by hotcoco: pycocotools' arrays, faster and in less memory.

hotcoco sorts, matches and sums as pycocotools does: the arrays of precision, recall and scores are
equal, not only close. Boxes and scores that are not finite are an exception, so data with them are
left to pycocotools.
"""

import contextlib
import gc
import importlib
import importlib.metadata
import importlib.util
import io
import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from pycocotools.cocoeval import COCOeval

from ..overlap.numbered_coco import NumberedCOCO

__all__ = ["evaluate_compiled", "find_compiled_version", "pause_garbage_collection"]

_LIBRARY = "hotcoco"
_BATCH = 32  # images
_Image = TypeVar("_Image")
# The keys of an object and of a detection that COCO's evaluation reads.
_OBJECT_KEYS = {
    "bbox": ("iscrowd", "area", "bbox"),
    "segm": ("iscrowd", "area", "bbox", "segmentation"),
    "keypoints": ("iscrowd", "area", "bbox", "keypoints", "num_keypoints"),
}
# Without its box, a detection is as large as its mask, as in detectron2.
_RESULT_KEYS = {
    "bbox": ("score", "bbox"),
    "segm": ("score", "segmentation"),
    "keypoints": ("score", "bbox", "keypoints"),
}


def find_compiled_version() -> str | None:
    """Return the version of hotcoco, or None if it is not installed."""
    if importlib.util.find_spec(_LIBRARY) is None:
        return None
    return importlib.metadata.version(_LIBRARY)


def evaluate_compiled(
    predictions: Iterable[tuple[Any, Sequence[Mapping[str, Any]]]],
    truth: NumberedCOCO,
    task: str,
    evaluation: COCOeval,
) -> None:
    """Fill `evaluation.eval` as its `evaluate()` and `accumulate()` do.

    Images are matched a few at a time, so that only the detections of these are objects in memory.

    Args:
        predictions: ids of images in the file, each once, and their detections in COCO's format,
            with the ids of the file. Images may be missing: nothing was found there.
        truth: the data set.
        task: "bbox", "segm" or "keypoints".
        evaluation: an evaluation of the same data set and task; its `params` are followed.

    Raises:
        KeyError: there are results of an unknown image or category, or of another kind, or an
            object lacks a key that the task needs.
        ValueError: a score, a box or a keypoint is not finite, an image comes twice, or hotcoco
            refuses something.
    """
    library, params = importlib.import_module(_LIBRARY), evaluation.params
    if len(params.imgIds) == 0:
        raise ValueError("no images are asked for")  # hotcoco would take all
    # As pycocotools' evaluate() leaves them.
    params.imgIds, params.catIds = np.unique(params.imgIds), np.unique(params.catIds)
    params.maxDets = sorted(params.maxDets)
    with _silence():
        stream = library.StreamingEval(
            [{"id": number, "name": str(number)} for number in truth.cats],
            task,
            params=_convert_params(params, library.Params(task)),
        )
        limit = params.maxDets[-1]
        for batch in _split(_choose(predictions, params.imgIds.tolist(), truth)):
            detections = [each for _, found in batch for each in _choose_best(found, limit)]
            stream.update(
                [_keep(truth.imgs[n], ("id", "height", "width")) for n, _ in batch],
                [entry for number, _ in batch for entry in _list_objects(number, truth, task)],
                _convert(detections, truth, task, params),
            )
        compiled = stream.finalize()
        compiled.accumulate()
        arrays = compiled.eval
    evaluation.eval = {
        "params": params,
        **{name: arrays[name] for name in ("counts", "precision", "recall", "scores")},
    }


def _choose(
    predictions: Iterable[tuple[Any, Sequence[Mapping[str, Any]]]],
    wanted: list[int],
    truth: NumberedCOCO,
) -> Iterator[tuple[int, Sequence[Mapping[str, Any]]]]:
    """Yield the number and the detections of each image that is asked for."""
    left, seen = set(wanted), set[int]()
    for image_id, found in predictions:
        number = truth.image_numbers[image_id]
        if number in seen:
            raise ValueError(f"image {image_id} comes twice")
        seen.add(number)
        if number in left:
            yield number, found
    yield from ((number, ()) for number in sorted(left - seen))


def _choose_best(found: Sequence[Mapping[str, Any]], limit: int) -> Sequence[Mapping[str, Any]]:
    """Return the detections of an image that count: up to `limit` of each category.

    pycocotools ignores the others; of keypoints it takes 20. Of equal scores the first ones count.
    """
    if len(found) <= limit:
        return found
    _require_finite("score", (each["score"] for each in found))  # to sort by them
    left: dict[Any, int] = {}
    chosen = []
    for each in sorted(found, key=lambda each: each["score"], reverse=True):
        category = each["category_id"]
        left[category] = left.get(category, limit) - 1
        if left[category] >= 0:
            chosen.append(each)
    return chosen


def _list_objects(image: int, truth: NumberedCOCO, task: str) -> list[dict[str, Any]]:
    keys = ("id", "image_id", "category_id", *_OBJECT_KEYS[task])
    return [
        {key: entry[key] for key in keys}
        for entry in truth.imgToAnns.get(image, ())
        if entry["category_id"] is not None
    ]


def _convert(
    results: Iterable[Mapping[str, Any]], truth: NumberedCOCO, task: str, params: Any
) -> list[dict[str, Any]]:
    keys = _RESULT_KEYS[task]
    converted = [
        {
            "image_id": truth.image_numbers[result["image_id"]],
            "category_id": truth.category_numbers[result["category_id"]],
            **{key: result[key] for key in keys},
        }
        for result in results
    ]
    _require_finite("score", (result["score"] for result in converted))
    lengths = {"bbox": 4}
    if task == "keypoints":
        lengths["keypoints"] = 3 * len(params.kpt_oks_sigmas)
    for key in lengths.keys() & keys:
        _require_finite(key, (math.fsum(result[key]) for result in converted))
        if any(len(result[key]) != lengths[key] for result in converted):
            raise ValueError(f"expected {lengths[key]} numbers in each {key}")
    return converted


def _require_finite(key: str, numbers: Iterable[float]) -> None:
    if not math.isfinite(math.fsum(numbers)):  # a NaN or an infinite number makes the sum one too
        raise ValueError(f"a {key} is not finite")


def _convert_params(params: Any, made: Any) -> Any:
    """Copy pycocotools' parameters into hotcoco's `made`, and return these."""
    made.imgIds, made.catIds = params.imgIds.tolist(), params.catIds.tolist()
    made.iouThrs, made.recThrs = params.iouThrs.tolist(), params.recThrs.tolist()
    made.maxDets = [int(limit) for limit in params.maxDets]
    made.areaRng = [[float(side) for side in limits] for limits in params.areaRng]
    made.areaRngLbl = list(params.areaRngLbl)
    if hasattr(params, "kpt_oks_sigmas"):
        made.kpt_oks_sigmas = params.kpt_oks_sigmas.tolist()
    return made


def _split(images: Iterable[_Image]) -> Iterator[list[_Image]]:
    iterator = iter(images)
    while batch := list(itertools.islice(iterator, _BATCH)):
        yield batch


def _keep(entry: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: entry[key] for key in keys if key in entry}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hide hotcoco's progress, and its warnings about limits that are not COCO's."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", message="hotcoco:")
        yield


@contextlib.contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Keep Python from looking for cycles: the dicts of the detections are many, and have none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
