"""Fit R-CNN's second stage, linear SVMs and box regression, to a trained network.

It takes the arguments of train_net.py; MODEL.WEIGHTS is the file of the trained network.
"""

import argparse
import sys
from collections.abc import Sequence

from command_line.light import import_light

_EPILOG = r"""
Section 2.3 and appendices B and C of R-CNN (arXiv:1311.2524): one SVM per class on the box head's
output, with hard negative mining in one pass over the training images, and one ridge regression per
class on the backbone's map. The network does not change. OUTPUT_DIR gets the usual files of a run.

Example, small:

  python train_net.py --config-file configs/shapes/lineage/rcnn_tiny.yaml
  python tools/train_rcnn_svm.py --config-file configs/shapes/lineage/rcnn_tiny_svm.yaml \
      MODEL.WEIGHTS output/lineage/rcnn_tiny/model_final.pth
  python train_net.py --eval-only --config-file output/lineage/rcnn_tiny_svm/config.yaml \
      MODEL.WEIGHTS output/lineage/rcnn_tiny_svm/model_final.pth OUTPUT_DIR output/evaluation
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    return import_light("engine.arguments").make_svm_parser(_EPILOG)


if __name__ == "__main__":
    build_parser().parse_args()  # --help ends here, before the imports below, which take seconds
    import_light("engine.arguments").let_ctrl_c_end()

from mask_rcnn_ext import launch, run_as_command
from mask_rcnn_ext.recipes.rcnn_svm import train_rcnn_svm


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own); return the exit code."""
    args = build_parser().parse_args(argv)
    return run_as_command(lambda: launch(train_rcnn_svm, args))


if __name__ == "__main__":
    sys.exit(main())
