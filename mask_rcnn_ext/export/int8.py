"""Static quantization of an ONNX file to 8-bit integers, with ONNX Runtime.

The convolutions and fully connected layers get int8 weights, one scale for each output channel, and
uint8 inputs, whose ranges are measured on the user's images. The last layers, which give scores,
boxes and masks, stay in float32: they are small, and 8 bits for the offset of a box cost AP.
OpenVINO reads the result too.
"""

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ..errors import import_extra

__all__ = ["quantize_onnx"]

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# The outputs of a layer are rounded after its activation: before it, their range may be far wider.
_ACTIVATIONS = ("Relu", "Clip")
_LAST = re.compile(  # in the names of nodes; the levels of an RPN and of a cascade are numbered
    r"/(objectness_logits|anchor_deltas|box_predictor|predictor|score_maps|box_maps)[._\d]*/"
)


def quantize_onnx(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    images: Iterable[npt.NDArray[np.float32]],
    count: int,
    *,
    openvino: bool = False,
) -> None:
    """Write the quantized form of an ONNX file; the memory does not grow with the number of images.

    Args:
        path: a file of `write_onnx`.
        target: a file to write.
        images: (C, H, W) each, as the network takes them. One is in memory at a time.
        count: the number of images.
        openvino: write a file for OpenVINO, which rounds only what enters a layer. It computes
            wrong values where a limited activation, as in EfficientNet-Lite, is replaced by the
            rounding of the layer before. ONNX Runtime needs rounded outputs to be fast.

    Raises:
        UserError: onnx or ONNX Runtime is missing.
    """
    onnx = import_extra("onnx", "onnx", "int8 export")
    library = import_extra("onnxruntime.quantization", "onnx", "int8 export")
    nodes = onnx.load(os.fspath(path)).graph.node
    with _without_advice():
        library.quantize_static(
            os.fspath(path),
            os.fspath(target),
            _Reader(images, count),
            quant_format=library.QuantFormat.QDQ,
            op_types_to_quantize=[*LAYERS, *_ACTIVATIONS],
            nodes_to_exclude=[node.name for node in nodes if _LAST.search(node.name)],
            per_channel=True,
            activation_type=library.QuantType.QUInt8,
            weight_type=library.QuantType.QInt8,
            extra_options={
                "CalibStridedMinMax": 1,  # keeps the ranges of one image at a time
                "OpTypesToExcludeOutputQuantization": list(LAYERS) if openvino else [],
            },
        )


class _Reader:
    """The images as ONNX Runtime's calibration reads them: by ranges of their numbers, in order."""

    def __init__(self, images: Iterable[npt.NDArray[np.float32]], count: int) -> None:
        self._images, self._count, self._left = iter(images), count, count

    def __len__(self) -> int:
        return self._count

    def set_range(self, start_index: int, end_index: int) -> None:
        self._left = end_index - start_index

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        self._left -= 1
        return None if self._left < 0 else {"image": next(self._images)}


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Hide the library's advice to prepare the model with another program."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
