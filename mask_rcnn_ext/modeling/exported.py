"""Exported networks, ONNX and OpenVINO, that take the place of a model.

A file holds the network from the resized image to the raw `Instances` of the model: boxes in pixels
of the network's input, and the mask of each box. As text it holds everything else that prediction
needs, see `METADATA`. The rest is the same code as for a PyTorch model, which pastes the masks or
lets FCIS's RoIs vote.

`.onnx` needs ONNX Runtime, `pip install "mask_rcnn_ext[onnx]"`; `.xml`, with the `.bin` next to it,
needs OpenVINO, `pip install "mask_rcnn_ext[openvino]"`. Both run on the CPU. They are imported when
such a file is opened.
"""

import functools
import importlib
import json
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.config import CfgNode
from detectron2.modeling import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.logger import log_first_n
from torch import nn

from ..config import ExtCfgNode, get_cfg, keys_of
from ..config_node import flat_config
from ..errors import UserError, import_extra, name_some
from ..files import make_jsonable
from .fcis.detection import FCISDetection, read_detection_keys
from .openvino_precision import mark_float32_layers
from .precision import prepare_memory
from .speed import resolve_speed

__all__ = [
    "METADATA",
    "ExportedFCIS",
    "ExportedMaskRCNN",
    "Network",
    "get_exported_speeds",
    "get_openvino_core",
    "load_exported",
    "read_exported_config",
]

# Keys of the metadata of an ONNX file; in an OpenVINO file, below RT_INFO. `config` is yaml;
# the others are json.
METADATA = (
    *("class_names", "category_ids", "config", "preprocessing", "score_threshold"),
    *("parity", "int8", "made_with"),
)
RT_INFO = "mask_rcnn_ext"

# Keys that do not belong to the network, or whose value may be raised, see `load_exported`.
_OUTSIDE = {
    *("MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.ROI_HEADS.SCORE_THRESH_TEST"),
    *("MODEL.RETINANET.SCORE_THRESH_TEST", "MODEL.ROI_MASK_HEAD.PASTE_THRESH"),
    *("MODEL.FCIS.MASK_THRESH", "MODEL.FCIS.MASK_VOTING", "MODEL.FCIS.VOTE_IOU_THRESH"),
}
_Run = Callable[[npt.NDArray[np.float32]], Iterable[tuple[str, Any]]]
_INSIDE = ("INPUT.FORMAT", "TEST.DETECTIONS_PER_IMAGE", "MASK_RCNN_EXT.DATA.IMAGE_CHANNELS")


@functools.cache
def get_openvino_core() -> Any:
    """Return the only `openvino.Core` of this process; OpenVINO must be importable.

    Each core gives the thread a new stack for signal handlers and restores the former stack when
    the core is deleted. If the first of two cores is deleted first, the second core restores a
    stack that no longer exists, and the next signal, such as Ctrl-C, crashes the process. This core
    lives as long as the process.
    """
    core = importlib.import_module("openvino").Core()
    core.set_property({"ENABLE_MMAP": False})  # so the file can be overwritten while it is open
    return core


