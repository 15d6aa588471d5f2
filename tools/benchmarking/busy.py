"""A step of the demo's training, alone and while other programs use the cores.

A step on a CPU can take many times as long when its cores are busy. The contenders are float32 and
bfloat16, each also with `MASK_RCNN_EXT.ADAPT_TO_LOAD`, which changes threads or precision then.
Each trains in a process of its own, by `Trainer`, with the demo's data. "alone" is
the median of the steps before the other programs start. "next to N busy programs" is the mean of
all steps after that, so it has what the adapting one tries. The output says how the last step was
computed.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any

from detectron2.data import DatasetCatalog

from mask_rcnn_ext import UserError
from mask_rcnn_ext.errors import require_range
from mask_rcnn_ext.model_zoo import get_config
from mask_rcnn_ext.modeling.precision import computes_bfloat16

from .busy_once import CONTENDERS
from .parts import Part, compare_rows
from .processes import run_in_process
from .rounds import Times, take_turns

__all__ = ["run"]


def run(args: argparse.Namespace) -> Part:
    """Time the contenders.

    Raises:
        UserError: this processor does not compute in bfloat16.
    """
    require_range("--steps", args.steps, 1)
    if args.programs is not None:
        require_range("--programs", args.programs, 1)
    if not computes_bfloat16():
        raise UserError(
            "this processor does not compute in bfloat16, so a training here is in float32, "
            "whatever its config says: there is nothing to compare"
        )
    programs = args.programs or os.cpu_count() or 1
    part = Part(
        "A step of the demo's training, while other programs use the cores",
        {"rounds": args.rounds, "seed": args.seed, "steps": args.steps, "programs": programs},
    )
    for name in get_config("shapes/mask_rcnn_demo_FPN.yaml").DATASETS.TRAIN:
        DatasetCatalog.get(name)  # draws the images if they are not there
    settings: dict[str, str] = {}
    busy = f"next to {programs} busy program" + ("s" if programs > 1 else "")

    def contender(name: str) -> Callable[[], Times]:
        def train() -> Times:
            numbers = map(str, (args.steps, programs, args.seed))
            report: dict[str, Any] = run_in_process("busy_once", name, *numbers)
            settings[name] = report["setting"]
            return {"alone": report["alone"], busy: report["busy"]}

        return train

    baseline = next(iter(CONTENDERS))
    # No round warms up: each process starts again.
    times = take_turns({name: contender(name) for name in CONTENDERS}, args.rounds, warm_up=False)
    part.rows = compare_rows("", times, baseline)
    for row in part.rows:
        if row.case == busy:
            row.output = f"at the end {settings[row.contender]}"
    return part
