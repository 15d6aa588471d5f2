"""The trainer of mask_rcnn_ext with the evaluation of Cityscapes and a start from COCO weights."""

import os

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from mask_rcnn_ext import MaskRCNNCOCOEvaluator, Trainer, convert_checkpoint

from .evaluation import CityscapesAPEvaluator, SubmissionWriter
from .folder import used_splits

__all__ = ["CityscapesTrainer"]


class CityscapesTrainer(Trainer):
    """`Trainer` for the data sets that `register_cityscapes` registered.

    Attributes:
        coco_weights: a COCO model that is converted to `MODEL.WEIGHTS` before training; "" for
            none. A subclass sets it.
    """

    coco_weights = ""

    def __init__(self, cfg: CfgNode) -> None:
        """Convert the COCO model, then build the trainer.

        Raises:
            UserError: see `convert_checkpoint` and the base class.
        """
        if self.coco_weights and comm.is_main_process():
            convert_checkpoint(self.coco_weights, cfg.MODEL.WEIGHTS)
        comm.synchronize()
        super().__init__(cfg)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """Return evaluators of the official mask AP and COCO's box AP; for test, the file writer.

        Models without masks and other data sets get the evaluators of the base class.
        """
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        splits = used_splits([dataset_name])
        if not splits or not cfg.MODEL.MASK_ON:
            return super().build_evaluator(cfg, dataset_name, folder)
        own_folder = os.path.join(folder, dataset_name)
        if splits == ["test"]:
            return SubmissionWriter(dataset_name, os.path.join(own_folder, "submission"))
        boxes = MaskRCNNCOCOEvaluator(dataset_name, tasks=("bbox",), output_dir=own_folder)
        return DatasetEvaluators([CityscapesAPEvaluator(dataset_name), boxes])