def get_exported_speeds(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the levels of speed of an exported file: OpenVINO can run in bfloat16."""
    return ("exact", "fastest") if os.fspath(path).lower().endswith(".xml") else ("exact",)


class Network:
    """The network of an exported file.

    Args:
        path: a `.onnx` or `.xml` file.

    Attributes:
        path: as given.
        bfloat16: whether an OpenVINO file runs in bfloat16, where coordinates and scores do not
            need float32. It is read when the first image comes.
        metadata: see `METADATA`.

    Raises:
        UserError: the library is missing, or the file is missing, is damaged, or was not written by
            this package.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path, self.bfloat16 = os.fspath(path), False
        if not os.path.isfile(self.path):
            raise UserError(f"exported model not found: {os.path.abspath(self.path)}")
        onnx = self.path.lower().endswith(".onnx")
        weights = Path(self.path).with_suffix(".bin")
        if not onnx and not weights.is_file():
            raise UserError(
                f"{self.path}: {weights.name} is not next to it, and holds its weights. Copy both "
                "files"
            )
        extra, module = ("onnx", "onnxruntime") if onnx else ("openvino", "openvino")
        self._library = import_extra(module, extra, f"an exported model ({self.path})")
        self._open = self._open_onnx if onnx else self._open_openvino
        self._opening = threading.Lock()
        self._run: _Run | None = None  # made for the first image, since optimising takes a while
        try:
            texts = self._read_onnx() if onnx else self._read_openvino()
        except Exception as error:  # of types of the libraries
            reason = str(error).strip().splitlines()  # OpenVINO's begin with lines of its code
            raise UserError(
                f"{self.path}: {module} cannot open it ({reason[-1] if reason else error!r}). "
                "Export the model again with mask-rcnn-ext export"
            ) from error
        if not {"class_names", "config"} <= texts.keys():
            raise UserError(
                f"{self.path}: has no config and class names in its metadata. Expected a file of "
                "mask-rcnn-ext export"
            )
        self.metadata: dict[str, Any] = {
            key: texts[key] if key == "config" else json.loads(texts[key])
            for key in METADATA
            if key in texts
        }

    def _start_onnx(self, *, optimise: bool) -> Any:
        options = self._library.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # its warnings are of shapes that it can't infer
        if not optimise:
            options.graph_optimization_level = self._library.GraphOptimizationLevel.ORT_DISABLE_ALL
        return self._library.InferenceSession(
            self.path, options, providers=["CPUExecutionProvider"]
        )

    def _read_onnx(self) -> dict[str, str]:
        return dict(self._start_onnx(optimise=False).get_modelmeta().custom_metadata_map)

    def _open_onnx(self) -> _Run:
        session = self._start_onnx(optimise=True)
        names = [output.name for output in session.get_outputs()]
        return lambda image: zip(names, session.run(None, {"image": image}), strict=True)

    def _read_openvino(self) -> dict[str, str]:
        model = get_openvino_core().read_model(self.path)
        keys = [key for key in METADATA if model.has_rt_info([RT_INFO, key])]
        return {key: model.get_rt_info([RT_INFO, key]).astype(str) for key in keys}

    def _open_openvino(self) -> _Run:
        core = get_openvino_core()
        # Its default on a CPU with AMX is bfloat16, which finds other instances.
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.bfloat16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        if self.bfloat16:
            path = Path(self.path)
            weights = self._library.Tensor(np.fromfile(path.with_suffix(".bin"), np.uint8))
            model = core.read_model(mark_float32_layers(path.read_bytes()), weights)
        else:
            model = core.read_model(self.path)
        names = [output.get_any_name() for output in model.outputs]  # compiled, they have several
        compiled = core.compile_model(model, "CPU", settings)
        # A request has room for one image, so threads that run together need several.
        free: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def run(image: npt.NDArray[np.float32]) -> Iterable[tuple[str, Any]]:
            try:
                request = free.get_nowait()
            except queue.Empty:
                request = compiled.create_infer_request()
            found = request.infer({"image": image}, share_inputs=True).to_tuple()
            values = [np.array(value) for value in found]  # the next image replaces them
            free.put(request)
            return zip(names, values, strict=True)

        return run

    def __call__(self, image: npt.NDArray[np.float32]) -> dict[str, torch.Tensor]:
        """Return the fields of the raw `Instances` of an image, (C, H, W), by their names."""
        with self._opening:
            if self._run is None:
                self._run = self._open()
        found = self._run(np.ascontiguousarray(image, dtype=np.float32))
        return {name: torch.from_numpy(value) for name, value in found}


class _Exported(nn.Module):
    """A network in the place of `GeneralizedRCNN`, for inference.

    Args:
        network: the network.
        score_threshold: instances with a lower score are dropped.
    """

    def __init__(self, network: Network, score_threshold: float) -> None:
        super().__init__()
        self.network, self.score_threshold = network, score_threshold
        self.eval()

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Return {"instances": `Instances`} for each image, in pixels of the output."""
        found: list[Any] = self.inference(batched_inputs)
        return found

    def inference(
        self, batched_inputs: list[dict[str, Any]], *, do_postprocess: bool = True
    ) -> list[dict[str, Instances]] | list[Instances]:
        """See `GeneralizedRCNN.inference`; one image runs after the other, results are on the CPU.

        Args:
            batched_inputs: `image` (C, H, W), and `height` and `width` of the output.
            do_postprocess: False returns the raw `Instances` of each image.
        """
        raw = [self._find(image["image"]) for image in batched_inputs]
        if not do_postprocess:
            return raw
        sizes = [image["image"].shape[-2:] for image in batched_inputs]
        return [
            {"instances": self._finish(found, image.get("height", h), image.get("width", w))}
            for found, image, (h, w) in zip(raw, batched_inputs, sizes, strict=True)
        ]

    def _finish(self, raw: Instances, height: int, width: int) -> Instances:
        raise NotImplementedError

    def _find(self, image: torch.Tensor) -> Instances:
        fields = self.network(image.detach().cpu().numpy())
        size = (int(image.shape[-2]), int(image.shape[-1]))
        wrapped = {
            name: Boxes(value) if name.endswith("boxes") else value
            for name, value in fields.items()
        }
        return Instances(size, **wrapped)


class ExportedMaskRCNN(_Exported):
    """An exported `GeneralizedRCNN` or `MaskRCNN`.

    Args:
        network: the network.
        score_threshold: instances with a lower score are dropped.
        mask_threshold: see `MaskRCNN`.
    """

    def __init__(self, network: Network, score_threshold: float, mask_threshold: float) -> None:
        super().__init__(network, score_threshold)
        self.mask_threshold = mask_threshold

    def _find(self, image: torch.Tensor) -> Instances:
        raw = super()._find(image)
        return raw[raw.scores > self.score_threshold]

    def _finish(self, raw: Instances, height: int, width: int) -> Instances:
        return detector_postprocess(raw, height, width, self.mask_threshold)


class ExportedFCIS(FCISDetection, _Exported):
    """An exported `FCIS`. Its RoIs vote as in the PyTorch model.

    Args:
        network: the network.
        **attributes: see `read_detection_keys`.
    """

    def __init__(self, network: Network, **attributes: Any) -> None:
        super().__init__(network, attributes["score_threshold"])
        for name, value in attributes.items():
            setattr(self, name, value)

    def _finish(self, raw: Instances, height: int, width: int) -> Instances:
        return self.detect(raw, height, width)


def read_exported_config(
    path: str | os.PathLike[str], *, add_keys: Callable[[ExtCfgNode], None] | None = None
) -> ExtCfgNode:
    """Return the config of an exported file, with its path as `MODEL.WEIGHTS`.

    Args:
        path: the file.
        add_keys: declares config keys of a project, see `load_config`.

    Raises:
        UserError: see `Network`; or the config has an unknown key.
    """
    return _config_of(Network(path), add_keys)


def load_exported(cfg: CfgNode) -> tuple[CfgNode, nn.Module]:
    """Open the exported file that `MODEL.WEIGHTS` of a config names.

    Args:
        cfg: the config; keys that belong to the network must have the values of the export.

    Returns:
        A config like `cfg`, without the keys of speed; and the model, which
        `modeling.packed_outputs.run_model` takes. At the level "fastest", an OpenVINO file runs in
        bfloat16 if the CPU computes in it and all RoI layers are RoIAlign. Otherwise the model
        computes in float32.

    Raises:
        UserError: see `Network`; or a key of the network, or the classes, differ from the file, or
            the score threshold is lower, or the config asks for test-time augmentation.
    """
    network = Network(cfg.MODEL.WEIGHTS)
    _require_same(cfg, network)
    cfg, frozen = cfg.clone(), cfg.is_frozen()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.MASK_RCNN_EXT.AMP_INFERENCE = "cpu", False
    prepare_memory(cfg)
    if cfg.MASK_RCNN_EXT.SPEED in get_exported_speeds(network.path):
        network.bfloat16 = resolve_speed(cfg).MASK_RCNN_EXT.AMP_INFERENCE and _keeps_boxes(cfg)
    cfg.MASK_RCNN_EXT.SPEED = "exact"
    if frozen:
        cfg.freeze()
    if cfg.MODEL.META_ARCHITECTURE == "MaskRCNNExtFCIS":
        return cfg, ExportedFCIS(network, **read_detection_keys(cfg))
    mask_threshold = 0.5
    if cfg.MODEL.META_ARCHITECTURE == "MaskRCNN":
        mask_threshold = cfg.MODEL.ROI_MASK_HEAD.PASTE_THRESH
    return cfg, ExportedMaskRCNN(network, cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, mask_threshold)


def _keeps_boxes(cfg: CfgNode) -> bool:
    """Return whether the boxes of RoIs can stay in float32 next to bfloat16; warn once if not.

    OpenVINO's layer for RoIPool rounds the boxes to the precision of the features. Other RoI layers
    are many small layers, in which `mark_float32_layers` cannot find the coordinates.
    """
    model = cfg.MODEL
    used = {model.ROI_BOX_HEAD.POOLER_TYPE}
    if model.META_ARCHITECTURE == "MaskRCNNExtFCIS":
        used = {"FCIS"}
    elif model.MASK_ON:
        used.add(model.ROI_MASK_HEAD.POOLER_TYPE)
    others = sorted(used - {"", "ROIAlign", "ROIAlignV2"})
    if others:
        said = f"MASK_RCNN_EXT.SPEED fastest: an export with {name_some(others)} runs in float32."
        log_first_n(logging.WARNING, said, name=__name__, key="message")
    return not others


def _config_of(
    network: Network, add_keys: Callable[[ExtCfgNode], None] | None = None
) -> ExtCfgNode:
    cfg = get_cfg()
    if add_keys:
        add_keys(cfg)
    cfg.merge_from_text(network.metadata["config"], str(network.path))
    cfg.MODEL.WEIGHTS = os.path.abspath(network.path)
    return cfg


def _require_same(cfg: CfgNode, network: Network) -> None:
    """Check that the config agrees with the config of the export, see `load_exported`."""
    path, exported = network.path, dict(flat_config(_config_of(network, keys_of(cfg))))
    if cfg.TEST.AUG.ENABLED:
        raise UserError(
            f"{path}: an exported model has no test-time augmentation: set TEST.AUG.ENABLED False"
        )
    differing = [
        f"{key} (exported with {exported[key]!r}, now {value!r})"
        for key, value in flat_config(cfg)
        if (key.startswith("MODEL.") and key not in _OUTSIDE) or key in _INSIDE
        if key in exported and make_jsonable(exported[key]) != make_jsonable(value)  # no tuples
    ]
    if differing:
        raise UserError(
            f"{path}: these keys are part of the exported model and cannot be changed: "
            f"{name_some(differing)}. Use the config of the run, or export the model again"
        )
    names, now = network.metadata["class_names"], list(cfg.MASK_RCNN_EXT.CLASS_NAMES)
    if now and now != names:
        raise UserError(
            f"{path}: was exported with the classes {name_some(names)}; the data has "
            f"{name_some(now)}. Give data with the same classes in the same order"
        )
    least, now = network.metadata["score_threshold"], cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST
    if now < least:
        raise UserError(
            f"{path}: was exported with the score threshold {least}, so it finds nothing below "
            f"{least}; got {now}. Export it again with a lower MODEL.ROI_HEADS.SCORE_THRESH_TEST"
        )
