"""The trainer of mask_rcnn_ext, reading images with `ChannelsMapper`."""

from detectron2.config import CfgNode

from mask_rcnn_ext import Trainer

from .channels import ChannelsMapper

__all__ = ["ChannelsTrainer"]


class ChannelsTrainer(Trainer):
    """`Trainer` for data sets that `register_channels` registered."""

    @classmethod
    def build_mapper(cls, cfg: CfgNode, *, is_train: bool) -> ChannelsMapper:
        """See :meth:`Trainer.build_mapper`."""
        return ChannelsMapper(cfg, is_train=is_train)
