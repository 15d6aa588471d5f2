"""Train with detectron2's own trainer, for comparison; takes the options of train_net.py."""

import sys

from reproduction.trial.plain_loop import train_plain

from mask_rcnn_ext import argument_parser, run_as_command

if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    sys.exit(run_as_command(lambda: train_plain(arguments)))
