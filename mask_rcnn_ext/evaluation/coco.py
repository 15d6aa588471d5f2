"""COCO evaluation that always reports every task it was asked for."""

from collections import OrderedDict
from typing import Any

import numpy as np
from detectron2.evaluation import COCOEvaluator

__all__ = ["MaskRCNNCOCOEvaluator"]


class MaskRCNNCOCOEvaluator(COCOEvaluator):
    """detectron2's `COCOEvaluator`, for models that may detect nothing yet.

    Departs from it in two things. With no detection at all, AP is 0 in every task that was asked
    for (detectron2 reports NaN), so that a curve over training has a point there. The recall of
    proposals is that of images with names for ids, such as PASCAL VOC's, too: detectron2 asks
    pycocotools for the objects of image "000005", which looks for images "0", "0", ..., and the
    recall of no object is NaN.
    """

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        find = self._coco_api.getAnnIds
        self._coco_api.getAnnIds = lambda imgIds: find(imgIds=[imgIds])
        try:
            super()._eval_box_proposals(predictions)
        finally:
            del self._coco_api.getAnnIds  # the method of its class is there again

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: Any = None) -> None:
        super()._eval_predictions(predictions, img_ids=img_ids)
        if any(prediction["instances"] for prediction in predictions if "instances" in prediction):
            return
        for task, metrics in self._results.items():
            self._results[task] = OrderedDict(
                (name, 0.0 if np.isnan(value) else value) for name, value in metrics.items()
            )
