"""The FCIS experiment: what the k x k parts of FCIS do to nested objects, measured per training.

configs/shapes/Base-Nested.yaml says what is asked, and has the predictions.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog

from mask_rcnn_ext.data.catalog import find_truth
from mask_rcnn_ext.files import file_sha256, make_jsonable, read_json_or_none, write_json
from mask_rcnn_ext.overlap.axis_runs import AxisRecord, measure_axis_runs, summarize_axis_runs
from mask_rcnn_ext.overlap.detections import load_truth
from mask_rcnn_ext.overlap.image_instances import ImageInstances, read_image_instances
from mask_rcnn_ext.overlap.same_part import (
    SamePartRecord,
    measure_part_share,
    measure_same_part,
    summarize_same_part,
)
from mask_rcnn_ext.report.run_data import read_history
from mask_rcnn_ext.steps import Step

from ..run_entries import describe_run
from ..training_runs import TrainingRun
from .contrasts import compare_axis_runs, compare_same_part
from .given_boxes import load_trained, predict_in_true_boxes

__all__ = [
    "MODELS",
    "PARTS",
    "Measurement",
    "NestedRun",
    "collect",
    "find_nested",
    "measure_data",
    "plan_experiment",
]

# Variant, the stem of its yaml in configs/shapes -> the model's name and its number of trainings.
MODELS = {
    "mask_rcnn_tiny_nested": ("Mask R-CNN", 3),
    "fcis_tiny_nested_k7": ("FCIS, k = 7", 3),
    "fcis_tiny_nested_k3": ("FCIS, k = 3", 3),
    "fcis_tiny_nested_k1": ("FCIS, k = 1", 1),
}
PARTS = (7, 3)  # k at which every model is measured


class NestedRun(TrainingRun):
    """One training run of the experiment."""

    @property
    def measured_files(self) -> list[Path]:
        """See `TrainingRun`; the measurement has a file of its own."""
        return [self.folder / name for name in ("results.json", "metrics.json", "nested.json")]


class Measurement(Step):
    """The masks of a finished run in the true boxes, measured, in `nested.json` of its folder."""

    def __init__(self, run: NestedRun) -> None:
        file = run.folder / "nested.json"
        super().__init__(f"{run.title} measured", file, [file])
        self.run = run

    def find_recipe(self) -> dict[str, Any]:
        """See `Step`."""
        weights = self.run.folder / "model_final.pth"
        return {"weights_sha256": file_sha256(str(weights)) if weights.is_file() else None}

    def read_record(self) -> dict[str, Any] | None:
        """See `Step`; the file holds the measurement too."""
        content = read_json_or_none(str(self.record))
        return {"weights_sha256": content.get("weights_sha256")} if content else None

    def make(self, resume: bool) -> None:
        """See `Step`."""
        cfg, model = load_trained(self.run.folder)
        (dataset,) = cfg.DATASETS.TEST
        truth = load_truth(find_truth(dataset)[0])
        content: dict[str, Any] = {**self.find_recipe(), "axis": []}
        content |= {f"same_part_{k}": [] for k in PARTS}
        for masks in predict_in_true_boxes(cfg, model, truth, dataset):
            for k in PARTS:
                record = measure_same_part(masks.instances, masks.predictions, k=k)
                content[f"same_part_{k}"].append(dataclasses.asdict(record))
            axis = measure_axis_runs(
                masks.instances.image_id, masks.soft, threshold=masks.threshold
            )
            content["axis"].append(dataclasses.asdict(axis))
        write_json(str(self.record), make_jsonable(content))

    def finish(self) -> None:
        """See `Step`; `make` has written the record."""

    def read(self) -> tuple[dict[int, list[SamePartRecord]], list[AxisRecord]]:
        """Return the records: k -> same-part errors, and the axis runs."""
        content = json.loads(self.record.read_text())
        same = {k: [SamePartRecord(**r) for r in content[f"same_part_{k}"]] for k in PARTS}
        axis = [AxisRecord(**{**r, "places": np.array(r["places"])}) for r in content["axis"]]
        return same, axis


def plan_experiment(root: str | Path, seeds: int) -> list[NestedRun]:
    """Return the runs in the order of work: each variant with seed 1, then with seed 2, ...

    Args:
        root: the folder of all runs.
        seeds: most trainings of each variant.
    """
    return [
        NestedRun.under(root, variant, seed)
        for seed in range(1, seeds + 1)
        for variant, (_, trainings) in MODELS.items()
        if seed <= trainings
    ]


def measure_data(dataset: str) -> dict[str, dict[str, float]]:
    """Return what share of the common area of two boxes is read from one part, in percent.

    Args:
        dataset: a registered data set with a COCO json.

    Returns:
        "one_class" and "two_classes" -> "k = 7" and "k = 3" -> the share, over all pairs of objects
        whose smaller box lies in the larger one, at least 90 % of it: the nested pairs.
    """
    DatasetCatalog.get(dataset)  # draws an embedded data set
    truth = load_truth(find_truth(dataset)[0])
    sums: dict[str, dict[str, list[float]]] = {
        pair: {f"k = {k}": [0.0, 0.0] for k in PARTS} for pair in ("one_class", "two_classes")
    }
    for image_id in truth.imgs:
        instances = read_image_instances(truth, image_id, {})
        for i, j in find_nested(instances):
            one = instances.classes[i] == instances.classes[j]
            for k in PARTS:
                same, common = measure_part_share(instances.boxes[i], instances.boxes[j], k)
                total = sums["one_class" if one else "two_classes"][f"k = {k}"]
                total[0], total[1] = total[0] + same, total[1] + common
    return {
        pair: {k: round(float(100 * same / common), 1) for k, (same, common) in shares.items()}
        for pair, shares in sums.items()
    }


def find_nested(instances: ImageInstances) -> list[tuple[int, int]]:
    """Return the pairs of objects whose smaller box lies in the larger one, at least 90 % of it."""
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
    """
    models = {}
    same_part: dict[str, dict[int, list[list[SamePartRecord]]]] = {}
    axis_runs: dict[str, list[list[AxisRecord]]] = {}
    for variant, (name, _) in MODELS.items():
        own = [run for run in runs if run.variant == variant]
        if not own:
            continue
        say(f"{name}: {len(own)} trainings")
        records = [Measurement(run).read() for run in own]
        same_part[variant] = {k: [same[k] for same, _ in records] for k in PARTS}
        axis = axis_runs[variant] = [found for _, found in records]
        places = np.sum([record.places for found in axis for record in found], axis=0)
        models[variant] = {
            "name": name,
            "same_part": {f"k = {k}": summarize_same_part(same_part[variant][k]) for k in PARTS},
            "axis": summarize_axis_runs(axis),
            "places": [int(place) for place in places],
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
    for task in ("bbox", "segm"):
        for iteration, value in zip(*history.get(f"{task}/AP", ([], [])), strict=True):
            found.setdefault(iteration + 1, {})[task] = value
    return [{"iteration": iteration, **aps} for iteration, aps in sorted(found.items())]
