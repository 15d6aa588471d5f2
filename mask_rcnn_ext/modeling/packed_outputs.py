"""Runs a model on a batch of images and pastes the masks of one image at a time.

detectron2's models paste the masks of the whole batch at the end, each mask into its own image. For
large photos with many objects these take most of the memory: 2.4 GB for 100 masks of 24 megapixels.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from detectron2.modeling import GeneralizedRCNN, detector_postprocess
from detectron2.structures import Instances
from torch import nn

from ..errors import UserError
from ..layers.packed_masks import PackedMasks
from .building import unwrap
from .exported import ExportedFCIS, ExportedMaskRCNN
from .fcis import FCIS
from .fcis.tta import FCISWithTTA
from .meta_arch import MaskRCNN
from .postprocessing import postprocess_packed
from .rcnn import RCNN
from .test_time_augmentation import MaskRCNNWithTTA

__all__ = ["PackedOutputs", "pack_outputs", "run_model"]

# Other subclasses may finish their results in another way.
_PASTING_MODELS = (GeneralizedRCNN, MaskRCNN, RCNN, ExportedMaskRCNN)
_VOTING_MODELS = (FCIS, ExportedFCIS)


def _is_augmented(model: nn.Module) -> bool:
    if type(model) is FCISWithTTA:
        return type(model.model) is FCIS
    return type(model) is MaskRCNNWithTTA


def run_model(
    model: nn.Module, inputs: list[dict[str, Any]], *, masks: bool = True
) -> list[Callable[[], Instances]]:
    """Run a model on a batch; return for each image a function that finishes its result.

    A model of an unknown class runs on one image at a time, when the function is called.

    Args:
        model: a model in eval mode.
        inputs: the inputs of detectron2's models, with `height` and `width` of the output.
        masks: False leaves out the masks of models that paste them, which saves time.

    Returns:
        For each image a function without arguments. It returns the `Instances` of the image, on
        the device of the model and in pixels of the output, with `pred_masks` as `PackedMasks`.

    Raises:
        UserError: raised by the function if the model gives no instances.
    """
    finish: Callable[[Any, dict[str, Any], Instances], Instances]
    if type(model) in _VOTING_MODELS:
        finish = _detect
    elif type(model) in _PASTING_MODELS:
        finish = _paste if masks else _scale
    else:
        run = _run_augmented if _is_augmented(model) else _run_alone
        return [partial(run, model, image) for image in inputs]
    found: Any = model.inference(inputs, do_postprocess=False)  # type: ignore[operator]
    return [partial(finish, model, *pair) for pair in zip(inputs, found, strict=True)]


class PackedOutputs(nn.Module):
    """A model whose results have `PackedMasks`; else inputs and outputs are as in detectron2.

    Args:
        model: one of the models that `pack_outputs` wraps.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training  # a new nn.Module is in training mode, whatever it wraps

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Return {"instances": `Instances`} for each image, see `run_model`."""
        sized = []
        for image in inputs:
            height, width = image["image"].shape[-2:]
            sized.append({"height": height, "width": width, **image})
        return [{"instances": finish()} for finish in run_model(self.model, sized)]


def pack_outputs(model: nn.Module) -> nn.Module:
    """Return a model with the same results, but `PackedMasks`; an unknown model unchanged."""
    inner = unwrap(model)
    known = type(inner) in (*_VOTING_MODELS, *_PASTING_MODELS) or _is_augmented(inner)
    return PackedOutputs(inner) if known else model


def _paste(model: nn.Module, image: dict[str, Any], raw: Instances) -> Instances:
    threshold = getattr(model, "mask_threshold", 0.5)
    return postprocess_packed(raw, image["height"], image["width"], threshold)


def _scale(model: nn.Module, image: dict[str, Any], raw: Instances) -> Instances:
    raw.get_fields().pop("pred_masks", None)
    return detector_postprocess(raw, image["height"], image["width"])


def _detect(model: Any, image: dict[str, Any], raw: Instances) -> Instances:
    found: Instances = model.detect(raw, image["height"], image["width"], packed=True)
    return found


def _run_augmented(model: Any, image: dict[str, Any]) -> Instances:
    model.packed = True
    try:
        found: Instances = model([image])[0]["instances"]
    finally:
        model.packed = False
    return found


def _run_alone(model: nn.Module, image: dict[str, Any]) -> Instances:
    (output,) = model([image])
    if "instances" not in output:
        raise UserError(
            f"MODEL.META_ARCHITECTURE {type(model).__name__} gives {', '.join(output) or 'nothing'}"
            "; expected a model that gives instances"
        )
    found: Instances = output["instances"]
    if found.has("pred_masks"):
        found.pred_masks = PackedMasks.pack(found.pred_masks.cpu())
    return found
