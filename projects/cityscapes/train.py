#!/usr/bin/env python
"""Train or evaluate on Cityscapes; takes the arguments of `train_net.py` and two more."""

import argparse
import os
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
sys.path[:0] = [str(PROJECT), str(PROJECT.parents[1])]

from mask_rcnn_ext import (  # noqa: E402
    UserError,
    argument_parser,
    launch,
    load_config,
    run_as_command,
    run_job,
)

# isort: split
from cityscapes_project import (  # noqa: E402
    CityscapesTrainer,
    register_cityscapes,
    require_layout,
    used_splits,
)

ROOT_VARIABLE = "CITYSCAPES_DATASET"  # the official scripts also read it


def parser() -> argparse.ArgumentParser:
    """Return the parser of `train_net.py` with the two arguments of this project."""
    arguments = argument_parser()
    own = arguments.add_argument_group("Cityscapes")
    own.add_argument(
        "--cityscapes",
        default=os.environ.get(ROOT_VARIABLE, ""),
        metavar="DIR",
        help=f"the folder of leftImg8bit and gtFine (default: ${ROOT_VARIABLE})",
    )
    own.add_argument(
        "--coco-weights",
        default="",
        metavar="FILE",
        help="start from this COCO model, .pkl or .pth: 7 classes are copied, rider is random",
    )
    return arguments


def main(args: argparse.Namespace) -> None:
    """Run one process of the job."""
    cfg = load_config(args.config_file, args.opts)
    data = [*([] if args.eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST]
    if splits := used_splits(data):
        if not args.cityscapes:
            raise UserError(
                "the folder of Cityscapes is unknown: give --cityscapes DIR, the folder that "
                f"contains leftImg8bit and gtFine, or set {ROOT_VARIABLE} to it"
            )
        require_layout(args.cityscapes, splits)
        register_cityscapes(args.cityscapes)
    run_job(args, trainer_class=_choose_trainer(args, cfg.OUTPUT_DIR))


def _choose_trainer(args: argparse.Namespace, output_dir: str) -> type[CityscapesTrainer]:
    """Return the class of the trainer; with --coco-weights, also set MODEL.WEIGHTS in `args`."""
    if not args.coco_weights or args.resume:  # a resumed run has its weights
        return CityscapesTrainer
    if args.eval_only or "MODEL.WEIGHTS" in args.opts:
        other = "--eval-only" if args.eval_only else "MODEL.WEIGHTS"
        raise UserError(
            f"--coco-weights sets the weights that training starts from, so it does not go with "
            f"{other}: leave one of the two out"
        )

    class FromCOCO(CityscapesTrainer):
        coco_weights = args.coco_weights

    converted = os.path.join(output_dir, "coco_for_cityscapes.pth")
    args.opts = [*args.opts, "MODEL.WEIGHTS", converted]
    return FromCOCO


if __name__ == "__main__":
    arguments = parser().parse_args()
    sys.exit(run_as_command(lambda: launch(main, arguments)))
