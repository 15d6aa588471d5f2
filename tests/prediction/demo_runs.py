"""A demo server in a thread, with a small model: fixtures, and requests to it."""

import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from tiny_model import picture, tiny_cfg

from mask_rcnn_ext import Predictor
from mask_rcnn_ext.prediction.demo_server import DemoServer

__all__ = ["HOSTILE", "PNG", "ask", "demo_predictor", "encode", "run_server", "server"]

HOSTILE = "</script><img src=x onerror='document.title = 1'>"


def encode(image: np.ndarray, kind: str = "PNG", **options) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, kind, **options)
    return encoded.getvalue()


PNG = encode(picture(90, 130))


@pytest.fixture(scope="module")
def demo_predictor(tiny_weights) -> Predictor:
    cfg = tiny_cfg(3)
    cfg.MASK_RCNN_EXT.CLASS_NAMES = ["cat", HOSTILE, "牛"]
    cfg.MASK_RCNN_EXT.CATEGORY_IDS = [2, 7, 90]
    return Predictor(cfg, tiny_weights)


@contextmanager
def run_server(predictor: Predictor, host: str = "127.0.0.1") -> Iterator[DemoServer]:
    with DemoServer(host, 0) as server:
        thread = threading.Thread(target=server.serve, args=(predictor,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(demo_predictor) -> Iterator[DemoServer]:
    with run_server(demo_predictor) as running:
        yield running


def ask(
    server: DemoServer, method: str = "POST", path: str = "/predict", body: bytes = PNG, **headers
) -> tuple[http.client.HTTPResponse, dict | str]:
    """Return the response to a request like one of the page, and its content.

    A header that is None is left out; "_" in its name stands for "-".
    """
    host, port = server.server_address[:2]
    sent = {
        "Host": f"{host}:{port}",
        "Origin": f"http://{host}:{port}",
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in sent.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body if method == "POST" else None)
    response = connection.getresponse()
    content = response.read().decode()
    connection.close()
    is_json = response.headers["Content-Type"] == "application/json"
    return response, json.loads(content) if is_json else content
