"""Writes a model's network as an ONNX or OpenVINO file, with metadata for prediction.

PyTorch has two exporters. The newer exporter (`dynamo=True`) stops at a branch of detectron2's RPN
that depends on the data, so the tracing exporter is used. Traced on one image, the network takes
images of any size. The least opset is 16, the first with RoIAlign's `aligned`.
"""

import contextlib
import inspect
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.export.torchscript_patch import patch_builtin_len
from torch import nn

from ..errors import UserError, import_extra, shorten
from ..files import explain_failed_write
from ..modeling.exported import RT_INFO, get_openvino_core

__all__ = ["convert_to_openvino", "require_exportable", "write_metadata", "write_onnx"]

OPSET = 17
META_ARCHITECTURES = ("GeneralizedRCNN", "MaskRCNN", "MaskRCNNExtFCIS")


def require_exportable(cfg: CfgNode) -> None:
    """Check the kind of model.

    Raises:
        UserError: the model has no RPN, predicts keypoints, or is of another kind, or the config
            asks for test-time augmentation.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    if cfg.MODEL.LOAD_PROPOSALS or name == "MaskRCNNExtRCNN":
        raise UserError(
            "only models with an RPN can be exported; this one reads proposals "
            "(MODEL.LOAD_PROPOSALS), and an exported file cannot read any"
        )
    if name not in META_ARCHITECTURES:
        raise UserError(
            f"MODEL.META_ARCHITECTURE {name} cannot be exported; expected one of "
            f"{', '.join(META_ARCHITECTURES)}"
        )
    if cfg.MODEL.KEYPOINT_ON:
        raise UserError("models with keypoints (MODEL.KEYPOINT_ON) cannot be exported")
    if cfg.TEST.AUG.ENABLED:
        raise UserError(
            "an exported model has no test-time augmentation: set TEST.AUG.ENABLED False (at the "
            "end of the command line: --opts TEST.AUG.ENABLED False)"
        )


class _Network(nn.Module):
    """From an image (C, H, W) to the fields of its raw `Instances`, in the order of `names`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.names: list[str] = []

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.no_grad(), patch_builtin_len():
            raw = self.model.inference([{"image": image}], do_postprocess=False)[0]
        fields = raw.get_fields()
        self.names = list(fields)
        return tuple(getattr(value, "tensor", value) for value in fields.values())


def _batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float
) -> torch.Tensor:
    """Return the result of torchvision's `batched_nms` in a trace, but without its branch.

    It shifts the boxes of each class to a separate place. torchvision has a branch for the case
    without boxes, and OpenVINO turns this branch of the ONNX file into a box of undefined numbers.
    """
    largest = torch.cat([boxes.reshape(-1), boxes.new_zeros(1)]).max()
    shifts = idxs.to(boxes) * (largest + 1)
    return torchvision.ops.nms(boxes + shifts[:, None], scores, iou_threshold)


@contextlib.contextmanager
def _without_branches() -> Iterator[None]:
    original = torchvision.ops.boxes.batched_nms  # detectron2's `batched_nms` calls it
    torchvision.ops.boxes.batched_nms = _batched_nms
    try:
        yield
    finally:
        torchvision.ops.boxes.batched_nms = original


def write_onnx(model: nn.Module, image: torch.Tensor, path: str | os.PathLike[str]) -> None:
    """Write the network of a model, without metadata.

    Args:
        model: in eval mode, on the CPU, in float32.
        image: (C, H, W) float32, an image in which the model finds something.
        path: a file to write.

    Raises:
        UserError: PyTorch cannot export a part of the model, or the disk is full.
    """
    network = _Network(model).eval()
    network(image)
    options: dict[str, Any] = {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:  # from PyTorch 2.5 on
        options["dynamo"] = False
    axes = {name: {0: "instances"} for name in network.names}
    try:
        with warnings.catch_warnings(), _without_branches():
            warnings.simplefilter("ignore")  # a trace may be wrong; the check of parity tests it
            torch.onnx.export(
                network,
                (image,),
                os.fspath(path),
                opset_version=OPSET,
                input_names=["image"],
                output_names=network.names,
                dynamic_axes={"image": {1: "height", 2: "width"}, **axes},
                **options,
            )
    except Exception as error:  # of many types
        if full := explain_failed_write(error):
            raise full from error
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise UserError(
            "PyTorch cannot export this model to ONNX: "
            f"{shorten(lines[-1], 300) if lines else type(error).__name__}"
        ) from error


def write_metadata(path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> None:
    """Add metadata to an ONNX or OpenVINO file, in place.

    Args:
        path: a `.onnx` or `.xml` file.
        metadata: see `modeling.exported.METADATA`; text stays as it is, the rest becomes json.
    """
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in metadata.items()
    }
    if os.fspath(path).endswith(".onnx"):
        onnx = import_extra("onnx", "onnx", "export to ONNX")
        proto = onnx.load(os.fspath(path))
        known = {entry.key: entry for entry in proto.metadata_props}
        for key, text in texts.items():
            entry = known.get(key) or proto.metadata_props.add()
            entry.key, entry.value = key, text
        onnx.save(proto, os.fspath(path))
        return
    openvino = import_extra("openvino", "openvino", "export to OpenVINO")
    model = get_openvino_core().read_model(os.fspath(path))
    for key, text in texts.items():
        model.set_rt_info(text, [RT_INFO, key])
    openvino.save_model(model, os.fspath(path), compress_to_fp16=False)


def convert_to_openvino(onnx_path: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write an ONNX file as OpenVINO's `.xml` and `.bin`, in float32, without metadata.

    Raises:
        UserError: OpenVINO is missing, or cannot convert the file.
    """
    openvino = import_extra("openvino", "openvino", "export to OpenVINO")
    try:
        model = get_openvino_core().read_model(os.fspath(onnx_path))
        openvino.save_model(model, os.fspath(path), compress_to_fp16=False)
    except Exception as error:
        raise UserError(f"OpenVINO cannot convert this model: {shorten(error, 300)}") from error
