"""The FCIS experiment: measures, for each training, the effect of FCIS's k x k parts.

configs/shapes/Base-Nested.yaml has the question and the predictions.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from pycocotools.coco import COCO

from mask_rcnn_ext.overlap.image_instances import ImageInstances, read_image_instances
from mask_rcnn_ext.overlap.intervals import describe_draws
from mask_rcnn_ext.overlap.same_part import (
    SamePartRecord,
    draw_same_part,
    measure_part_share,
    measure_same_part,
)
from mask_rcnn_ext.report.json_records import from_json
from mask_rcnn_ext.report.run_data import read_history

from ..run_entries import describe_run
from ..training_runs import TrainingRun, plan_runs
from .axis_records import AxisRecord, draw_axis_runs, measure_axis_runs
from .contrasts import compare_axis_runs, compare_same_part
from .detection_records import DetectionRecord, measure_detections, summarize_detections
from .given_boxes import load_dataset, load_measured, predict_in_true_boxes
from .own_proposals import predict_with_own_proposals
from .run_measurement import RunMeasurement

__all__ = [
    "EXPERIMENT_MODELS",
    "MEASURED_PARTS",
    "Measurement",
    "NestedRun",
    "RunRecords",
    "collect",
    "find_nested",
    "measure_data",
    "plan_experiment",
]

# Variant, the stem of its yaml in configs/shapes -> the model's name and its number of trainings.
EXPERIMENT_MODELS = {
    "mask_rcnn_tiny_nested": ("Mask R-CNN", 3),
    "fcis_tiny_nested_k7": ("FCIS, k = 7", 3),
    "fcis_tiny_nested_k3": ("FCIS, k = 3", 3),
    "fcis_tiny_nested_k1": ("FCIS, k = 1", 1),
}
MEASURED_PARTS = (7, 3)  # k at which every model is measured


class NestedRun(TrainingRun):
    """One training run of the experiment."""

    @property
    def measured_files(self) -> list[Path]:
        """See `TrainingRun`; the measurements have files of their own."""
        names = ("results.json", "metrics.json", "nested.json", "nested_changes.json")
        return [path for name in names if (path := self.folder / name).is_file()]


@dataclasses.dataclass(frozen=True)
class RunRecords:
    """The measurements of one run, one record for each image.

    Attributes:
        same_part: k -> same-part errors of the masks in the true boxes.
        axis: axis runs of these masks.
        own: the masks in the model's own proposals; before mask voting, for FCIS.
        own_axis: axis runs of the matched ones.
        voted: the masks after mask voting; none for Mask R-CNN.
    """

    same_part: dict[int, list[SamePartRecord]]
    axis: list[AxisRecord]
    own: list[DetectionRecord]
    own_axis: list[AxisRecord]
    voted: list[DetectionRecord]


class Measurement(RunMeasurement):
    """Measures the masks of a finished run, and writes `nested.json` into its folder.

    They are measured in the true boxes and in the model's own proposals.
    """

    file_name, format = "nested.json", 2

    def make(self, resume: bool) -> None:
        """See `Step`."""
        cfg, model, truth, dataset = load_measured(self.run.folder)
        content: dict[str, Any] = {"axis": []}
        content |= {f"same_part_{k}": [] for k in MEASURED_PARTS}
        for masks in predict_in_true_boxes(cfg, model, truth, dataset):
            for k in MEASURED_PARTS:
                record = measure_same_part(masks.instances, masks.predictions, k=k)
                content[f"same_part_{k}"].append(record)
            axis = measure_axis_runs(
                masks.instances.image_id, masks.soft, threshold=masks.threshold
            )
            content["axis"].append(axis)
        self.write(content | self._measure_own(cfg, model, truth, dataset))

    @staticmethod
    def _measure_own(cfg: CfgNode, model: Any, truth: COCO, dataset: str) -> dict[str, Any]:
        """Return the records of the masks in the model's own proposals."""
        content: dict[str, Any] = {"own": [], "own_axis": [], "voted": []}
        for masks in predict_with_own_proposals(cfg, model, truth, dataset):
            instances = masks.instances
            matched = list(instances.match().values())
            axis = measure_axis_runs(
                instances.image_id, masks.soft[matched], threshold=masks.threshold
            )
            content["own"].append(measure_detections(instances, MEASURED_PARTS, masks.voted))
            content["own_axis"].append(axis)
            if masks.voted is not None:
                voted = measure_detections(masks.voted.instances, MEASURED_PARTS, masks.voted)
                content["voted"].append(voted)
        return content

    def read(self) -> RunRecords:
        """Return the records."""
        content = json.loads(self.record.read_text())
        return RunRecords(
            same_part={
                k: from_json(list[SamePartRecord], content[f"same_part_{k}"])
                for k in MEASURED_PARTS
            },
            axis=from_json(list[AxisRecord], content["axis"]),
            own=from_json(list[DetectionRecord], content["own"]),
            own_axis=from_json(list[AxisRecord], content["own_axis"]),
            voted=from_json(list[DetectionRecord], content["voted"]),
        )


