"""Mask R-CNN and its rival on overlapping instances: measured, and compared with intervals.

    truth = load_truth("annotations.json")
    first, second = (measure(truth, load_results(path, truth)) for path in (a, b))
    summarize(first)["overlap"]["AP_heavy"]
    compare(first, second)["errors/seam_share"]  # a, b, difference, low, high

`METRICS` says what each number is. All of them come from masks, never from predicted boxes.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO

from ..errors import UserError
from .average_precision import APTable
from .detections import Detection, Detections, load_results, load_truth
from .geometry import ImageErrors, seams
from .image_instances import MAX_DETECTIONS
from .image_metrics import ImageRecord, Job, measure_image
from .intervals import compute_percentile_interval, compute_weighted_mean, draw_weights
from .metrics import AP_TASKS, COUNTS, METRICS, RATIOS, Metric

__all__ = [
    "METRICS",
    "Detection",
    "Detections",
    "ImageErrors",
    "ImageRecord",
    "Metric",
    "compare",
    "difference_entry",
    "load_results",
    "load_truth",
    "measure",
    "seams",
    "summarize",
    "weighted_values",
]

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.int32]
Progress = Callable[[int, int], None]

_CHUNK = 8  # images that a process is given at a time
_SHARE = 200  # images; a new process takes seconds to start, and fewer do not repay it


def measure(
    coco_gt: COCO,
    detections: Detections,
    *,
    progress: Progress | None = None,
    processes: int = 1,
    max_detections: int = MAX_DETECTIONS,
) -> list[ImageRecord]:
    """Match a model's detections with the objects, and measure the errors, image by image.

    Masks stay RLE; only one image's are decoded at a time (in each process).

    Args:
        coco_gt: the data set, see `load_truth`. Annotations of a category that it does not list are
            left out, as COCO does.
        detections: see `load_results`.
        progress: called with the number of images that are done and of all images, after each.
        processes: more than 1 starts as many new Python processes, fewer where one would have less
            than 200 images; call it from a script that is guarded by `if __name__ == "__main__"`.
        max_detections: the most detections of one class in one image that count, the best ones.

    Returns:
        One record for each image of the data set, by ascending id; they can be pickled.

    Raises:
        UserError: there are detections of an image that the data set does not have, or an
            annotation has a broken mask.
    """
    ids = sorted(coco_gt.imgs)
    for image_id in detections:
        if image_id not in coco_gt.imgs:
            raise UserError(f"detections of image {image_id!r}, which is not in the data set")
    jobs = _jobs(coco_gt, detections, ids, max_detections)
    records: list[ImageRecord] = []

    def take(found: Iterable[ImageRecord]) -> list[ImageRecord]:
        for record in found:
            records.append(record)
            if progress:
                progress(len(records), len(ids))
        return records

    processes = min(processes, len(ids) // _SHARE)
    if processes <= 1:
        return take(map(measure_image, jobs))
    # New processes rather than forks: a fork of a process with threads, as torch's, may hang.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return take(pool.imap(measure_image, jobs, chunksize=_CHUNK))


def _jobs(
    truth: COCO, detections: Detections, ids: Sequence[Any], max_detections: int
) -> Iterator[Job]:
    for image_id in ids:
        annotations = [a for a in truth.imgToAnns[image_id] if a["category_id"] in truth.cats]
        yield Job(truth.imgs[image_id], annotations, detections.get(image_id, []), max_detections)


def summarize(records: Sequence[ImageRecord]) -> dict[str, dict[str, float]]:
    """Return every metric of a model: task -> metric -> number.

    The tasks are "AP", "boundary", "overlap", "overlap_same", "errors" and "counts", see `METRICS`.
    A number that cannot be computed, since the data set has nothing to measure it on or the model
    has matched nothing, is NaN. Without a detection, every AP is 0.

    Args:
        records: of `measure`.
    """
    values = weighted_values(records, np.ones((1, len(records)), dtype=np.int32))
    summary: dict[str, dict[str, float]] = {}
    for name, value in values.items():
        task, metric = name.split("/")
        summary.setdefault(task, {})[metric] = float(value[0])
    summary["counts"] = {
        name: sum(record.counts.get(name, 0) for record in records) for name in COUNTS
    }
    return summary


def compare(
    records_a: Sequence[ImageRecord],
    records_b: Sequence[ImageRecord],
    *,
    draws: int = 1000,
    seed: int = 0,
    processes: int = 1,
) -> dict[str, dict[str, float]]:
    """Return every metric of two models and the difference, with a 95 % interval.

    The interval is that of a paired bootstrap over images, percentile method: each draw takes as
    many images as there are, with replacement, the same for both models. It covers the choice of
    the images, not the chance in training.

    Args:
        records_a: of one model.
        records_b: of another, on the same images.
        draws: how many times to resample.
        seed: of the draws; the same seed gives the same interval.
        processes: how many threads share the work.

    Returns:
        "task/metric" -> {"a", "b", "difference" (a minus b), "low", "high"}, in the order of
        `METRICS`; NaN as in `summarize`, and for an interval when the metric can be computed on
        fewer than half of the draws.

    Raises:
        ValueError: the records are of other images, or there are none.
    """
    if [r.image_id for r in records_a] != [r.image_id for r in records_b] or not records_a:
        raise ValueError("expected records of the same images, at least one, of both models")
    ones = np.ones((1, len(records_a)), dtype=np.int32)
    weights = np.concatenate([ones, draw_weights(len(records_a), draws, seed)])
    first, second = (weighted_values(r, weights, processes) for r in (records_a, records_b))
    return {name: difference_entry(first[name], second[name]) for name in METRICS}


def difference_entry(first: Floats, second: Floats) -> dict[str, float]:
    """Return what `compare` says of a metric.

    Args:
        first: (1 + D,), of the first model: its number, then that of each draw.
        second: (1 + D,), of the second.
    """
    difference = first - second
    low, high = compute_percentile_interval(difference[1:])
    return {
        "a": float(first[0]),
        "b": float(second[0]),
        "difference": float(difference[0]),
        "low": low,
        "high": high,
    }


def weighted_values(
    records: Sequence[ImageRecord], weights: Weights, threads: int = 1
) -> dict[str, Floats]:
    """Return (D,) of each of `METRICS` for the images taken as the (D, I) weights say."""
    tables = {name: _table(records, name) for name in AP_TASKS}
    with ThreadPoolExecutor(max(1, threads)) as pool:  # NumPy's sums run beside one another
        found = dict(
            zip(tables, pool.map(lambda t: t.compute_ap(weights), tables.values()), strict=True)
        )
    values: dict[str, Floats] = {}
    for name, columns in AP_TASKS.items():
        values |= {column: found[name][:, i] for i, column in enumerate(columns)}
    for task in ("overlap", "overlap_same"):
        values[f"{task}/AP_drop"] = values[f"{task}/AP_none"] - values[f"{task}/AP_heavy"]
    for name, scale in RATIOS.items():
        pairs = np.array([record.sums.get(name, (0.0, 0)) for record in records]).reshape(-1, 2)
        values[name] = scale * compute_weighted_mean(pairs[:, 0], pairs[:, 1], weights)
    return {name: values[name] for name in METRICS}


def _table(records: Sequence[ImageRecord], name: str) -> APTable:
    """Join one table of all images."""
    none = np.zeros((10, 0), dtype=bool)
    kept = [record.tables[name] for record in records]
    objects: dict[int, Weights] = {}
    for index, table in enumerate(kept):
        for category, number in table.objects.items():
            objects.setdefault(category, np.zeros(len(records), dtype=np.int32))[index] = number
    sizes = [len(record.scores) for record in records]
    return APTable(
        num_images=len(records),
        classes=np.concatenate([r.classes for r in records]),
        scores=np.concatenate([r.scores for r in records]),
        images=np.repeat(np.arange(len(records)), sizes),
        true=np.concatenate([none, *(t.true for t in kept)], axis=1),
        counted=np.concatenate([none, *(t.counted for t in kept)], axis=1),
        objects=dict(sorted(objects.items())),
    )
