"""The losses of a model on validation images (`MASK_RCNN_EXT.VALIDATION_LOSS`).

Measuring changes neither the weights nor the batch statistics nor the random numbers of training.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import InferenceSampler
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from ..data.bad_images import build_checked_loader
from ..data.keypoints import complete_keypoints
from ..data.loader import keep_random_state, seed_everything, stream_seed
from ..errors import UserError

__all__ = ["build_loss_loader", "measure_losses"]


def build_loss_loader(
    cfg: CfgNode, dicts: list[dict[str, Any]], mapper: Callable[[dict], Any]
) -> Any:
    """Return a loader of images and their annotations, one image a batch, in their order.

    The batch of an image that is skipped is empty.

    Args:
        cfg: the config.
        dicts: the images, in detectron2's format.
        mapper: the mapper of the evaluation, such as `ImageMapper(cfg, is_train=False)`, which does
            not augment images. It is changed to return the annotations too.
    """
    if cfg.MODEL.KEYPOINT_ON:
        dicts = complete_keypoints(dicts, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS)
    changed: Any = mapper
    with contextlib.suppress(AttributeError):  # of a bound method; `measure_losses` then tells it
        changed.is_train = True  # detectron2's mappers remove the annotations otherwise
        if any(
            isinstance(a.get("segmentation"), dict) for d in dicts for a in d.get("annotations", ())
        ):
            changed.instance_mask_format = "bitmask"  # RLE, also where training reads polygons
    return build_checked_loader(cfg, dicts, mapper, keep_empty=True)


@torch.no_grad()
def measure_losses(model: nn.Module, loader: Any) -> dict[str, float]:
    """Return the losses of a model, each the mean over the images of a data set.

    Batch normalisation uses its running statistics, and dropout is off. Each image is a batch of
    its own, and its random choices, such as the sampled RoIs, depend only on its place in the data
    set. So the same weights give the same numbers in any number of processes. A loss of objects,
    such as the mask loss, is 0 on an image without objects. RetinaNet and FCOS divide by the number
    of positive anchors of the image; in training they divide by its running mean.

    Args:
        model: a model of detectron2, not wrapped; all processes have the same one.
        loader: see `build_loss_loader`.

    Returns:
        The parts by name, and their sum as `total_loss`, in the first process; {} in the others.

    Raises:
        UserError: the images come without annotations.
    """
    places = InferenceSampler(len(loader.dataset))  # of the images of this process
    device = next(model.parameters()).device
    gpus = [] if device.index is None else [device.index]
    found: dict[int, dict[str, float]] = {}
    with (
        keep_random_state(gpus),
        _compute_losses(model),
        EventStorage(1),
        warnings.catch_warnings(),
    ):
        # detectron2 logs the mean number of objects with keypoints, also where there are none.
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        for place, images in zip(places, loader, strict=True):
            if not images:  # it is skipped, and the others keep their places
                continue
            if "instances" not in images[0]:
                raise UserError(
                    "MASK_RCNN_EXT.VALIDATION_LOSS: expected annotations with every validation "
                    f"image, got none with {images[0].get('file_name')}. Set it to False; or, if "
                    "you wrote the mapper, let it add `instances` when its `is_train` is True"
                )
            seed_everything(stream_seed(place))
            found[place] = {name: float(loss) for name, loss in model(images).items()}
    gathered = [part for parts in comm.gather(found) for part in parts.items()]
    rows = [losses for _, losses in sorted(gathered, key=lambda item: item[0])]
    if not rows:
        return {}
    means = {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
    return {**means, "total_loss": math.fsum(means.values())}


@contextlib.contextmanager
def _compute_losses(model: nn.Module) -> Iterator[None]:
    """Let `model` return its losses in the block, with layers that behave as in evaluation."""
    modes = {module: module.training for module in model.modules()}
    model.train()
    for name, module in model.named_modules():
        if name == "backbone" or isinstance(module, _NormBase | _DropoutNd):
            module.eval()
    if isinstance(model, DenseDetector):  # its normaliser must not take part in training's mean
        model._ema_update = lambda name, value, *_: value
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        vars(model).pop("_ema_update", None)
