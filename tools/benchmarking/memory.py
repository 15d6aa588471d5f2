"""Time and peak memory of predictions and training steps on images of many sizes.

Each contender runs in a process of its own: detectron2, and our model with and without
`MASK_RCNN_EXT.REUSE_MEMORY`. The images of a prediction are resized as detectron2 does it.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mask_rcnn_ext.errors import require_range

from .inference import BASELINE
from .memory_once import CASES, CONTENDERS, write_weights
from .parts import Part, TimedCase, compare_rows
from .processes import run_in_process
from .rounds import Times, take_turns

__all__ = ["run"]


def run(args: argparse.Namespace) -> Part:
    """Time the contenders in each case and compare their results."""
    require_range("--images", args.images, 1)
    options = {"images": args.images, "rounds": args.rounds, "seed": args.seed}
    part = Part("Memory that is reused, images of many sizes", options)
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            if case == "prediction":
                write_weights(args.seed, Path(folder))
            part.rows += _run_case(case, args, folder)
    return part


def _run_case(case: str, args: argparse.Namespace, folder: str) -> list[TimedCase]:
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    numbers = str(args.images), str(args.seed)

    def contender(name: str) -> Callable[[], Times]:
        def work() -> Times:
            report = run_in_process("memory_once", name, case, *numbers, folder)
            reports[name].append(report)
            return {"": report["seconds"]}

        return work

    # No round warms up: each process starts again.
    times = take_turns({name: contender(name) for name in reports}, args.rounds, warm_up=False)
    rows = compare_rows(case, times, BASELINE)
    for row in rows:
        row.peak_mb = max(report["peak_mb"] for report in reports[row.contender])
        if row.contender != BASELINE:
            found = {
                each["results"] for name in (BASELINE, row.contender) for each in reports[name]
            }
            row.output = "equal" if len(found) == 1 else "differs"
    return rows
