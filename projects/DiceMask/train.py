#!/usr/bin/env python
"""Train or evaluate with `DiceMaskHead`; takes the arguments of `train_net.py`."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
sys.path[:0] = [str(PROJECT), str(PROJECT.parents[1])]

import dice_mask  # noqa: E402, F401 - registers the head, also in the processes of --num-gpus

from mask_rcnn_ext.engine.launch import launch, run_as_command  # noqa: E402
from mask_rcnn_ext.engine.main import run_job  # noqa: E402
from mask_rcnn_ext.engine.prepare import argument_parser  # noqa: E402

if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    sys.exit(run_as_command(lambda: launch(run_job, arguments)))
