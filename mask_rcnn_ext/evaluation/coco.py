"""COCO evaluation that reports every requested task, also for a model that detects nothing."""

from collections import OrderedDict
from typing import Any

import numpy as np
from detectron2.evaluation import COCOEvaluator

from ..data.keypoints import NUM_COCO_KEYPOINTS, complete_true_keypoints

__all__ = ["MaskRCNNCOCOEvaluator"]


class MaskRCNNCOCOEvaluator(COCOEvaluator):
    """detectron2's `COCOEvaluator` with three differences.

    - Without any detection, AP is 0 in every requested task, so that a curve over training has a
      point there. detectron2 reports NaN.
    - The recall of proposals also works for images whose ids are strings, such as PASCAL VOC's.
      detectron2 asks pycocotools for the objects of image "000005". pycocotools takes the string
      for a list of ids and finds no object, and the recall of no object is NaN.
    - In the evaluation of keypoints, objects may lack them: detections there do not count.
      pycocotools fails with a `KeyError`.

    Raises:
        UserError: the objects of the data set have another number of keypoints than the model.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """See :meth:`COCOEvaluator.__init__`; the keypoints of the data set are completed."""
        super().__init__(*args, **kwargs)
        if self._do_evaluation and "keypoints" in (self._tasks or ()):
            num_keypoints = len(self._kpt_oks_sigmas) or NUM_COCO_KEYPOINTS
            complete_true_keypoints(self._coco_api.anns.values(), num_keypoints)

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        find = self._coco_api.getAnnIds
        self._coco_api.getAnnIds = lambda imgIds: find(imgIds=[imgIds])
        try:
            super()._eval_box_proposals(predictions)
        finally:
            del self._coco_api.getAnnIds  # brings back the method of the class

    def _eval_predictions(self, predictions: list[dict[str, Any]], img_ids: Any = None) -> None:
        super()._eval_predictions(predictions, img_ids=img_ids)
        if any(prediction["instances"] for prediction in predictions if "instances" in prediction):
            return
        for task, metrics in self._results.items():
            self._results[task] = OrderedDict(
                (name, 0.0 if np.isnan(value) else value) for name, value in metrics.items()
            )
