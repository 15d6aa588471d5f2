"""The overlap metrics as a detectron2 evaluator, beside COCO's."""

import itertools
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances
from detectron2.utils import comm
from tabulate import tabulate

from ..errors import UserError
from ..files import write_json
from ..overlap.comparison import (
    METRICS,
    compare,
    compute_metrics,
    load_results,
    load_truth,
    measure,
)
from ..overlap.detections import Detection, Detections, convert_to_rle

__all__ = ["FCISComparisonEvaluator"]

logger = logging.getLogger(__name__)


class FCISComparisonEvaluator(DatasetEvaluator):
    """Measures how a model does on overlapping instances, and how another model does beside it.

    The metrics are `comparison.METRICS`: AP by overlap level, Boundary AP, and the errors where
    objects meet, of which FCIS is accused (Mask R-CNN, arXiv:1703.06870, Figure 6). Put it beside
    detectron2's `COCOEvaluator` in a list or in `DatasetEvaluators`: their tasks have other names,
    and the mask AP of all objects, COCO's "segm", is left to that one. The processes of a
    distributed evaluation each see a share of the images; the first one gathers and measures.

    Args:
        dataset_name: a registered data set with masks. One without a COCO json gets it, in
            `output_dir`, as `COCOEvaluator` does it.
        output_dir: `fcis_comparison.json` is written there; None: nothing is.
        reference: another model's result file (`coco_instances_results.json`) on this data set.
            The results then have the task "against_reference": this model's number minus that one's
            for each metric; the file has the 95 % intervals, too.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike[str] | None,
        reference: str | os.PathLike[str] | None = None,
    ) -> None:
        """Read the data set and, if given, the reference.

        Raises:
            UserError: see `comparison.load_truth` and `comparison.load_results`.
        """
        self._dataset_name, self._output_dir = dataset_name, output_dir
        metadata = MetadataCatalog.get(dataset_name)
        if not metadata.get("json_file"):
            if output_dir is None:
                raise UserError(
                    f"data set {dataset_name} has no COCO json: give an output_dir to write it to"
                )
            path = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, path)
            metadata.json_file = path
        self._truth = load_truth(metadata.json_file)
        to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id", {})
        self._category_ids = {index: category for category, index in to_contiguous.items()}
        self._reference = None if reference is None else load_results(reference, self._truth)
        self._found: Detections = {}

    def reset(self) -> None:
        """Forget what was processed."""
        self._found = {}

    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take the `instances` of a model: `pred_masks` in pixels of the original image.

        Raises:
            UserError: the instances have no masks.
        """
        for image, output in zip(inputs, outputs, strict=True):
            self._found[image["image_id"]] = self._detections(output["instances"])

    def _detections(self, instances: Instances) -> list[Detection]:
        fields = instances.to("cpu").get_fields()
        if "pred_masks" not in fields:
            raise UserError(
                "FCISComparisonEvaluator compares masks, and the model predicts none: set "
                "MODEL.MASK_ON True, or take it out of MASK_RCNN_EXT.EVALUATORS"
            )
        kept = {name: fields[name] for name in ("pred_boxes", "scores", "pred_classes")}
        # detectron2 gives each mask to np.array, and NumPy 2 warns of tensors there.
        kept["pred_masks"] = np.asarray(fields["pred_masks"])
        found = instances_to_coco_json(Instances(instances.image_size, **kept), 0)
        return [
            Detection(
                category_id=self._category_ids.get(entry["category_id"], entry["category_id"]),
                score=float(entry["score"]),
                mask=convert_to_rle(entry["segmentation"], *instances.image_size),
            )
            for entry in found
        ]

    def evaluate(self) -> dict[str, Any]:
        """Return task -> metric -> number in the first process, {} in the others.

        Raises:
            UserError: the file cannot be written.
        """
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return {}
        # Several processes may be given one image when there are more of them than images.
        detections = dict(itertools.chain.from_iterable(found.items() for found in gathered))
        records = measure(self._truth, detections)
        summary = compute_metrics(records)
        content: dict[str, Any] = {"dataset": self._dataset_name, "metrics": summary}
        results: dict[str, Any] = OrderedDict(
            (task, summary[task]) for task in ("boundary", "overlap", "overlap_same", "errors")
        )
        numbers = {name: summary[name.split("/")[0]][name.split("/")[1]] for name in METRICS}
        if self._reference is not None:
            compared = compare(records, measure(self._truth, self._reference))
            content["against_reference"] = compared
            results["against_reference"] = {
                name.replace("/", "_"): entry["difference"] for name, entry in compared.items()
            }
            logger.info("Overlap metrics of %s, and of the reference:", self._dataset_name)
            logger.info("\n%s", _comparison_table(compared))
        else:
            logger.info("Overlap metrics of %s:\n%s", self._dataset_name, _table(numbers))
        if self._output_dir is not None:
            write_json(os.path.join(self._output_dir, "fcis_comparison.json"), content)
        return results


def _table(numbers: dict[str, float]) -> str:
    rows = [(METRICS[n].label, METRICS[n].unit, _text(value)) for n, value in numbers.items()]
    return tabulate(rows, headers=["metric", "unit", "value"], disable_numparse=True)


def _comparison_table(compared: dict[str, dict[str, float]]) -> str:
    rows = [
        (
            METRICS[name].label,
            METRICS[name].unit,
            _text(entry["a"]),
            _text(entry["b"]),
            _text(entry["difference"]),
            f"{_text(entry['low'])} to {_text(entry['high'])}",
        )
        for name, entry in compared.items()
    ]
    headers = ["metric", "unit", "this model", "reference", "difference", "95 % interval"]
    return tabulate(rows, headers=headers, disable_numparse=True)


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
