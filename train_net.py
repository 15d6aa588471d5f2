#!/usr/bin/env python
"""Train or evaluate a model from a config, with detectron2's command line."""

import runpy
import sys
from pathlib import Path

# Run by its path: importing it imports detectron2 first, which takes seconds.
_PARSERS = runpy.run_path(str(Path(__file__).parent / "mask_rcnn_ext/engine/arguments.py"))

_EPILOG = r"""
Examples:

  python train_net.py --num-gpus 8 --config-file configs/mask_rcnn_R50_FPN.yaml

  python train_net.py --config-file configs/shapes/mask_rcnn_tiny_FPN.yaml \
      --train-json train.json --train-images images --val-json val.json --val-images images

  python train_net.py --config-file output/run/config.yaml --eval-only \
      MODEL.WEIGHTS output/run/model_final.pth
"""

if __name__ == "__main__":
    # --help ends here, before the import below, which takes seconds.
    arguments = _PARSERS["argument_parser"](_EPILOG).parse_args()
    _PARSERS["let_ctrl_c_end"]()

from mask_rcnn_ext import launch, run_as_command, run_job

if __name__ == "__main__":
    sys.exit(run_as_command(lambda: launch(run_job, arguments)))
