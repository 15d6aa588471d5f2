"""COCO evaluation of a drawn data set: detectron2's evaluator with pycocotools against ours.

Each evaluation runs in a process of its own, so that its peak memory can be measured. All of
`evaluate()` is timed, with the result files that it writes. Our evaluator packs the detections of
each image first; this is timed too. The drawing of the data is not. The matching, from the
detections to the arrays of precision and recall, also has a time of its own.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mask_rcnn_ext import UserError
from mask_rcnn_ext.errors import require_range
from mask_rcnn_ext.evaluation.compiled_coco import find_compiled_version

from .coco_data import make_coco_data
from .evaluate_once import BASELINE, OURS
from .machine import find_version
from .parts import Part, TimedCase, compare_rows
from .processes import run_in_process
from .rounds import Times, take_turns

__all__ = ["run"]


def run(args: argparse.Namespace) -> Part:
    """Time the evaluation of each task and compare the outputs.

    Raises:
        UserError: hotcoco is not installed, or the options make no data.
    """
    require_range("--images", args.images, 1)
    if find_compiled_version() is None:
        raise UserError('hotcoco is not installed: pip install -e ".[fast]"')
    options = {"images": args.images, "rounds": args.rounds, "seed": args.seed}
    part = Part("COCO evaluation, from detections to AP", options)
    part.machine |= {name: find_version(name) for name in ("pycocotools", "hotcoco")}
    with tempfile.TemporaryDirectory() as folder:
        for task in args.tasks:
            part.rows += _run_task(task, args, Path(folder))
    return part


def _run_task(task: str, args: argparse.Namespace, folder: Path) -> list[TimedCase]:
    data = make_coco_data(args.images, args.seed, keypoints=task == "keypoints")
    (folder / "truth.json").write_text(json.dumps(data.content))
    lines = "".join(f"{json.dumps(entry)}\n" for entry in data.predictions)
    (folder / "predictions.jsonl").write_text(lines)
    count = sum(len(entry["instances"]) for entry in data.predictions)
    del data, lines
    reports: dict[str, list[dict[str, Any]]] = {BASELINE: [], OURS: []}

    def contender(name: str) -> Callable[[], Times]:
        def evaluate() -> Times:
            report = run_in_process("evaluate_once", name, task, str(folder))
            reports[name].append(report)
            return {"": report["seconds"], "matching alone": report["matching_seconds"]}

        return evaluate

    # No round warms up: each process starts again.
    times = take_turns({name: contender(name) for name in reports}, args.rounds, warm_up=False)
    rows = compare_rows(f"{task}, {args.images:,} images, {count:,} detections", times, BASELINE)
    for row in rows[: len(reports)]:  # of the whole evaluation
        row.peak_mb = max(report["peak_mb"] for report in reports[row.contender])
        if row.contender != BASELINE:
            row.output = _compare_outputs(reports[BASELINE], reports[row.contender])
    return rows


def _compare_outputs(baseline: list[dict[str, Any]], ours: list[dict[str, Any]]) -> str:
    """Return "equal" if arrays, metrics and the result file were the same in all rounds."""
    differing = [
        name
        for name in ("arrays", "metrics", "file")
        if len({report[name] for report in (*baseline, *ours)}) > 1
    ]
    return f"differs: {', '.join(differing)}" if differing else "equal"
