#!/usr/bin/env python
"""Train or evaluate with `DiceMaskHead`; takes the arguments of `train_net.py`."""

import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
sys.path[:0] = [str(PROJECT), str(PROJECT.parents[1])]

from mask_rcnn_ext import argument_parser, launch, run_as_command, run_job  # noqa: E402

# isort: split
import dice_mask  # noqa: E402, F401 - registers the head, also in the processes of --num-gpus

if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    sys.exit(run_as_command(lambda: launch(run_job, arguments)))
