"""Mask R-CNN with a ResNet-50 FPN on one image: detectron2 and our levels of speed.

The contenders are detectron2's `DefaultPredictor`, and our `Predictor` at each level. In the first
case they get the pixels of an image and return instances with masks of the whole image. In the
second case they return the instances in COCO's format, with masks as RLE, as evaluation and
`tools/predict.py` need them. All have the same random weights. The norms get the statistics of the
image, and the outputs of the last layers are spread, so that the model finds as many instances as
asked for.

detectron2 runs in a process of its own. On a CPU, the convolutions and matrix products of "fast"
and "fastest" also have a row of their own: with the same kernels, nothing in float32 and bfloat16
can be faster. An OpenVINO file also runs at the level "fastest". With `--int8` the exported models
are also quantized: that shows the speed only, since random weights have no AP to lose.
"""

import argparse
import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, pairwise_iou
from PIL import Image
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.errors import UserError, require_range
from mask_rcnn_ext.evaluation.packed import convert_to_coco
from mask_rcnn_ext.export.export_model import export_model
from mask_rcnn_ext.export.int8 import quantize_onnx
from mask_rcnn_ext.export.network import convert_to_openvino, write_metadata
from mask_rcnn_ext.export.parity import Tolerance
from mask_rcnn_ext.modeling.exported import Network, get_exported_speeds
from mask_rcnn_ext.modeling.speed import SPEEDS

from .machine import require_device
from .parts import Part, TimedCase, compare_rows
from .remote import Remote
from .rounds import Times, take_turns, time_into

__all__ = [
    "BASELINE",
    "compare_instances",
    "load_models",
    "make_config",
    "make_image",
    "make_stock",
    "make_weights",
    "run",
    "time_case",
]

CONFIG = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
BASELINE = "detectron2"
_CASES = ("image to instances", "image to COCO results")
_PARTED = ("fast", "fastest")  # levels whose products have a row of their own
_PRODUCTS = re.compile(r"conv|::(add|b|baddb)?mm$")  # PyTorch's operators
_SPREAD = {  # standard deviation that the outputs of a layer get
    "proposal_generator.rpn_head.objectness_logits": 2.0,
    "proposal_generator.rpn_head.anchor_deltas": 0.2,
    "roi_heads.box_predictor.cls_score": 3.0,
    "roi_heads.box_predictor.bbox_pred": 0.5,
    "roi_heads.mask_head.predictor": 2.0,
}


def make_image(height: int, width: int, seed: int) -> npt.NDArray[np.uint8]:
    """Return smooth noise, (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    enlarged = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.array(enlarged)


def make_config(args: argparse.Namespace) -> CfgNode:
    """Return detectron2's config for the options of the command line."""
    cfg = model_zoo.get_config(CONFIG)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = args.device, ""
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = args.classes
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0 if args.detections > 100 else 0.05
    cfg.TEST.DETECTIONS_PER_IMAGE = args.detections
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min(args.size), max(args.size)
    cfg.DATASETS.TEST = ()
    return cfg


def make_weights(cfg: CfgNode, image: npt.NDArray[np.uint8], seed: int) -> dict[str, Tensor]:
    """Return random weights with which the model finds something in the image."""
    torch.manual_seed(seed)
    model = build_model(cfg).eval()
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.register_forward_pre_hook(_take_statistics)
        elif name in _SPREAD:
            module.register_forward_hook(partial(_spread, deviation=_SPREAD[name]))
    pixels = torch.as_tensor(image.astype("float32").transpose(2, 0, 1))
    with torch.no_grad():
        model([{"image": pixels}])
    return dict(model.state_dict())


def _take_statistics(norm: Any, inputs: tuple[Tensor, ...]) -> None:
    variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def _spread(layer: Any, inputs: tuple[Tensor, ...], output: Tensor, deviation: float) -> Tensor:
    """Scale a layer the first time that it runs, so that its outputs have the deviation."""
    if getattr(layer, "is_spread", False) or output.numel() < 2:
        return output
    layer.is_spread = True
    factor = deviation / output.std()
    layer.weight.mul_(factor)
    layer.bias.mul_(factor)
    return output * factor


