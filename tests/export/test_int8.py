"""Quantization: a layer with an activation is as exact as the activation's range allows."""

import warnings
from inspect import signature

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx", reason='needs pip install "mask_rcnn_ext[onnx]"')
runtime = pytest.importorskip("onnxruntime", reason='needs pip install "mask_rcnn_ext[onnx]"')

from mask_rcnn_ext.export.int8 import quantize_onnx  # noqa: E402


class Wide(nn.Module):
    """A convolution whose outputs reach far beyond the range of its activation."""

    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.activation, self.second = (
            nn.Conv2d(3, 8, 3),
            activation,
            nn.Conv2d(8, 4, 1),
        )
        self.first.weight.data *= 400

    def forward(self, image):
        maps = self.activation(self.first(image[None]))
        return self.second(maps), image.clamp(0.2, 0.4)


def run(path, image):
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})


@pytest.fixture(params=[nn.ReLU(), nn.ReLU6(), nn.Hardtanh(-1, 1)], ids=["relu", "relu6", "clip"])
def files(request, tmp_path):
    """A network, its images, the files in float32 and in int8, and the tensors of the latter."""
    rng = np.random.default_rng(0)
    images = [rng.random((3, 24, 32), dtype=np.float32) - 0.5 for _ in range(4)]
    model, path = Wide(request.param).eval().requires_grad_(False), tmp_path / "model.onnx"
    options = {"dynamo": False} if "dynamo" in signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            model, (torch.tensor(images[0]),), str(path), input_names=["image"], **options
        )
    quantize_onnx(path, tmp_path / "int8.onnx", images[:3], 3)
    return model, images, path, tmp_path / "int8.onnx"


def test_a_layer_is_rounded_after_its_activation(files):
    model, images, path, int8_path = files
    maps = [model.activation(model.first(torch.tensor(image)[None])) for image in images[:3]]
    lowest, highest = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    graph = onnx.load(str(int8_path)).graph
    numbers = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    first, second = [node for node in graph.node if node.op_type == "Conv"]
    node, between = made[second.input[0]], []
    while node.output[0] != first.output[0]:
        between.insert(0, node)
        node = made[node.input[0]]
    names = [node.op_type for node in between if node.op_type not in ("Relu", "Clip")]
    assert names == ["QuantizeLinear", "DequantizeLinear"]
    step = numbers[between[-1].input[1]]
    assert step == pytest.approx((highest - lowest) / 255, rel=1e-3)
    expected, found = run(path, images[3])[0], run(int8_path, images[3])[0]
    assert 0 < np.std(found - expected) < 0.05 * np.std(expected)


def test_openvino_gets_a_layer_that_is_rounded_where_it_enters_the_next(files, tmp_path):
    """Replaced by a rounding, the activation of EfficientNet-Lite is computed wrongly there."""
    openvino = pytest.importorskip("openvino", reason='needs pip install "mask_rcnn_ext[openvino]"')
    _, images, path, _ = files
    target = tmp_path / "openvino.onnx"
    quantize_onnx(path, target, images[:3], 3, openvino=True)
    nodes = onnx.load(str(target)).graph.node
    first = next(node for node in nodes if node.op_type == "Conv")
    assert [n.op_type for n in nodes if first.output[0] in n.input] in (["Relu"], ["Clip"])
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(str(target), "CPU", settings)
    expected, found = run(path, images[3])[0], compiled({"image": images[3]})[0]
    assert 0 < np.std(found - expected) < 0.05 * np.std(expected)


def test_an_activation_without_a_layer_stays_in_float32(files):
    _, images, path, int8_path = files
    np.testing.assert_array_equal(run(int8_path, images[3])[1], run(path, images[3])[1])
