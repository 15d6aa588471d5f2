"""Converts weights to other classes: from COCO to Cityscapes (Appendix A, "fine + COCO").

The paper copies the output layers of the classes that both data sets have, and starts "rider",
which COCO lacks, at random. As in Detectron's converter, the weights of new classes are drawn from
a normal distribution with the mean and standard deviation of the layer's weights.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog

from ..errors import UserError, count_noun, nearest
from ..files import atomic_open
from .class_layers import CLASS_LAYERS, count_groups
from .description import load_contents
from .safetensors_file import save_safetensors

__all__ = ["convert_checkpoint", "convert_weights"]

logger = logging.getLogger(__name__)

# detectron2 knows the classes of these data sets, even if their files are missing.
_COCO, _CITYSCAPES = "coco_2017_train", "cityscapes_fine_instance_seg_train"


def convert_weights(
    weights: Mapping[str, torch.Tensor],
    old_classes: Sequence[str],
    new_classes: Sequence[str],
    *,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Return the weights of a detectron2 model with output layers for other classes.

    In the layers of class scores, box deltas and masks, the rows of the background and of classes
    in both lists are copied; the rows of new classes are drawn from N(mean, std) of the whole
    tensor. Class-agnostic layers and all other layers do not change. If the shape does not tell, as
    for the box deltas of a single class, a layer counts as class-specific.

    Args:
        weights: state dict of a Mask, Faster or Cascade R-CNN. Per layer and class c in
            [0, K), K = len(old_classes): `cls_score` (K + 1, ...), the background last; `bbox_pred`
            (4 * K, ...) or (4, ...); `mask_head.predictor` (n * K, ...), (n * (K + 1), ...) with
            the background last, or class-agnostic (1, ...); n is 1, or the pixels of a square mask.
        old_classes: names of the model's classes, in the model's order.
        new_classes: names of the new classes, in the new order.
        seed: the seed of the random rows.

    Raises:
        UserError: there are no output layers, or they have another number of classes.
    """
    counts = {len(value) - 1 for key, value in weights.items() if key.endswith(".cls_score.weight")}
    if not counts:
        hint = nearest("cls_score.weight", weights) or "."
        raise UserError(
            "expected the weights of a detector in detectron2's layout, with "
            f"roi_heads.box_predictor.cls_score.weight{hint} "
            "FCIS has no such layer and cannot be converted"
        )
    if counts != {len(old_classes)}:
        raise UserError(
            f"expected weights for {count_noun(len(old_classes), 'class')} "
            f"({', '.join(old_classes[:3])}, ...), "
            f"got weights for {', '.join(str(count) for count in sorted(counts))}"
        )
    generator = torch.Generator().manual_seed(seed)
    # The old index of each new class, -1 for none; the background comes last.
    sources = [old_classes.index(name) if name in old_classes else -1 for name in new_classes]
    sources.append(len(old_classes))
    return {
        key: _convert_layer(key, value, sources, generator) if CLASS_LAYERS.search(key) else value
        for key, value in weights.items()
    }


def _convert_layer(
    key: str, layer: torch.Tensor, sources: Sequence[int], generator: torch.Generator
) -> torch.Tensor:
    """Return a layer for the classes of `sources`, whose last entry is the background."""
    classes = sources[-1]
    groups = count_groups(key, len(layer), classes)
    if not groups:
        return layer
    if groups == classes:
        sources = sources[:-1]
    old = layer.unflatten(0, (groups, -1))  # (class, rows of a class, ...)
    values = old.double()
    mean, std = values.mean(), values.std(correction=0)
    drawn = torch.randn((len(sources), *old.shape[1:]), generator=generator, dtype=torch.float64)
    new = (drawn * std + mean).to(layer.dtype)
    for index, source in enumerate(sources):
        if source >= 0:
            new[index] = old[source]
    return new.flatten(0, 1)


def convert_checkpoint(
    weights: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    old_classes: Sequence[str] | None = None,
    new_classes: Sequence[str] | None = None,
    seed: int = 0,
) -> list[str]:
    """Write a checkpoint for other classes, as MODEL.WEIGHTS for a training.

    Paper: Mask R-CNN (arXiv:1703.06870), Appendix A.

    Args:
        weights: a checkpoint in detectron2's layout, `.pth` or `.pkl`: a local file, or a URL that
            detectron2's PathManager knows.
        output: the `.pth` file to write: the weights, and the names of their classes.
        old_classes: see `convert_weights`; default: the names in the file or, without any, the 80
            classes of COCO in detectron2's order.
        new_classes: see `convert_weights`; default: the 8 classes of Cityscapes in detectron2's
            order.
        seed: the seed of the random rows.

    Returns:
        The new classes, whose weights were drawn at random.

    Raises:
        UserError: see `convert_weights`; or `output` is `weights`; or a file cannot be read or
            written.
    """
    if Path(output).suffix not in (".pth", ".safetensors"):
        raise UserError(
            "output: expected a file name that ends in .pth or .safetensors, got "
            f"{os.fspath(output)}"
        )
    if os.path.realpath(output) == os.path.realpath(weights):
        raise UserError(f"output: {output} is the checkpoint itself. Give another name")
    loaded = load_contents(weights)
    named = loaded.get("class_names")
    if not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        named = []
    old = list(old_classes or named or MetadataCatalog.get(_COCO).thing_classes)
    new = list(new_classes or MetadataCatalog.get(_CITYSCAPES).thing_classes)
    state = _get_weights(loaded, os.fspath(weights))
    try:
        converted = convert_weights(state, old, new, seed=seed)
    except UserError as error:
        raise UserError(f"{os.fspath(weights)}: {error}") from error
    contents = {"model": converted, "class_names": new}
    if Path(output).suffix == ".safetensors":
        save_safetensors(contents, output)
    else:
        with atomic_open(output) as file:
            torch.save(contents, file)
    drawn = [name for name in new if name not in old]
    logger.info(
        "%s: %s, drawn: %s", output, count_noun(len(new), "class"), ", ".join(drawn) or "none"
    )
    return drawn


def _get_weights(loaded: Mapping[str, Any], path: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, by name."""
    if "blobs" in loaded:
        raise UserError(
            f"{path}: expected detectron2's layout, got the layout of Caffe2's Detectron. Load it "
            "into a model with mask_rcnn_ext's or detectron2's checkpointer and save the model"
        )
    state = loaded.get("model", loaded)
    if not isinstance(state, Mapping) or not all(
        isinstance(value, torch.Tensor | np.ndarray) for value in state.values()
    ):
        raise UserError(f"{path}: expected a checkpoint, a dict of tensors under 'model'")
    return {key: torch.as_tensor(value) for key, value in state.items()}
