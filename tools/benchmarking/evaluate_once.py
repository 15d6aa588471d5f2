"""Runs one evaluation; prints its time, peak memory and the hashes of its outputs as json.

`benchmarking.evaluation` starts it as a process: CONTENDER TASK FOLDER.
"""

import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, coco_evaluation

from mask_rcnn_ext import MaskRCNNCOCOEvaluator
from mask_rcnn_ext.evaluation import coco
from mask_rcnn_ext.evaluation.plain_predictions import PackedDetections
from mask_rcnn_ext.files import file_sha256, read_json

from .processes import find_peak
from .rounds import time_call

__all__ = ["BASELINE", "OURS", "evaluate_once"]

BASELINE, OURS = "detectron2 with pycocotools", "mask_rcnn_ext with hotcoco"
_DATA = "benchmark_coco"


def evaluate_once(contender: str, task: str, folder: Path) -> dict[str, Any]:
    """Evaluate `predictions.jsonl`, a line for each image, with `truth.json` in a folder.

    Returns:
        `seconds` of building the evaluator, of `evaluate()`, and of packing the detections before,
        which only our evaluator does; `matching_seconds`, the part from the detections to the
        arrays of precision and recall; `peak_mb`; hashes of the `arrays`, of the `metrics` and of
        the result `file`.
    """
    content = read_json(folder / "truth.json")
    numbers = {entry["id"]: number for number, entry in enumerate(content["categories"])}
    MetadataCatalog.get(_DATA).set(
        json_file=str(folder / "truth.json"),
        thing_classes=[entry["name"] for entry in content["categories"]],
        thing_dataset_id_to_contiguous_id=numbers,
    )
    del content
    predictions, packing = [], 0.0
    with open(folder / "predictions.jsonl") as file:
        for line in file:
            entry = json.loads(line)
            if contender == OURS:  # as `process` does, before the next image
                seconds, entry["instances"] = time_call(
                    partial(PackedDetections, entry["instances"])
                )
                packing += seconds
            predictions.append(entry)
    hashes = hashlib.sha256()

    class Recorded(COCOEvaluator if contender == BASELINE else MaskRCNNCOCOEvaluator):  # type: ignore[misc]
        def _derive_coco_results(self, evaluation: Any, *args: Any, **kwargs: Any) -> Any:
            for name in ("precision", "recall", "scores"):
                hashes.update(np.ascontiguousarray(evaluation.eval[name]).tobytes())
            return super()._derive_coco_results(evaluation, *args, **kwargs)

    def evaluate() -> Any:
        options = {"use_fast_impl": False} if contender == BASELINE else {}
        evaluator = Recorded(_DATA, (task,), output_dir=str(folder / "output"), **options)
        evaluator.reset()
        evaluator._predictions = predictions  # what `process` would have kept
        return evaluator.evaluate()

    with contextlib.redirect_stdout(io.StringIO()), _time_matching(contender) as matching:
        seconds, results = time_call(evaluate)
    return {
        "seconds": seconds + packing,
        "matching_seconds": sum(matching),
        "peak_mb": find_peak() / 1e6,
        "arrays": hashes.hexdigest(),
        "metrics": json.dumps(results),
        "file": file_sha256(str(folder / "output" / "coco_instances_results.json")),
    }


@contextlib.contextmanager
def _time_matching(contender: str) -> Iterator[list[float]]:
    """Yield a list that gets the seconds of each call of the contender's matching."""
    places = {BASELINE: (coco_evaluation, "_evaluate_predictions_on_coco")}
    module, name = places.get(contender, (coco, "evaluate_compiled"))
    original, found = getattr(module, name), list[float]()

    def timed(*args: Any, **kwargs: Any) -> Any:
        seconds, result = time_call(partial(original, *args, **kwargs))
        found.append(seconds)
        return result

    setattr(module, name, timed)
    try:
        yield found
    finally:
        setattr(module, name, original)


if __name__ == "__main__":
    print(json.dumps(evaluate_once(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
