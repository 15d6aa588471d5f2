"""Parameters and FLOPs of the models, counted by fvcore, part by part.

The cost of a detector depends on how many proposals and detections an image gives. Here the image
is only a size, and the config's limits replace these numbers, so the figures depend on the model
alone. The backbone and the RPN's head run on an image. Each branch runs on one RoI, and its count
is multiplied by the number of RoIs. FCIS has no branches: its score maps cover the image. Weights
and pixels are zeros, which do not change a count.
"""

import copy
import logging
import math
import platform
from collections.abc import Callable, Sequence
from typing import Any

import detectron2
import fvcore
import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import Res5ROIHeads, StandardROIHeads
from detectron2.utils.analysis import FlopCountAnalysis
from torch import nn

from mask_rcnn_ext import model_zoo
from mask_rcnn_ext.errors import UserError
from mask_rcnn_ext.modeling.fcis import FCISROIHeads

from .results_file import CostResults, ModelCosts, Parameters

__all__ = ["CONVENTIONS", "count_costs", "count_flops", "image_size", "measure_models"]

logger = logging.getLogger(__name__)

CONVENTIONS = {
    "flops": "fvcore's, as detectron2.utils.analysis counts: a multiply-add is one. Convolutions, "
    "fully connected layers and matrix products; batch normalisation and upsampling, which are "
    "under one per cent",
    "not_counted": "RoI layers, NMS, anchors, decoding of boxes, max pooling, softmax, pasting of "
    "masks, and other elementwise operations: fvcore has no count for them",
    "image": "of the config's shorter side in testing and of 3 : 2 (Cityscapes: 2 : 1), each side "
    "padded to a multiple of 32; one image, one pass, without test-time augmentation",
    "rois": "the box branch has as many as the config has proposals in testing, the mask and "
    "keypoint branches as many as it has detections; in C4, res5 is part of box and mask branch; "
    "FCIS has score maps of the image in place of branches, however many RoIs are read from them",
    "parameters": "weights and biases; the statistics and factors of frozen batch normalisation "
    "are none. Trainable: without those that the config freezes",
}

_SIDE_MULTIPLE = 32
_ASPECT, _CITYSCAPES_ASPECT = 1.5, 2.0
# What is not counted at all; fvcore ignores elementwise operations itself. Everything else that it
# does not know is an error, so that no layer is left out unseen.
_NO_FLOPS = {"aten::mean", "aten::unflatten"}

_Cache = dict[tuple[str, tuple[tuple[int, ...], ...]], int]


