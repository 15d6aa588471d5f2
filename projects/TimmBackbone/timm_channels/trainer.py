"""The trainer of mask_rcnn_ext, reading images with `ChannelsMapper`."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader

from mask_rcnn_ext.data.train_loader import TrainLoader
from mask_rcnn_ext.engine.trainer import Trainer

from .channels import ChannelsMapper

__all__ = ["ChannelsTrainer"]


class ChannelsTrainer(Trainer):
    """`Trainer` for data sets that `register_channels` registered."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, seed: int | None = None) -> TrainLoader:
        """See :meth:`Trainer.build_train_loader`."""
        loader = super().build_train_loader(cfg, seed)
        loader.dataset.mapper = ChannelsMapper(cfg, is_train=True)
        return loader

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """See :meth:`Trainer.build_test_loader`."""
        mapper = ChannelsMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)
