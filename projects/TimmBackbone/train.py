#!/usr/bin/env python
"""Train or evaluate on images with any number of channels; the arguments are `train_net.py`'s."""

import argparse
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent
sys.path[:0] = [str(PROJECT), str(PROJECT.parents[1])]

from detectron2.utils import comm  # noqa: E402
from timm_channels import ChannelsTrainer, register_shapes  # noqa: E402

from mask_rcnn_ext.engine.checkpoint import Checkpointer  # noqa: E402
from mask_rcnn_ext.engine.launch import launch, run_as_command  # noqa: E402
from mask_rcnn_ext.engine.precision import prepare_model  # noqa: E402
from mask_rcnn_ext.engine.run_record import earlier_train_seconds, write_results  # noqa: E402
from mask_rcnn_ext.engine.setup import argument_parser, prepared_run  # noqa: E402


def main(args: argparse.Namespace) -> None:
    """Run one process of the job."""
    register_shapes()
    with prepared_run(args) as cfg:
        if args.eval_only:
            ChannelsTrainer.require_ready(cfg, eval_only=True)
            model = prepare_model(cfg, ChannelsTrainer.build_model(cfg))
            checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
            checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume, strict=True)
        else:
            trainer = ChannelsTrainer(cfg)
            trainer.resume_or_load(resume=args.resume)
    if not args.eval_only:
        trainer.train()
        return
    start = time.perf_counter()
    results = ChannelsTrainer.test_all(cfg, model)
    if comm.is_main_process():
        write_results(
            cfg,
            results,
            train_seconds=earlier_train_seconds(cfg.OUTPUT_DIR),
            eval_seconds=time.perf_counter() - start,
            seed=cfg.SEED,
        )


if __name__ == "__main__":
    arguments = argument_parser().parse_args()
    sys.exit(run_as_command(lambda: launch(main, arguments)))
