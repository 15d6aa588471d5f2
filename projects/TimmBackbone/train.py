#!/usr/bin/env python
"""Train or evaluate with any number of channels; takes the arguments of `train_net.py`."""

import argparse
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
sys.path[:0] = [str(PROJECT), str(PROJECT.parents[1])]

from mask_rcnn_ext import argument_parser, launch, run_as_command, run_job  # noqa: E402

# isort: split
from timm_channels import ChannelsTrainer, register_shapes  # noqa: E402


def main(args: argparse.Namespace) -> None:
    """Run one process of the job."""
    register_shapes()
    run_job(args, trainer_class=ChannelsTrainer)


if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    sys.exit(run_as_command(lambda: launch(main, arguments)))
