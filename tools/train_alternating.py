"""Train RPN and detector in turns, in the four steps of Faster R-CNN, until one network has both.

It takes the arguments of train_net.py. The files results.json and model_final.pth belong to the
whole network.
"""

import argparse
import sys
from collections.abc import Sequence

from command_line.light import import_light

_EPILOG = r"""
Section 3.2 of Faster R-CNN (arXiv:1506.01497): (1) the RPN alone and (2) a detector on its
proposals, both from MODEL.WEIGHTS; then, on the fixed features of that detector, (3) a new RPN and
(4) the detector's heads on its proposals. Every step has the config's own SOLVER. In OUTPUT_DIR:
step1_rpn, step2_detector, step3_rpn, step4_detector (each is a run; the RPN's have the proposals),
and the whole network, which needs no stored proposals. --resume skips finished steps, continues an
interrupted one, and makes steps again that depend on a step that has changed.

Examples:

  python tools/train_alternating.py --num-gpus 8 --config-file configs/faster_rcnn_R101_FPN.yaml

  python tools/train_alternating.py --config-file configs/mask_rcnn_R101_C4.yaml \
      --rpn-opts "SOLVER.MAX_ITER 40000 SOLVER.STEPS (30000,)" OUTPUT_DIR output/alternating

  python train_net.py --eval-only --config-file output/alternating/config.yaml \
      MODEL.WEIGHTS output/alternating/model_final.pth OUTPUT_DIR output/evaluation
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    return import_light("engine.arguments").make_stage_parser(
        _EPILOG, rpn="both trainings of the RPN"
    )


if __name__ == "__main__":
    build_parser().parse_args()  # --help ends here, before the imports below, which take seconds
    import_light("engine.arguments").let_ctrl_c_end()

from mask_rcnn_ext import launch, run_as_command
from mask_rcnn_ext.recipes.alternating import train_alternating


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    args = build_parser().parse_args(argv)
    return run_as_command(lambda: launch(train_alternating, args))


if __name__ == "__main__":
    sys.exit(main())
