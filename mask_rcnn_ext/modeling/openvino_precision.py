"""Keeps coordinates and scores in float32 when an OpenVINO file runs in bfloat16.

OpenVINO would also compute the corners of proposals in bfloat16. Its 8 bits are too few for them:
RoIs would move by whole pixels. Convolutions, matrix products and the layers between them may use
bfloat16. The layers from there to the outputs, and to the boxes of RoIAlign, may not. Mixed
precision in PyTorch follows the same rule, see `keep_float32_outputs`.
"""

import xml.etree.ElementTree as ElementTree
from collections import defaultdict

__all__ = ["mark_float32_layers"]

_PRODUCTS = {
    *("Convolution", "GroupConvolution", "ConvolutionBackpropData"),
    *("GroupConvolutionBackpropData", "MatMul"),
}
_ENDS = _PRODUCTS | {"ROIAlign", "ShapeOf"}  # shapes are integers whatever the precision
_ROI_PORT = "1"  # of RoIAlign; port 0 takes the features
_MARK = {"name": "precise", "version": "0"}  # OpenVINO leaves such a layer in its precision


def mark_float32_layers(xml: bytes) -> bytes:
    """Mark the layers that must stay in float32.

    Args:
        xml: the text of a `.xml` file that `openvino.save_model` wrote.

    Returns:
        The same text with the marks.
    """
    root = ElementTree.fromstring(xml)
    layers = {layer.attrib["id"]: layer for layer in root.findall("./layers/layer")}
    sources: dict[str, list[tuple[str, str]]] = defaultdict(list)  # of a layer: port and layer
    for edge in root.findall("./edges/edge"):
        sources[edge.attrib["to-layer"]].append((edge.attrib["to-port"], edge.attrib["from-layer"]))
    waiting = [number for number, layer in layers.items() if layer.attrib["type"] == "Result"]
    for number, layer in layers.items():
        if layer.attrib["type"] == "ROIAlign":
            waiting += [source for port, source in sources[number] if port == _ROI_PORT]
    seen: set[str] = set()
    while waiting:
        number = waiting.pop()
        kind = layers[number].attrib["type"]
        if number in seen or kind in _ENDS:
            continue
        seen.add(number)
        if kind not in ("Result", "Parameter", "Const"):
            _mark(layers[number])
        waiting += [source for _, source in sources[number]]
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _mark(layer: ElementTree.Element) -> None:
    info = layer.find("rt_info")
    if info is None:
        info = ElementTree.Element("rt_info")
        layer.insert(0 if layer.find("data") is None else 1, info)  # in the order of OpenVINO
    ElementTree.SubElement(info, "attribute", _MARK)
