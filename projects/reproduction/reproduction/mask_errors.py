"""Measures the masks of a trained model in the true boxes, by kind of object.

Mask AP also counts objects that are not found and boxes that are wrong. Here the model gets the
boxes and classes of the annotations, so only the error of the mask branch is left.

Shapes: G objects of an image of H x W pixels, masks of M x M cells.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.layers import paste_masks_in_image
from detectron2.structures import BitMasks, Instances
from detectron2.structures.boxes import pairwise_intersection

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.arrays import Bools
from mask_rcnn_ext.data.catalog import require_datasets
from mask_rcnn_ext.data.mapper import ImageMapper
from mask_rcnn_ext.modeling.precision import inference_autocast

__all__ = ["THRESHOLDS", "find_kinds", "mask_ious", "measure_run", "resample_masks"]

THRESHOLDS = (0.4, 0.45, 0.5, 0.55, 0.6)
_SMALL = 32**2  # pixels, as in COCO


def mask_ious(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the IoU of each of G masks, (G, H, W) bool, with its truth: (G,) float32."""
    union = (found | truth).sum((1, 2))
    return (found & truth).sum((1, 2)) / union.clamp(min=1)


def resample_masks(masks: torch.Tensor, side: int) -> torch.Tensor:
    """Return masks as a perfect mask branch draws them: cut to `side` cells and pasted back.

    Args:
        masks: (G, H, W) bool; no mask is empty.
        side: M.
    """
    boxes = BitMasks(masks).get_bounding_boxes()
    cells = BitMasks(masks).crop_and_resize(boxes.tensor, side).float()
    pasted: torch.Tensor = paste_masks_in_image(cells, boxes, masks.shape[1:], threshold=0.5)
    return pasted


def find_kinds(masks: torch.Tensor) -> dict[str, Bools]:
    """Return which of the G objects of an image are small, and which lie apart.

    Args:
        masks: (G, H, W) bool, none of them empty.

    Returns:
        Kind -> (G,). An object is small below 32 x 32 pixels, and apart if its box meets no other.
    """
    small = (masks.sum((1, 2)) < _SMALL).numpy()
    boxes = BitMasks(masks).get_bounding_boxes()
    apart = ((pairwise_intersection(boxes, boxes) > 0).sum(1) == 1).numpy()
    return {
        "small, apart": small & apart,
        "small, boxes overlap": small & ~apart,
        "large, apart": ~small & apart,
        "large, boxes overlap": ~small & ~apart,
    }


def measure_run(folder: Path) -> dict[str, Any]:
    """Measure the masks of a training on its first validation set.

    Args:
        folder: the folder of the run, with `config.yaml`, `results.json` and `model_final.pth`.

    Returns:
        "segm", "bbox": AP of the run's last evaluation. "thresholds": threshold -> mean IoU.
        "kinds" and "classes": a list with "name", "objects", "iou" and "bound", the mean IoU of
        `resample_masks`. All in percent.

    Raises:
        UserError: the folder is not a training's, or its data set is not registered.
    """
    predictor = Predictor(str(folder / "config.yaml"), folder / "model_final.pth")
    name = predictor.cfg.DATASETS.TEST[0]
    require_datasets([name])
    mapper = ImageMapper(predictor.cfg, is_train=False)
    rows = [_measure_image(predictor, mapper, record) for record in DatasetCatalog.get(name)]
    ious, bound, classes = (np.concatenate([row[i] for row in rows], axis=-1) for i in range(3))
    kinds = {kind: np.concatenate([row[3][kind] for row in rows]) for kind in rows[0][3]}
    named = {
        label: classes == index
        for index, label in enumerate(MetadataCatalog.get(name).thing_classes)
    }
    middle = ious[THRESHOLDS.index(0.5)]
    results = json.loads((folder / "results.json").read_text("utf-8"))
    return {
        **{task: results[task]["AP"] for task in ("segm", "bbox")},
        "thresholds": {
            str(threshold): float(100 * values.mean())
            for threshold, values in zip(THRESHOLDS, ious, strict=True)
        },
        "kinds": _summarise({"all": np.ones(len(classes), bool), **kinds}, middle, bound),
        "classes": _summarise(named, middle, bound),
    }


def _summarise(groups: dict[str, Bools], ious: Any, bound: Any) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "objects": int(which.sum()),
            "iou": float(100 * ious[which].mean()),
            "bound": float(100 * bound[which].mean()),
        }
        for name, which in groups.items()
        if which.any()
    ]


def _measure_image(predictor: Predictor, mapper: Any, record: dict[str, Any]) -> Sequence[Any]:
    """Return IoUs, (thresholds, G); those of resampled masks, (G,); classes, (G,); the kinds."""
    size = (record["height"], record["width"])
    objects = annotations_to_instances(record["annotations"], size, mask_format="bitmask")
    truth, classes = objects.gt_masks.tensor, objects.gt_classes
    boxes = BitMasks(truth).get_bounding_boxes()
    inputs = mapper(record)
    given = Instances(tuple(inputs["image"].shape[1:]))
    given.pred_boxes = boxes.clone()
    given.pred_boxes.scale(given.image_size[1] / size[1], given.image_size[0] / size[0])
    given.pred_classes, given.scores = classes, torch.ones(len(classes))
    with torch.no_grad(), inference_autocast(predictor.cfg):
        soft = predictor.model.inference([inputs], [given], do_postprocess=False)[0].pred_masks
    pasted = [
        paste_masks_in_image(soft[:, 0].float(), boxes, size, threshold=threshold)
        for threshold in THRESHOLDS
    ]
    bound = mask_ious(resample_masks(truth, soft.shape[-1]), truth)
    ious = torch.stack([mask_ious(found, truth) for found in pasted])
    return ious.numpy(), bound.numpy(), classes.numpy(), find_kinds(truth)
