"""COCO evaluation that reports every requested task, for ids of any size and kind."""

import contextlib
import io
import itertools
import logging
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets, _evaluate_predictions_on_coco
from detectron2.utils import comm
from pycocotools.cocoeval import COCOeval

from ..data.keypoints import NUM_COCO_KEYPOINTS, complete_true_keypoints
from ..errors import UserError, name_some, say_have
from ..files import atomic_open
from ..overlap.numbered_coco import NumberedCOCO
from .compiled_coco import evaluate_compiled, find_compiled_version, pause_garbage_collection
from .packed import convert_to_coco, takes_packed_masks
from .plain_predictions import PackedDetections, save_plain_predictions, save_results

__all__ = ["MaskRCNNCOCOEvaluator"]

logger = logging.getLogger(__name__)


class MaskRCNNCOCOEvaluator(COCOEvaluator):
    """detectron2's `COCOEvaluator`, whose numbers do not depend on the ids of the data set.

    It always reports the same metrics. A metric is NaN if there are no objects, none of the class,
    or none of the size. If there are objects but no detections, AP is 0, so that a curve over
    training has a point there. detectron2 leaves metrics out, or reports NaN, when a model detects
    nothing.

    Objects may lack keypoints; detections of them then do not count. pycocotools fails with a
    `KeyError`.

    If hotcoco, compiled code, is installed, it computes the same numbers as pycocotools. If it is
    not installed or fails, pycocotools computes them. `use_fast_impl=False` asks for pycocotools
    alone.

    A data set without a json is converted to one, once in each process. detectron2 takes the json
    of an earlier evaluation into the same folder, whose annotations may have changed.

    Objects may also lack `iscrowd` and `area`, see `NumberedCOCO`.

    Raises:
        UserError: the objects of the data set have another number of keypoints than the model, or
            the task is "segm" and objects have no masks.
    """

    _coco_api: Any
    _output_dir: Any
    _tasks: Any

    def __init__(
        self, dataset_name: str, *args: Any, only_processed: bool = False, **kwargs: Any
    ) -> None:
        """See the base class; the keypoints of the data set are completed.

        With `only_processed`, images of the data set that were not given to this evaluator are left
        out of the evaluation. By default they count as images in which nothing was found.
        """
        version = find_compiled_version() if kwargs.get("use_fast_impl", True) else None
        if version:  # keep detectron2 from looking for compiled code of its own
            kwargs["use_fast_impl"] = False
        # A json of an earlier evaluation may be of other annotations. The main process evaluates.
        kwargs.setdefault("allow_cached_coco", not comm.is_main_process())
        super().__init__(dataset_name, *args, **kwargs)
        self._compiled_version = version
        self._only_processed = only_processed
        if self._do_evaluation:
            to_contiguous = self._metadata.get("thing_dataset_id_to_contiguous_id")
            by_class = to_contiguous and sorted(to_contiguous, key=lambda i: to_contiguous[i])
            with pause_garbage_collection():
                file = self._coco_api.dataset
                self._coco_api = NumberedCOCO(file, by_class)
            if "segm" in (self._tasks or ()) and comm.is_main_process():
                self._require_masks(file.get("annotations", []))
            if "keypoints" in (self._tasks or ()):
                num_keypoints = len(self._kpt_oks_sigmas) or NUM_COCO_KEYPOINTS
                complete_true_keypoints(self._coco_api.anns.values(), num_keypoints)
        self._image_numbers: list[int] | None = None
        self._folder = self._output_dir

    def _require_masks(self, annotations: Sequence[dict[str, Any]]) -> None:
        # An empty mask, as for a box alone, counts as a missed object.
        without = [str(each.get("id")) for each in annotations if "segmentation" not in each]
        if without:
            raise UserError(
                f"data set {self._metadata.name}: masks are evaluated, but "
                f"{say_have(without, annotations, 'annotations')} no mask (`segmentation`): "
                f"{name_some(without)}. Add the masks, or evaluate boxes only: MODEL.MASK_ON False"
            )

    @takes_packed_masks
    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """See the base class; `pred_masks` may be `PackedMasks`."""
        for image, output in zip(inputs, outputs, strict=True):
            prediction = {"image_id": image["image_id"]}
            if "instances" in output:
                instances = output["instances"].to(self._cpu_device)
                found = convert_to_coco(instances, image["image_id"])
                prediction["instances"] = PackedDetections(found)
            if "proposals" in output:
                prediction["proposals"] = output["proposals"].to(self._cpu_device)
            if len(prediction) > 1:
                self._predictions.append(prediction)

    def evaluate(self, img_ids: Iterable[Any] | None = None) -> Any:
        """See the base class; without images or annotations, every metric is NaN.

        Raises:
            UserError: with `only_processed`, no image of the data set was given.
        """
        # `_save_predictions` saves what the base class would, but faster.
        self._folder, self._output_dir = self._output_dir, ""
        try:
            with pause_garbage_collection():
                results = super().evaluate(img_ids)
        finally:
            self._output_dir = self._folder
        if results or (self._distributed and not comm.is_main_process()):
            return results
        if self._only_processed and self._coco_api.imgs and not self._predictions:
            raise UserError(
                f"{self._metadata.name}: not one of its {len(self._coco_api.imgs)} image(s) could "
                "be used, so there is nothing to evaluate. Mount the disk with the images, or "
                "correct their folder"
            )
        if any("proposals" in prediction for prediction in self._predictions):
            names = [f"AR{size}@{limit}" for limit in (100, 1000) for size in ("", "s", "m", "l")]
            return OrderedDict(box_proposals=dict.fromkeys(names, math.nan))
        return OrderedDict((task, self._undefined(task)) for task in sorted(self._tasks or ()))

    def _save_predictions(self, predictions: list[dict[str, Any]]) -> None:
        if self._output_dir or not self._folder:
            return
        self._output_dir = self._folder
        path = Path(self._folder, "instances_predictions.pth")
        if any("proposals" in prediction for prediction in predictions):
            plain = [
                {**each, "instances": list(each["instances"])} if "instances" in each else each
                for each in predictions
            ]
            with atomic_open(path, durable=False) as file:
                torch.save(plain, file)
        else:
            save_plain_predictions(path, predictions)

    def _undefined(self, task: str) -> dict[str, float]:
        sizes = ["APm", "APl"] if task == "keypoints" else ["APs", "APm", "APl"]
        classes = self._metadata.get("thing_classes") or []
        by_class = [f"AP-{name}" for name in classes] if len(classes) > 1 else []
        return dict.fromkeys(["AP", "AP50", "AP75", *sizes, *by_class], math.nan)

    def _eval_box_proposals(self, predictions: list[dict[str, Any]]) -> None:
        self._save_predictions(predictions)
        if not self._do_evaluation:
            super()._eval_box_proposals(predictions)
            return
        find, numbers = self._coco_api.getAnnIds, self._coco_api.image_numbers
        self._coco_api.getAnnIds = lambda imgIds: find(imgIds=[numbers[imgIds]])
        try:
            super()._eval_box_proposals(predictions)
        finally:
            del self._coco_api.getAnnIds  # brings back the method of the class

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: Iterable[Any] | None = None
    ) -> None:
        self._save_predictions(predictions)
        self._image_numbers = None
        if self._only_processed:
            img_ids = [prediction["image_id"] for prediction in predictions]
        if img_ids is not None and self._do_evaluation:
            self._image_numbers = [self._coco_api.image_numbers[i] for i in img_ids]
        tasks, printed = self._tasks, io.StringIO()
        if self._do_evaluation and not self._coco_api.anns:  # detectron2 asks for the first object
            self._tasks = [task for task in tasks or ("bbox",) if task != "keypoints"]
        try:
            with contextlib.redirect_stdout(printed):
                if self._do_evaluation and self._compiled_version:
                    self._eval_compiled(predictions)
                else:
                    super()._eval_predictions(predictions, img_ids=self._image_numbers)
            if self._do_evaluation:
                for task in tasks or ():
                    self._results.setdefault(task, self._undefined(task))
        finally:
            self._tasks = tasks
            # pycocotools prints -1 for what it cannot measure.
            with contextlib.suppress(OSError):  # nobody reads it; the results are files
                print(printed.getvalue().replace("= -1.000", "= nan"), end="", flush=True)

    def _eval_compiled(self, predictions: list[dict[str, Any]]) -> None:
        if self._output_dir:
            path = Path(self._output_dir, "coco_instances_results.json")
            logger.info("Saving results to %s", path)
            save_results(path, (found for _, found in self._name_categories(predictions)))
        logger.info("hotcoco %s computes what pycocotools would", self._compiled_version)
        every = itertools.chain.from_iterable(each["instances"] for each in predictions)
        for task in sorted(self._tasks or self._tasks_from_predictions(every)):
            evaluation = self._evaluate_task(task, predictions)
            classes = self._metadata.get("thing_classes")
            self._results[task] = self._derive_coco_results(evaluation, task, classes)

    def _name_categories(
        self, predictions: Iterable[dict[str, Any]]
    ) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
        """Yield the id of each image and its detections, with the category ids of the file."""
        numbers = self._metadata.get("thing_dataset_id_to_contiguous_id")
        ids = numbers and {number: each for each, number in numbers.items()}
        for prediction in predictions:
            found = list(prediction["instances"])
            if ids:
                for each in found:
                    number = each["category_id"]
                    assert number in ids, (
                        f"A prediction has class={number}, but the dataset only has {len(ids)} "
                        f"classes and predicted class id should be in [0, {len(ids) - 1}]."
                    )
                found = [{**each, "category_id": ids[each["category_id"]]} for each in found]
            yield prediction["image_id"], found

    def _evaluate_task(self, task: str, predictions: list[dict[str, Any]]) -> COCOeval | None:
        """Return the summarized evaluation of a task; None: not one detection."""
        evaluation = self._start_evaluation(task, None)
        try:
            named = self._name_categories(predictions)
            evaluate_compiled(named, self._coco_api, task, evaluation)
        except BaseException as error:
            # A panic of Rust is no Exception. Ctrl-C is none either, and has to pass.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            logger.warning(
                "%s: hotcoco %s failed, pycocotools takes over: %r",
                task,
                self._compiled_version,
                error,
            )
            named = self._name_categories(predictions)
            results = [each for _, found in named for each in found]
            if not results:
                return None
            return _evaluate_predictions_on_coco(
                self._coco_api,
                results,
                task,
                self._kpt_oks_sigmas,
                COCOeval,
                self._image_numbers,
                self._max_dets_per_image,
            )
        evaluation.summarize()
        return evaluation

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: Any = None
    ) -> dict[str, float]:
        if coco_eval is None:  # not one detection
            coco_eval = self._start_evaluation(iou_type, self._coco_api.loadRes([]))
            coco_eval.evaluate()
            coco_eval.accumulate()
            coco_eval.summarize()
        results: dict[str, float] = super()._derive_coco_results(coco_eval, iou_type, class_names)
        return results

    def _start_evaluation(self, task: str, found: Any) -> COCOeval:
        """Return pycocotools' evaluation of `found`, a `COCO`, with this evaluator's limits."""
        limits = self._max_dets_per_image
        kind = COCOeval if limits[2] == 100 else COCOevalMaxDets
        evaluation = kind(self._coco_api, found, task)
        if task != "keypoints":
            evaluation.params.maxDets = limits
        elif self._kpt_oks_sigmas:
            evaluation.params.kpt_oks_sigmas = np.array(self._kpt_oks_sigmas)
        if self._image_numbers is not None:
            evaluation.params.imgIds = self._image_numbers
        return evaluation
