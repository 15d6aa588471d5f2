"""Train an RPN first, then Mask R-CNN on its stored proposals, as the paper did for its ablations.

It takes the arguments of train_net.py. The files results.json and model_final.pth belong to the
second stage.
"""

import argparse
import sys
from collections.abc import Sequence

from command_line.light import import_light

_EPILOG = r"""
Both stages start from MODEL.WEIGHTS, and features are not shared (section 3.1 of the paper). The
paper does not give the schedule of the first stage; it is the config's own, unless --rpn-opts
changes it. In OUTPUT_DIR: rpn/ (a run whose results.json has the recall of the proposals),
proposals/, and the second stage. --resume skips a finished stage and continues the other.

Examples:

  python tools/train_two_stage.py --num-gpus 8 --config-file configs/mask_rcnn_R50_FPN.yaml

  python tools/train_two_stage.py --config-file configs/mask_rcnn_R50_FPN.yaml \
      --rpn-opts "SOLVER.MAX_ITER 40000 SOLVER.STEPS (30000,)" OUTPUT_DIR output/two_stage

Another model on the same proposals, without training the RPN again:

  python train_net.py --config-file configs/mask_rcnn_R50_FPN.yaml MODEL.LOAD_PROPOSALS True \
      MODEL.PROPOSAL_GENERATOR.NAME PrecomputedProposals OUTPUT_DIR output/second \
      DATASETS.PROPOSAL_FILES_TRAIN '("output/two_stage/proposals/coco_2017_train.pkl",)' \
      DATASETS.PROPOSAL_FILES_TEST '("output/two_stage/proposals/coco_2017_val.pkl",)'
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    return import_light("engine.arguments").make_stage_parser(_EPILOG)


if __name__ == "__main__":
    build_parser().parse_args()  # --help ends here, before the imports below, which take seconds
    import_light("engine.arguments").let_ctrl_c_end()

from mask_rcnn_ext import launch, run_as_command
from mask_rcnn_ext.recipes.two_stage import train_two_stages


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    args = build_parser().parse_args(argv)
    return run_as_command(lambda: launch(train_two_stages, args))


if __name__ == "__main__":
    sys.exit(main())