def plan_experiment(root: str | Path, seeds: int) -> list[NestedRun]:
    """Return the runs in the order of work: each variant with seed 1, then with seed 2, ...

    Args:
        root: the folder of all runs.
        seeds: most trainings of each variant.

    Raises:
        UserError: see `plan_runs`.
    """
    runs = plan_runs(NestedRun, root, EXPERIMENT_MODELS, seeds)
    return [run for run in runs if run.seed <= EXPERIMENT_MODELS[run.variant][1]]


def measure_data(dataset: str) -> dict[str, dict[str, float]]:
    """Return what share of the common area of two boxes is read from one part, in percent.

    Args:
        dataset: a registered data set with a COCO json.

    Returns:
        "one_class" and "two_classes" -> "k = 7" and "k = 3" -> the share, over all nested pairs:
        at least 90 % of the smaller box lies in the larger one.
    """
    truth = load_dataset(dataset)
    sums: dict[str, dict[str, list[float]]] = {
        pair: {f"k = {k}": [0.0, 0.0] for k in MEASURED_PARTS}
        for pair in ("one_class", "two_classes")
    }
    for image_id in truth.imgs:
        instances = read_image_instances(truth, image_id, {})
        for i, j in find_nested(instances):
            one = instances.classes[i] == instances.classes[j]
            for k in MEASURED_PARTS:
                same, common = measure_part_share(instances.boxes[i], instances.boxes[j], k)
                total = sums["one_class" if one else "two_classes"][f"k = {k}"]
                total[0], total[1] = total[0] + same, total[1] + common
    return {
        pair: {k: round(float(100 * same / common), 1) for k, (same, common) in shares.items()}
        for pair, shares in sums.items()
    }


def find_nested(instances: ImageInstances) -> list[tuple[int, int]]:
    """Return the pairs of objects in which 90 % or more of the smaller box lies in the larger."""
    boxes = instances.boxes
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    common = instances.common_boxes
    shared = np.clip(common[..., 2:] - common[..., :2], 0, None).prod(axis=2)
    nested = instances.touching & (shared >= 0.9 * np.minimum(areas[:, None], areas[None]))
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(nested))]


def collect(runs: Sequence[NestedRun], say: Callable[[str], object] = print) -> dict[str, Any]:
    """Return the results of the experiment, ready for json.

    Args:
        runs: finished and measured runs.
        say: called with a line about each model.

    Returns:
        "part_shares", see `measure_data`, and "models" -> variant -> the numbers of a model:
        "same_part", "axis" and "places" of the masks in the true boxes; "own_proposals" -> the
        same of the detections that are matched with objects, before mask voting, and the rest of
        `summarize_detections`; "voted" -> `summarize_detections` after mask voting, None for Mask
        R-CNN; "runs". "contrasts" -> "same_part" and "axis", see `compare_same_part` and
        `compare_axis_runs`.
    """
    models = {}
    same_part: dict[str, dict[int, list[list[SamePartRecord]]]] = {}
    axis_runs: dict[str, list[list[AxisRecord]]] = {}
    for variant, (name, _) in EXPERIMENT_MODELS.items():
        own = [run for run in runs if run.variant == variant]
        if not own:
            continue
        say(f"{name}: {len(own)} trainings")
        records = [Measurement(run).read() for run in own]
        same_part[variant] = {k: [r.same_part[k] for r in records] for k in MEASURED_PARTS}
        axis_runs[variant] = [r.axis for r in records]
        models[variant] = {
            "name": name,
            "same_part": {
                f"k = {k}": describe_draws(draw_same_part(same_part[variant][k]))
                for k in MEASURED_PARTS
            },
            **_summarize_lines(axis_runs[variant]),
            "own_proposals": {
                **summarize_detections([r.own for r in records]),
                **_summarize_lines([r.own_axis for r in records]),
            },
            "voted": summarize_detections([r.voted for r in records]) if records[0].voted else None,
            "runs": [
                {
                    **dataclasses.asdict(
                        describe_run(run, ("bbox", "segm"), ("AP", "AP50", "AP75"))
                    ),
                    "evaluations": _read_evaluations(run),
                }
                for run in own
            ],
        }
    splits = ("train", "val")
    return {
        "part_shares": {split: measure_data(f"nested_shapes_{split}") for split in splits},
        "models": models,
        "contrasts": {
            "same_part": compare_same_part(same_part),
            "axis": compare_axis_runs(axis_runs),
        },
    }


def _read_evaluations(run: NestedRun) -> list[dict[str, float]]:
    """Return the AP of each evaluation during a training: "iteration", "bbox" and "segm"."""
    history = read_history(run.folder / "metrics.json", [])
    found: dict[int, dict[str, float]] = {}
    last = run.config().SOLVER.MAX_ITER  # detectron2 logs the last evaluation at this iteration
    for task in ("bbox", "segm"):
        for iteration, value in zip(*history.get(f"{task}/AP", ([], [])), strict=True):
            found.setdefault(min(iteration + 1, last), {})[task] = value
    return [{"iteration": iteration, **aps} for iteration, aps in sorted(found.items())]


def _summarize_lines(trainings: Sequence[Sequence[AxisRecord]]) -> dict[str, Any]:
    """Return "axis", see `draw_axis_runs`, and "places", summed over images and trainings."""
    places = np.sum([record.places for records in trainings for record in records], axis=0)
    return {
        "axis": describe_draws(draw_axis_runs(trainings)),
        "places": [int(place) for place in places],
    }
