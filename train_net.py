#!/usr/bin/env python
"""Train or evaluate a model from a config, with detectron2's command line."""

import argparse
import sys
import time

from mask_rcnn_ext.engine.launch import launch, run_as_command
from mask_rcnn_ext.engine.setup import argument_parser, prepared_run

_EPILOG = r"""
Examples:

  python train_net.py --num-gpus 8 --config-file configs/mask_rcnn_R50_FPN.yaml

  python train_net.py --config-file configs/shapes/mask_rcnn_tiny_FPN.yaml \
      --train-json train.json --train-images images --val-json val.json --val-images images

  python train_net.py --config-file output/run/config.yaml --eval-only \
      MODEL.WEIGHTS output/run/model_final.pth
"""


def main(args: argparse.Namespace) -> None:
    """Run one process of the job."""
    # Imported late: --help needs no trainer.
    from detectron2.utils import comm

    from mask_rcnn_ext.engine.checkpoint import Checkpointer
    from mask_rcnn_ext.engine.precision import prepare_model
    from mask_rcnn_ext.engine.run_record import earlier_train_seconds, write_results
    from mask_rcnn_ext.engine.trainer import Trainer

    with prepared_run(args) as cfg:
        if args.eval_only:
            Trainer.require_ready(cfg, eval_only=True)
            model = prepare_model(cfg, Trainer.build_model(cfg))
            checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
            checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume, strict=True)
        else:
            trainer = Trainer(cfg)
            trainer.resume_or_load(resume=args.resume)
    if not args.eval_only:
        trainer.train()
        return
    start = time.perf_counter()
    results = Trainer.test_all(cfg, model)
    if comm.is_main_process():
        write_results(
            cfg,
            results,
            train_seconds=earlier_train_seconds(cfg.OUTPUT_DIR),
            eval_seconds=time.perf_counter() - start,
            seed=cfg.SEED,
        )


if __name__ == "__main__":
    arguments = argument_parser(_EPILOG).parse_args()
    sys.exit(run_as_command(lambda: launch(main, arguments)))