def compare_instances(found: Instances, expected: Instances) -> str:
    """Return how the instances of an image compare with others, in words."""
    fields = ("scores", "pred_classes", "pred_masks")
    boxes, others = found.pred_boxes.tensor, expected.pred_boxes.tensor
    same = len(found) == len(expected) and torch.equal(boxes, others)
    if same and all(torch.equal(found.get(f), expected.get(f)) for f in fields):
        return f"{len(found)} equal"
    overlap = pairwise_iou(expected.pred_boxes, found.pred_boxes)
    overlap[expected.pred_classes[:, None] != found.pred_classes] = 0
    best, index = overlap.max(dim=1) if len(found) else (overlap.new_zeros(len(expected)), None)
    kept = best >= 0.5
    said = f"{int(kept.sum())} of {len(expected)} found"
    if index is None or not kept.any():
        return said
    pairs = found[index[kept]], expected[kept]
    moved = (pairs[0].pred_boxes.tensor - pairs[1].pred_boxes.tensor).abs().max()
    masks, other_masks = (pair.pred_masks for pair in pairs)
    both, either = (masks & other_masks).sum((1, 2)), (masks | other_masks).sum((1, 2))
    overlaps = both / either.clamp(min=1)
    overlaps[either == 0] = 1
    lowest = int(overlaps.min() * 10_000) / 10_000  # rounded down
    return f"{said}; boxes within {float(moved):.1g} px; mask IoU {lowest:.4f} or more"


