"""detectron2's own trainer with the same model, data and order of images as ours, in float32."""

import argparse
import time
from collections import OrderedDict

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.solver.build import get_default_optimizer_params
from torch import nn

from mask_rcnn_ext.engine.results import write_results
from mask_rcnn_ext.engine.run import prepare_run

__all__ = ["PlainTrainer", "train_plain"]


class PlainTrainer(DefaultTrainer):
    """detectron2's `DefaultTrainer` with AdamW, and with images in the order of `cfg.SEED`.

    Everything else is detectron2's: the loader, whose augmentations draw from the same random
    stream as the model, the loop in float32, the checkpoints and the hooks.
    """

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """Return PyTorch's AdamW with its defaults and detectron2's groups of parameters."""
        groups = get_default_optimizer_params(
            model, base_lr=cfg.SOLVER.BASE_LR, weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM
        )
        return torch.optim.AdamW(
            groups, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY
        )

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> object:
        """Return detectron2's loader; its sampler takes the seed of the config, as ours does."""
        (name,) = cfg.DATASETS.TRAIN
        count = len(filter_images_with_only_crowd_annotations(DatasetCatalog.get(name)))
        return build_detection_train_loader(cfg, sampler=TrainingSampler(count, seed=cfg.SEED))

    def build_hooks(self) -> list[HookBase]:
        """Return detectron2's hooks without evaluation, since its time is measured separately."""
        return [hook for hook in super().build_hooks() if not isinstance(hook, hooks.EvalHook)]


def train_plain(args: argparse.Namespace) -> None:
    """Train and evaluate with detectron2 in this process; write `results.json` as ours does.

    Args:
        args: the arguments of `train_net.py`, with own data.
    """
    with prepare_run(args) as cfg:
        pass
    trainer = PlainTrainer(cfg)  # not above: it opens metrics.json, which an earlier run may have
    start = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    (name,) = cfg.DATASETS.TEST
    evaluator = COCOEvaluator(name, tasks=("bbox", "segm"), output_dir=None)
    loader = build_detection_test_loader(cfg, name)
    results: OrderedDict = inference_on_dataset(trainer.model, loader, evaluator)
    write_results(
        cfg,
        results,
        train_seconds=trained - start,
        eval_seconds=time.perf_counter() - trained,
        seed=cfg.SEED,
    )
