#!/usr/bin/env python
"""Train or evaluate a model from a config, with detectron2's command line.

python train_net.py --config-file configs/mask_rcnn_R50_FPN.yaml
python train_net.py --config-file configs/shapes/mask_rcnn_tiny_FPN.yaml \
        --train-json train.json --train-images images --val-json val.json --val-images images
python train_net.py --config-file output/config.yaml --eval-only MODEL.WEIGHTS
output/model_final.pth
"""

import argparse
import sys
import time

from mask_rcnn_ext.engine.launch import launch, run_as_command
from mask_rcnn_ext.engine.setup import argument_parser, setup

_EPILOG = __doc__.split("\n", 2)[2]


def main(args: argparse.Namespace) -> None:
    """Run one process of the job."""
    # Imported late: --help and a misspelt key need no trainer.
    from detectron2.utils import comm

    from mask_rcnn_ext.engine.checkpoint import Checkpointer
    from mask_rcnn_ext.engine.precision import apply_memory_format
    from mask_rcnn_ext.engine.run_record import write_results
    from mask_rcnn_ext.engine.trainer import Trainer

    cfg = setup(args)
    if not args.eval_only:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
        return
    model = apply_memory_format(cfg, Trainer.build_model(cfg))
    Checkpointer(model, cfg.OUTPUT_DIR).resume_or_load(
        cfg.MODEL.WEIGHTS, resume=args.resume, strict=True
    )
    start = time.perf_counter()
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        seconds = time.perf_counter() - start
        write_results(cfg, results, train_seconds=None, eval_seconds=seconds, seed=cfg.SEED)


if __name__ == "__main__":
    arguments = argument_parser(_EPILOG).parse_args()
    sys.exit(run_as_command(lambda: launch(main, arguments)))