def _compare_results(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> str:
    """Return how many results in COCO's format are equal."""
    if found == expected:
        return f"{len(found)} equal"
    same = sum(one in expected for one in found)
    return f"{same} of {len(expected)} equal"


def _export(
    cfg: CfgNode, image: npt.NDArray[np.uint8], engine: str, folder: str, int8: bool
) -> dict[str, Predictor]:
    """Return a predictor for each level of the exported model, however far it differs."""
    path = Path(folder, "image.png")
    Image.fromarray(image[:, :, ::-1]).save(path)

    def export(format: str) -> Path:
        anything = Tolerance(share=2.0)  # the detections of both sides
        return export_model(cfg, folder, [path], format=format, tolerance=anything)

    files = {engine: export(engine)}
    if int8:
        files[f"{engine}, int8"] = _quantize(export("onnx"), image, engine)
    found = {}
    for contender, file in files.items():
        for level in get_exported_speeds(file):
            name = contender if level == "exact" else f"{contender}, {level}"
            found[name] = Predictor(file, speed=level)
            found[name](image)  # opens the network
    return found


def _quantize(file: Path, image: npt.NDArray[np.uint8], engine: str) -> Path:
    """Write the int8 form of an ONNX file, calibrated on the image, whatever AP it loses."""
    target = file.with_name("model_int8.onnx")
    predictor = Predictor(file)
    openvino, pixels = engine == "openvino", predictor.prepare(image)["image"].numpy()
    quantize_onnx(file, target, [pixels], 1, openvino=openvino)
    if openvino:
        convert_to_openvino(target, target.with_suffix(".xml"))
        target = target.with_suffix(".xml")
    write_metadata(target, Network(file).metadata)
    return target


def make_stock(cfg: CfgNode, image: npt.NDArray[np.uint8]) -> Callable[[str], Any]:
    """Return a function that predicts with detectron2, for `Remote`.

    It returns the NumPy arrays of instances, see `_read_instances`, or for "image to COCO results"
    a list in COCO's format.
    """
    predict = DefaultPredictor(cfg)

    def call(case: str) -> Any:
        found = predict(image)["instances"].to("cpu")  # waits for a GPU
        if case == _CASES[1]:
            return list(instances_to_coco_json(found, 1))
        return {name: np.asarray(getattr(v, "tensor", v)) for name, v in found.get_fields().items()}

    return call


def _read_instances(arrays: dict[str, npt.NDArray[Any]], size: tuple[int, int]) -> Instances:
    """Return instances from the arrays of their fields, which processes exchange as plain bytes."""
    fields = {name: torch.as_tensor(array) for name, array in arrays.items()}
    return Instances(size, **{**fields, "pred_boxes": Boxes(fields["pred_boxes"])})


@contextlib.contextmanager
def load_models(
    args: argparse.Namespace,
    image: npt.NDArray[np.uint8],
    make: Callable[..., Callable[[Any], Any]],
    *arguments: Any,
) -> Iterator[tuple[Remote, dict[str, Predictor]]]:
    """Yield detectron2's predictor and ours, by level or engine, with the same weights.

    Args:
        args: the options of the command line.
        image: the weights are made for this image.
        make: in the process of detectron2 it gets the config and `arguments`, see `Remote`.
        arguments: see `make`.
    """
    cfg = make_config(args)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        cfg.MODEL.WEIGHTS = str(Path(folder, "weights.pth"))
        torch.save({"model": make_weights(cfg, image, args.seed)}, cfg.MODEL.WEIGHTS)
        stock = stack.enter_context(Remote(make, cfg, *arguments))
        levels = getattr(args, "levels", SPEEDS)
        ours = {level: Predictor(cfg, speed=level) for level in levels}
        for engine in args.engine:
            ours |= _export(cfg, image, engine, folder, args.int8)
        yield stock, ours


def run(args: argparse.Namespace) -> Part:
    """Time the predictors and compare the instances that they find."""
    require_device(args.device)
    for name in ("detections", "classes"):
        require_range(f"--{name}", getattr(args, name), 1)
    require_range("--size", min(args.size), 1)
    if args.int8 and not args.engine:
        raise UserError("--int8 is for exported models: also give --engine")
    image = make_image(*args.size, args.seed)
    height, width = args.size
    part = Part(
        "Mask R-CNN, ResNet-50 FPN, one image",
        {
            "device": args.device,
            "rounds": args.rounds,
            "seed": args.seed,
            "image": f"{height} x {width}",
            "classes": args.classes,
            "detections": args.detections,
            **({"engine": " ".join(args.engine)} if args.engine else {}),
            **({"int8": True} if args.int8 else {}),
        },
    )

    def find(predict: Predictor) -> Callable[[], Instances]:
        return lambda: predict(image)

    def encode(predict: Predictor) -> Callable[[], list[dict[str, Any]]]:
        return lambda: convert_to_coco(next(predict.stream_packed([image])), 1)

    def compare(found: Instances, expected: dict[str, npt.NDArray[Any]]) -> str:
        return compare_instances(found, _read_instances(expected, (height, width)))

    with load_models(args, image, make_stock, image) as (stock, ours):
        part.rows = time_case(
            _CASES[0],
            {level: find(predictor) for level, predictor in ours.items()},
            args.rounds,
            compare,
            partial(stock.time, _CASES[0]),
            parts_of=[level for level in ours if level in _PARTED and args.device == "cpu"],
        )
        part.rows += time_case(
            _CASES[1],
            {level: encode(predictor) for level, predictor in ours.items()},
            args.rounds,
            _compare_results,
            partial(stock.time, _CASES[1]),
        )
    return part


def time_case(
    case: str,
    contenders: dict[str, Callable[[], Any]],
    rounds: int,
    compare: Callable[[Any, Any], str],
    stock: Callable[[], tuple[float, Any]] | None = None,
    parts_of: Sequence[str] = (),
) -> list[TimedCase]:
    """Time contenders and compare their results.

    The baseline is detectron2 or, without `stock`, the first contender. `stock` returns seconds and
    a result, as `Remote.time` does. The products of each contender in `parts_of` get a row of their
    own.
    """
    found: dict[str, Any] = {}
    turns = {name: partial(time_into, found, name, call) for name, call in contenders.items()}
    if stock is not None:

        def take_turn() -> Times:
            seconds, found[BASELINE] = stock()
            return {"": seconds}

        turns = {BASELINE: take_turn, **turns}
    baseline = next(iter(turns))
    turns |= {
        f"{name}, products alone": partial(_time_products, contenders[name]) for name in parts_of
    }
    rows = compare_rows(case, take_turns(turns, rounds), baseline)
    for row in rows:
        if row.contender != baseline and row.contender in found:
            row.output = compare(found[row.contender], found[baseline])
    return rows


def _time_products(call: Callable[[], Any]) -> Times:
    """Return the seconds that a call spends in convolutions and matrix products on the CPU."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    events = profiler.key_averages()
    spent = sum(event.self_cpu_time_total for event in events if _PRODUCTS.search(event.key))
    return {"": spent / 1e6}
