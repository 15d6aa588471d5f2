"""Analyzes the predictions of a run on a data set, for `analysis.json` and the report."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from ..files import read_json
from ..overlap.analysis.analysis import Analysis
from ..overlap.analysis.image_pairs import Kind
from ..overlap.analysis.run_analysis import analyze
from .run_data import RunFolder

__all__ = ["analyze_run"]

Predictions = Mapping[Any, Sequence[Mapping[str, Any]]]


def analyze_run(
    run: RunFolder, name: str, predictions: Predictions, threshold: float | None = None
) -> Analysis | None:
    """Return the analysis of a run on a registered data set; None without COCO annotations.

    Images that the run has skipped are left out, as in its results.

    Args:
        run: the run.
        name: the name of the data set in detectron2's catalog.
        predictions: see `read_predictions`.
        threshold: see `analyze`.

    Raises:
        UserError: the annotations or a prediction cannot be read.
    """
    path = _find_annotations(run, name)
    if path is None:
        return None
    content = read_json(path)
    if "annotations" not in content:  # images of a test server
        return None
    content = _leave_out_skipped(run, name, content)
    return analyze(
        content,
        predictions,
        _choose_kind(run, name, content, predictions),
        dataset=name,
        threshold=threshold,
        max_detections=max(100, run.config.TEST.DETECTIONS_PER_IMAGE),
    )


def _leave_out_skipped(run: RunFolder, name: str, content: dict[str, Any]) -> dict[str, Any]:
    root = MetadataCatalog.get(name).get("image_root", "")
    skipped = run.info.get("skipped_images") or {}
    left_out = {
        image["id"]
        for image in content["images"]
        if os.path.join(root, str(image.get("file_name"))) in skipped
    }
    if not left_out:
        return content
    images = [image for image in content["images"] if image["id"] not in left_out]
    objects = [each for each in content["annotations"] if each["image_id"] not in left_out]
    return {**content, "images": images, "annotations": objects}


def _find_annotations(run: RunFolder, name: str) -> Path | None:
    """Return the data set's json, or the one that the evaluation wrote in its place."""
    given = MetadataCatalog.get(name).get("json_file")
    written = run.folder / "inference" / name / f"{name}_coco_format.json"
    paths = [Path(given)] if given else [written]
    return next((path for path in paths if path.is_file()), None)


def _choose_kind(
    run: RunFolder, name: str, content: Mapping[str, Any], predictions: Predictions
) -> Kind:
    """Return "segm" where the model predicts masks and all objects have some, else "bbox"."""
    found = [result for results in predictions.values() for result in results]
    with_masks = "segm" in run.results.get(name, {})
    if found:
        with_masks = all("segmentation" in result for result in found)
    annotated = all(a.get("segmentation") for a in content["annotations"])
    return "segm" if with_masks and annotated else "bbox"
