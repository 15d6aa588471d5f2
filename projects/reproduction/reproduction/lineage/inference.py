"""Runs the trained models of the lineage, for their seconds per image and their proposals."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation import inference_context
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

from mask_rcnn_ext.arrays import Floats
from mask_rcnn_ext.checkpoint.checkpointer import Checkpointer
from mask_rcnn_ext.engine.trainer import Trainer
from mask_rcnn_ext.modeling.precision import choose_device, inference_autocast, prepare_model

from .results import InferenceTiming, Quartiles
from .runs import LineageRun

__all__ = ["TIMED", "LoadedModel", "find_best_proposals", "load_model", "measure_seconds"]

logger = logging.getLogger(__name__)

_WARM_UP = 3  # images before those that are timed, the last ones of the data set
TIMED = (
    "the model on one image at a time that is read and resized already, with all that makes "
    "detections in pixels of the image of its output; without stored proposals, which were "
    "computed before; the methods take turns at each image"
)


@dataclass(frozen=True)
class LoadedModel:
    """A trained model, ready to predict, and its data."""

    variant: str
    model: nn.Module = field(repr=False)  # in eval mode
    cfg: CfgNode = field(repr=False)  # with the device that it is on
    inputs: Sequence[dict[str, Any]] = field(repr=False)  # detectron2's, by index

    def predict(self, image: dict[str, Any]) -> Instances:
        """Return the instances of one input, after the device has finished."""
        with inference_context(self.model), torch.no_grad(), inference_autocast(self.cfg):
            found: Instances = self.model([image])[0]["instances"].to("cpu")
        return found


def load_model(run: LineageRun) -> LoadedModel:
    """Load a finished run's model and its test set.

    Raises:
        UserError: the weights or the proposals do not fit.
    """
    cfg = run.config()
    choose_device(cfg)
    model = prepare_model(cfg, build_model(cfg.clone())).eval()
    Checkpointer(model).load(str(run.weights), checkpointables=[])
    inputs = Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0]).dataset
    return LoadedModel(run.variant, model, cfg, inputs)


def measure_seconds(
    models: Sequence[LoadedModel], images: int
) -> tuple[InferenceTiming, dict[str, Quartiles]]:
    """Measure how long each model takes for an image.

    Args:
        models: models of one data set.
        images: number of images to time, from the first one of the data set.

    Returns:
        How the time was measured, and variant -> seconds per image.
    """
    count = len(models[0].inputs)
    images = min(images, count)
    took: dict[str, list[float]] = {model.variant: [] for model in models}
    for index in (*(count - 1 - i % count for i in range(_WARM_UP)), *range(images)):
        for model in models:
            image = model.inputs[index]
            start = time.perf_counter()
            model.predict(image)
            took[model.variant].append(time.perf_counter() - start)
    device = torch.device(models[0].cfg.MODEL.DEVICE)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    timing = InferenceTiming(images, _WARM_UP, torch.get_num_threads(), name, TIMED)
    return timing, {variant: _quartiles(seconds[-images:]) for variant, seconds in took.items()}


def _quartiles(seconds: Sequence[float]) -> Quartiles:
    low, median, high = (round(float(v), 4) for v in np.percentile(seconds, (25, 50, 75)))
    return Quartiles(median, low, high)


def find_best_proposals(loaded: LoadedModel, index: int, count: int) -> Floats:
    """Return the best proposals that the heads of a model get for an image.

    Args:
        loaded: the model.
        index: the index of the image in the data set.
        count: the largest number of proposals.

    Returns:
        (N, 4), XYXY_ABS in pixels of the original image, the best first.
    """
    image = loaded.inputs[index]
    if loaded.cfg.MODEL.LOAD_PROPOSALS:
        proposals = image["proposals"]
    else:
        given: list[Instances] = []
        generator: Any = loaded.model.proposal_generator
        hook = generator.register_forward_hook(
            lambda _module, _inputs, output: given.append(output[0][0])
        )
        try:
            loaded.predict(image)
        finally:
            hook.remove()
        proposals = given[0].to("cpu")
    order = proposals.objectness_logits.argsort(descending=True, stable=True)[:count]
    boxes = proposals.proposal_boxes.clone()
    height, width = image["image"].shape[-2:]
    boxes.scale(image["width"] / width, image["height"] / height)
    return np.asarray(boxes.tensor[order].numpy(), dtype=np.float64)
