"""What `train_net.py` does in each process: train, or evaluate weights."""

import argparse
import time
from collections.abc import Callable

from detectron2.evaluation import verify_results
from detectron2.utils import comm

from ..checkpoint.checkpointer import Checkpointer
from ..config import ExtCfgNode
from ..modeling.precision import prepare_model
from .hooks import earlier_train_seconds, write_results
from .prepare import prepared_run
from .trainer import Trainer

__all__ = ["run_job"]


def run_job(
    args: argparse.Namespace,
    *,
    trainer_class: type[Trainer] = Trainer,
    add_keys: Callable[[ExtCfgNode], None] | None = None,
) -> None:
    """Run one process of a job; a project's own script calls it as `train_net.py` does.

    Args:
        args: what `engine.setup.argument_parser` parsed.
        trainer_class: a subclass with a mapper, an evaluator, an optimizer... of its own.
        add_keys: declares a project's own config keys on the defaults.

    Raises:
        UserError: see `prepared_run` and `Trainer`.
    """
    with prepared_run(args, add_keys=add_keys) as cfg:
        if args.eval_only:
            trainer_class.require_ready(cfg, eval_only=True)
            model = prepare_model(cfg, trainer_class.build_model(cfg))
            checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
            checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume, strict=True)
        else:
            trainer = trainer_class(cfg)
            trainer.resume_or_load(resume=args.resume)
    if not args.eval_only:
        trainer.train()
        return
    start = time.perf_counter()
    results = trainer_class.test_all(cfg, model)
    if comm.is_main_process():
        write_results(
            cfg,
            results,
            train_seconds=earlier_train_seconds(cfg.OUTPUT_DIR),
            eval_seconds=time.perf_counter() - start,
            seed=cfg.SEED,
        )
        verify_results(cfg, results)  # against TEST.EXPECTED_RESULTS, as after training
