"""The overlap metrics as a detectron2 evaluator, to run together with COCO's."""

import itertools
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from tabulate import tabulate

from ..errors import UserError, count_noun
from ..files import make_jsonable, write_json
from ..overlap.comparison import (
    METRICS,
    ImageRecord,
    compare,
    compute_metrics,
    load_results,
    load_truth,
    measure,
)
from ..overlap.detections import Detection, Detections, convert_to_rle, keep_rois_of_all
from ..overlap.image_instances import MAX_DETECTIONS
from ..overlap.lines import LINE_METRICS, compare_lines, require_rois, summarize_lines
from .packed import convert_to_coco, takes_packed_masks

__all__ = ["NO_MASKS", "FCISComparisonEvaluator"]

logger = logging.getLogger(__name__)

NO_MASKS = (
    "FCISComparisonEvaluator compares masks, and the model predicts none: set MODEL.MASK_ON True, "
    "or take the evaluator out of MASK_RCNN_EXT.EVALUATORS"
)


class FCISComparisonEvaluator(DatasetEvaluator):
    """Measures a model on overlapping instances and, if asked, compares it with another model.

    The metrics are `comparison.METRICS`: AP by overlap level, Boundary AP, and the errors where
    objects meet, which the Mask R-CNN paper (arXiv:1703.06870, Figure 6) shows for FCIS. Put this
    evaluator next to detectron2's `COCOEvaluator` in `DatasetEvaluators`: their tasks have
    different names, and only `COCOEvaluator` reports the mask AP of all objects ("segm"). In a
    distributed evaluation each process sees a share of the images; the first process gathers all
    detections and measures.

    Args:
        dataset_name: a registered data set with masks. If it has no COCO json, one is written to
            `output_dir`, as by `COCOEvaluator`.
        output_dir: folder for `fcis_comparison.json`; None: write no file.
        reference: the result file (`coco_instances_results.json`) of another model on this data
            set. The results then also have the task "against_reference", with this model's number
            minus the other model's for each metric. The file also has the 95 % intervals.
        parts: k of FCIS's k x k parts, to measure same-part errors. The boxes of the instances and
            of the reference must then be the RoIs of their masks. None: not measured.
        max_detections: see `comparison.measure`.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike[str] | None,
        reference: str | os.PathLike[str] | None = None,
        *,
        parts: int | None = None,
        max_detections: int = MAX_DETECTIONS,
    ) -> None:
        """Read the data set and, if given, the reference.

        Raises:
            UserError: see `comparison.load_truth`, `comparison.load_results` and
                `lines.require_rois`.
        """
        self._dataset_name, self._output_dir = dataset_name, output_dir
        self._parts, self._max_detections = parts, max_detections
        metadata = MetadataCatalog.get(dataset_name)
        if not metadata.get("json_file"):
            if output_dir is None:
                raise UserError(
                    f"data set {dataset_name} has no COCO json: give an output_dir to write it to"
                )
            path = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            convert_to_coco_json(dataset_name, path, allow_cached=not comm.is_main_process())
            metadata.json_file = path
        self._truth = load_truth(metadata.json_file)
        to_contiguous = metadata.get("thing_dataset_id_to_contiguous_id", {})
        self._category_ids = {index: category for category, index in to_contiguous.items()}
        self._reference: Detections | None = None
        if reference is not None:
            self._reference = load_results(reference, self._truth, with_boxes=parts is not None)
            if parts is not None:
                require_rois(self._reference, str(reference))
        self._found: Detections = {}

    def reset(self) -> None:
        """Forget all detections."""
        self._found = {}

    @takes_packed_masks
    def process(self, inputs: Sequence[dict[str, Any]], outputs: Sequence[dict[str, Any]]) -> None:
        """Take the `instances` of a model: `pred_masks` in pixels of the original image, or packed.

        Raises:
            UserError: the instances have no masks.
        """
        for image, output in zip(inputs, outputs, strict=True):
            self._found[image["image_id"]] = self._convert(output["instances"])

    def _convert(self, instances: Instances) -> list[Detection]:
        fields = instances.to("cpu").get_fields()
        if "pred_masks" not in fields:
            raise UserError(NO_MASKS)
        names = ("pred_boxes", "scores", "pred_classes", "pred_masks")
        kept = Instances(instances.image_size, **{name: fields[name] for name in names})
        return [
            Detection(
                category_id=self._find_category(entry["category_id"]),
                score=float(entry["score"]),
                mask=convert_to_rle(entry["segmentation"], *instances.image_size),
                box=tuple(entry["bbox"]),
            )
            for entry in convert_to_coco(kept, 0)
        ]

    def _find_category(self, label: int) -> Any:
        """Return the category id of a class; a text that `evaluate` refuses if there is none."""
        known = self._category_ids or {category: category for category in self._truth.cats}
        return known.get(label, f"class {label}")

    def _require_known_classes(self, detections: Detections) -> None:
        """Raise if a detection has a class that the data set lacks: it would count for nothing."""
        known = self._truth.cats
        for found in detections.values():
            for each in found:
                if each.category_id not in known:
                    raise UserError(
                        f"data set {self._dataset_name} has {count_noun(len(known), 'class')}, but "
                        f"the model has predicted {each.category_id}. Evaluate a model that has "
                        "the classes of the data set"
                    )

    def _measure(self, model: Detections) -> list[ImageRecord]:
        limit = self._max_detections
        return measure(self._truth, model, max_detections=limit, lines=True, parts=self._parts)

    def evaluate(self) -> dict[str, Any]:
        """Return task -> metric -> number in the first process, {} in the others.

        Raises:
            UserError: the file cannot be written, or the data set lacks a class of a detection.
        """
        gathered = comm.gather(self._found, dst=0)
        if not comm.is_main_process():
            return {}
        # With more processes than images, several processes may see the same image.
        detections = dict(itertools.chain.from_iterable(found.items() for found in gathered))
        self._require_known_classes(detections)
        models = [detections] if self._reference is None else [detections, self._reference]
        if self._parts is None:
            models = list(keep_rois_of_all(*models))
        measured = [self._measure(model) for model in models]
        metrics = compute_metrics(measured[0])
        content: dict[str, Any] = {"dataset": self._dataset_name, "metrics": metrics}
        results: dict[str, Any] = OrderedDict(
            (task, metrics[task]) for task in ("boundary", "overlap", "overlap_same", "errors")
        )
        lines = [[r.lines for r in found if r.lines is not None] for found in measured]
        content |= {"parts": self._parts, "lines": summarize_lines(lines[0])}
        results["lines"] = {
            name.replace("/", "_"): math.nan if entry["value"] is None else entry["value"]
            for name, entry in content["lines"].items()
        }
        if self._reference is None:
            columns = ["value"]
            rows = {
                f"{task}/{name}": [value]
                for task, values in metrics.items()
                for name, value in values.items()
            }
        else:
            compared = compare(*measured)
            content["lines"] = compare_lines(*lines)
            content["against_reference"] = compared
            results["against_reference"] = {
                name.replace("/", "_"): entry["difference"] for name, entry in compared.items()
            }
            columns = ["this model", "reference", "difference", "95 % interval from", "to"]
            rows = {name: list(entry.values()) for name, entry in compared.items()}
        logger.info("Overlap metrics of %s:\n%s", self._dataset_name, _format_table(columns, rows))
        logger.info("Lines of %s:\n%s", self._dataset_name, _format_lines(content["lines"]))
        if self._output_dir is not None:
            write_json(os.path.join(self._output_dir, "fcis_comparison.json"), content)
        return results


def _format_lines(lines: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the numbers of `summarize_lines` or `compare_lines` as text, with their meaning."""
    columns = ("this model", "reference", "ratio or difference")
    rows = []
    for name, entry in lines.items():
        entries = [entry] if "value" in entry else list(entry.values())
        texts = [_format_entry(e) for e in entries]
        rows.append((LINE_METRICS[name].label, LINE_METRICS[name].unit, *texts))
    table = tabulate(rows, ["metric", "unit", *columns[: len(rows[0]) - 2]], missingval="-")
    explained = [
        LINE_METRICS[name] for name in lines if name.endswith(("excess", "one_class/difference"))
    ]
    return "\n".join([table, *(f"{metric.label}: {metric.meaning}" for metric in explained)])


def _format_entry(entry: Mapping[str, float | None]) -> str:
    """Return a number with its interval in brackets; "-" for None."""
    ends = ["-" if entry[end] is None else f"{entry[end]:.2f}" for end in ("value", "low", "high")]
    return "-" if entry["value"] is None else f"{ends[0]} [{ends[1]}, {ends[2]}]"


def _format_table(columns: list[str], rows: dict[str, list[float]]) -> str:
    """Return the numbers of each metric as text; "-" for NaN."""
    cells = [
        (METRICS[name].label, METRICS[name].unit, *make_jsonable(rows[name])) for name in METRICS
    ]
    return tabulate(cells, ["metric", "unit", *columns], floatfmt=".2f", missingval="-")
