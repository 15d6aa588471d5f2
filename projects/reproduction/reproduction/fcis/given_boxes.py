"""The masks that a model draws in the true boxes, for the true classes."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from torch import Tensor

from mask_rcnn_ext.arrays import Floats
from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.config import load_config
from mask_rcnn_ext.data.catalog import find_truth
from mask_rcnn_ext.data.mapper import ImageMapper
from mask_rcnn_ext.layers.mask_crops import MaskCrop
from mask_rcnn_ext.modeling.checks import is_fcis
from mask_rcnn_ext.modeling.fcis.voting import render_mask
from mask_rcnn_ext.modeling.precision import prepare_model
from mask_rcnn_ext.overlap.detections import load_truth
from mask_rcnn_ext.overlap.image_instances import ImageInstances, read_image_instances
from mask_rcnn_ext.overlap.numbered_coco import sort_ids

__all__ = ["DrawMasks", "GivenBoxMasks", "draw_masks", "load_dataset", "load_measured"]
__all__ += ["load_trained", "predict_in_true_boxes"]

DrawMasks = Callable[[Any, dict[str, Tensor], Instances], Tensor]  # see `draw_masks`


@dataclass(frozen=True)
class GivenBoxMasks:
    """The masks of the R objects of an image, without crowds, in the order of the annotations.

    Attributes:
        instances: the image, without detections.
        objects: (R,), index of each object in `instances`.
        soft: (R, P, P) float64, probabilities on the grid of the RoI.
        masks: the masks as they are pasted into the image.
        threshold: the probability from which on a pixel belongs to a mask.
    """

    instances: ImageInstances = field(repr=False)
    objects: npt.NDArray[np.intp]
    soft: Floats = field(repr=False)
    masks: list[MaskCrop] = field(repr=False)
    threshold: float

    @property
    def predictions(self) -> dict[int, tuple[MaskCrop, Floats]]:
        """Object -> its mask and its RoI, for `measure_same_part`."""
        return {
            int(index): (mask, self.instances.boxes[index])
            for index, mask in zip(self.objects, self.masks, strict=True)
        }


def load_trained(folder: str | Path) -> tuple[CfgNode, torch.nn.Module]:
    """Return the config and the model of a finished run.

    Args:
        folder: the folder of the run, with `config.yaml` and `model_final.pth`.
    """
    cfg = load_config(str(Path(folder) / "config.yaml"))
    model = prepare_model(cfg, build_model(cfg)).eval()
    Checkpointer(model).load(str(Path(folder) / "model_final.pth"))
    return cfg, model


def load_measured(folder: str | Path) -> tuple[CfgNode, torch.nn.Module, COCO, str]:
    """Return config and model of a finished run, and its test set with the name of this set."""
    cfg, model = load_trained(folder)
    (dataset,) = cfg.DATASETS.TEST
    return cfg, model, load_dataset(dataset), dataset


def load_dataset(name: str) -> COCO:
    """Return a registered data set with a COCO json; an embedded one is drawn at its first use."""
    DatasetCatalog.get(name)
    return load_truth(find_truth(name)[0])


def draw_masks(model: Any, features: dict[str, Tensor], given: Instances) -> Tensor:
    """Return the masks of the R boxes and classes that are given, (R, P, P) probabilities.

    Args:
        model: Mask R-CNN or FCIS, in evaluation mode.
        features: the features of one image.
        given: see `FCISROIHeads.forward_with_given_boxes`; its boxes and classes.
    """
    (found,) = model.roi_heads.forward_with_given_boxes(features, [given])
    masks: Tensor = found.pred_masks[:, 0]
    return masks


@torch.no_grad()
def predict_in_true_boxes(
    cfg: CfgNode,
    model: Any,
    truth: COCO,
    dataset: str,
    images: Collection[Any] | None = None,
    draw: DrawMasks = draw_masks,
) -> Iterator[GivenBoxMasks]:
    """Yield the masks that a model predicts for the boxes and classes of each image's objects.

    Args:
        cfg: the config of the model.
        model: Mask R-CNN or FCIS, in evaluation mode.
        truth: the data set, see `load_truth`.
        dataset: its name in detectron2's catalogs.
        images: the ids of the images to look at; None: all.
        draw: how the masks are made.
    """
    mapper = ImageMapper(cfg, is_train=False)
    metadata = MetadataCatalog.get(dataset)
    places = sort_ids(truth.cats)  # `ImageInstances` numbers the categories in this order
    labels = [metadata.thing_dataset_id_to_contiguous_id[category] for category in places]
    fcis = is_fcis(cfg)
    threshold = cfg.MODEL.FCIS.MASK_THRESH if fcis else cfg.MODEL.ROI_MASK_HEAD.PASTE_THRESH
    for image_id in sorted(truth.imgs if images is None else images):
        instances = read_image_instances(truth, image_id, {})
        objects = np.flatnonzero(~instances.crowd)
        image = truth.imgs[image_id]
        path = str(Path(metadata.image_root) / image["file_name"])
        batch = model.preprocess_image([mapper({**image, "file_name": path})])
        height, width = batch.image_sizes[0]
        boxes = Boxes(torch.as_tensor(instances.boxes[objects], dtype=torch.float32))
        scaled = boxes.clone()
        scaled.scale(width / instances.width, height / instances.height)
        classes = torch.tensor([labels[int(c)] for c in instances.classes[objects]])
        given = Instances((height, width), pred_boxes=scaled, pred_classes=classes)
        soft = draw(model, model.backbone(batch.tensor), given)
        yield GivenBoxMasks(
            instances,
            objects,
            soft.double().numpy(),
            _paste(soft, boxes, instances.height, instances.width, threshold, fcis),
            threshold,
        )


def _paste(
    soft: torch.Tensor, boxes: Boxes, height: int, width: int, threshold: float, fcis: bool
) -> list[MaskCrop]:
    """Paste (R, P, P) masks into the image, as the model itself does."""
    if fcis:
        crops = [
            render_mask(mask, box, height, width, threshold)
            for mask, box in zip(soft, boxes.tensor, strict=True)
        ]
        return [MaskCrop(crop.top, crop.left, crop.mask.numpy()) for crop in crops]
    masks = paste_masks_in_image(soft, boxes, (height, width), threshold)
    return [MaskCrop(0, 0, mask.numpy()) for mask in masks]