class _Part(nn.Module):
    """Layers that run as `function(*layers, *inputs)` does, for fvcore to trace."""

    def __init__(self, function: Callable[..., Any], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Return the outputs of the layers, without a loss and without decoding."""
        return self.function(*self.layers, *inputs)


def image_size(cfg: CfgNode) -> tuple[int, int]:
    """Return the size of the image for which FLOPs are counted: (height, width) in pixels."""
    city = any(name.startswith("cityscapes") for name in cfg.DATASETS.TEST)
    shorter = cfg.INPUT.MIN_SIZE_TEST
    longer = shorter * (_CITYSCAPES_ASPECT if city else _ASPECT)
    height, width = (
        math.ceil(side / _SIDE_MULTIPLE) * _SIDE_MULTIPLE for side in (shorter, longer)
    )
    return height, width


def _count(part: nn.Module, inputs: Sequence[torch.Tensor], cache: _Cache) -> int:
    """Return the FLOPs of a part. Its weights may be on the meta device.

    fvcore traces the part, and PyTorch cannot trace convolutions on the meta device. So a copy of
    the part gets weights of zero on the CPU. The part's `repr` and the shapes of its inputs decide
    the count, so they are the key in `cache`.
    """
    key = repr(part), tuple(tuple(tensor.shape) for tensor in inputs)
    if key not in cache:
        part = copy.deepcopy(part).to_empty(device="cpu").eval()
        with torch.no_grad():
            for tensor in (*part.parameters(), *part.buffers()):
                tensor.zero_()
            analysis = FlopCountAnalysis(part, tuple(inputs))
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            cache[key] = int(analysis.total())
        if unknown := set(analysis.unsupported_ops()) - _NO_FLOPS:
            raise UserError(
                f"{type(part).__name__}: fvcore cannot count {', '.join(sorted(unknown))}, so "
                "its FLOPs would be too low"
            )
    return cache[key]


def _count_per_roi(roi_heads: Any, channels: int, cache: _Cache) -> dict[str, int]:
    """Return part -> FLOPs for one RoI.

    Args:
        roi_heads: RoI heads of detectron2, or a subclass.
        channels: number of channels of the feature maps that RoIs are pooled from.
        cache: see `count_flops`.
    """

    def count(pooler: Any, function: Callable[..., Any], *layers: nn.Module) -> int:
        pooled = torch.zeros(1, channels, *pooler.output_size)
        return _count(_Part(function, *layers), [pooled], cache)

    if isinstance(roi_heads, Res5ROIHeads):
        pooler, res5, predictor = roi_heads.pooler, roi_heads.res5, roi_heads.box_predictor
        flops = {"box": count(pooler, lambda r, p, x: p(r(x).mean(dim=[2, 3])), res5, predictor)}
        if roi_heads.mask_on:
            mask_head = roi_heads.mask_head
            flops["mask"] = count(pooler, lambda r, m, x: m.layers(r(x)), res5, mask_head)
        return flops
    if not isinstance(roi_heads, StandardROIHeads):
        raise UserError(
            "MODEL.ROI_HEADS.NAME: expected a kind of StandardROIHeads or Res5ROIHeads, or "
            "FCISROIHeads, got "
            f"{type(roi_heads).__name__}: the FLOPs of its branches cannot be told apart"
        )
    head, predictor = roi_heads.box_head, roi_heads.box_predictor
    flops = {"box": count(roi_heads.box_pooler, lambda h, p, x: p(h(x)), head, predictor)}
    for name in ("mask", "keypoint"):
        if getattr(roi_heads, f"{name}_on"):
            pooler, head = (getattr(roi_heads, f"{name}_{part}") for part in ("pooler", "head"))
            flops[name] = count(pooler, lambda h, x: h.layers(x), head)
    return flops


def count_flops(
    model: Any,
    size: tuple[int, int],
    *,
    proposals: int,
    detections: int,
    cache: _Cache | None = None,
) -> dict[str, int]:
    """Return the FLOPs of one inference: part -> number, for each of the model's `MODEL_PARTS`.

    Args:
        model: a `GeneralizedRCNN`, on any device.
        size: (height, width) of the image in pixels, multiples of 32.
        proposals: number of RoIs for the box branch.
        detections: number of RoIs for the mask branch and the keypoint branch.
        cache: counts of parts that other models share; new counts are added.

    Raises:
        UserError: `size` does not fit, the ROI heads are of an unknown kind, or a part has an
            operation that fvcore does not know.
    """
    if any(side % _SIDE_MULTIPLE for side in size):
        raise UserError(
            f"image size: expected multiples of {_SIDE_MULTIPLE}, got {size[0]} x {size[1]}"
        )
    cache = {} if cache is None else cache
    rpn, roi_heads = model.proposal_generator, model.roi_heads
    shapes = model.backbone.output_shape()

    def feature_map(name: str) -> torch.Tensor:
        cells = (math.ceil(side / shapes[name].stride) for side in size)
        return torch.zeros(1, shapes[name].channels, *cells)

    image, maps = torch.zeros(1, len(model.pixel_mean), *size), map(feature_map, rpn.in_features)
    flops = {
        "backbone": _count(model.backbone, [image], cache),
        "rpn": _count(_Part(lambda head, *x: head(list(x)), rpn.rpn_head), [*maps], cache),
    }
    if isinstance(roi_heads, FCISROIHeads):
        layers = roi_heads.conv_new, roi_heads.score_maps, roi_heads.box_maps
        maps_part = _Part(lambda new, scores, boxes, x: (scores(y := new(x)), boxes(y)), *layers)
        flops["maps"] = _count(maps_part, [feature_map(roi_heads.in_feature)], cache)
        return flops
    in_features = roi_heads.in_features
    for part, per_roi in _count_per_roi(roi_heads, shapes[in_features[0]].channels, cache).items():
        flops[part] = per_roi * (proposals if part == "box" else detections)
    return flops


def count_costs(name: str, cfg: CfgNode, cache: _Cache | None = None) -> ModelCosts:
    """Count the parameters and FLOPs of a config's model.

    Args:
        name: the name of the config.
        cfg: the config of a `GeneralizedRCNN`; it is not changed.
        cache: see `count_flops`.

    Raises:
        UserError: see `count_flops`.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):  # weights take no memory and no time there
        model = build_model(cfg)
    parameters = Parameters(
        total=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )
    size = image_size(cfg)
    counts = {
        "proposals": int(cfg.MODEL.RPN.POST_NMS_TOPK_TEST),
        "detections": int(cfg.TEST.DETECTIONS_PER_IMAGE),
    }
    flops = count_flops(model, size, cache=cache, **counts)
    total = {"total": sum(flops.values())}
    return ModelCosts(name, parameters, [*size], **counts, flops={**total, **flops})


def measure_models(names: Sequence[str]) -> CostResults:
    """Return the content of `model_costs.json`.

    Args:
        names: names of configs, ours or in detectron2's zoo; see `mask_rcnn_ext.model_zoo`.

    Raises:
        UserError: a name is unknown, or see `count_flops`.
    """
    cache: _Cache = {}
    models = []
    for name in names:
        cfg = model_zoo.get_config(name)
        if not isinstance(cfg, CfgNode):
            raise UserError(f"{name}: expected a yaml config, got one of detectron2's lazy configs")
        models.append(count_costs(name, cfg, cache))
        parameters, flops = models[-1].parameters.total, models[-1].flops["total"]
        logger.info("%s: %.1f M parameters, %.0f GFLOPs", name, parameters / 1e6, flops / 1e9)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": detectron2.__version__,
        "fvcore": fvcore.__version__,
    }
    return CostResults(CONVENTIONS, versions, models)
