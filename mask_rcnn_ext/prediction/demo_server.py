"""A web server for the demo page: a browser sends it an image and shows the objects in it.

It is Python's `http.server`, with the protection that `http.server` lacks. A page of another site
cannot use it, not even if the site's name is made to point to this machine (DNS rebinding). The
number and size of uploads, connections and waiting images are limited, and one image at a time is
predicted. The page needs no other host, and its content security policy keeps the browser from
asking one.
"""

import errno
import ipaddress
import json
import logging
import secrets
import socket
import socketserver
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import UserError, count_noun, require_range
from ..report.drawing.pictures import choose_color
from ..report.render import render_page
from .demo_answer import MAX_PIXELS, answer_upload
from .predictor import Predictor

__all__ = ["MAX_BYTES", "DemoServer"]

MAX_BYTES = 64_000_000  # of an upload
_WAITING = 4  # images that may wait while another image is predicted
_CONNECTIONS = 32
_TIMEOUT = 20.0  # seconds without a byte, after which a connection is closed
_COLORS = 24

logger = logging.getLogger(__name__)


class DemoServer(socketserver.ThreadingTCPServer):
    """The server of the demo page. It opens its port at once and gets its model later.

    Example:
        with DemoServer() as server:
            print(server.url)
            server.serve(Predictor("output/run/config.yaml", "output/run/model_final.pth"))

    Args:
        host: the address to listen at. "127.0.0.1" can be reached from this machine only,
            "0.0.0.0" from every machine in the network.
        port: 0 takes any free port.

    Raises:
        UserError: the port is in use or not allowed, or this machine does not have the address.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str = "127.0.0.1", port: int = 7860) -> None:
        require_range("port", port, 0, 65535)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.address_family, address = found[0][0], found[0][4]
            super().__init__(address, _Handler)  # type: ignore[arg-type]
        except OSError as error:
            raise UserError(_explain_no_port(host, port, error)) from error
        self.is_local = ipaddress.ip_address(str(self.server_address[0])).is_loopback
        self._names = {"localhost", host.lower()}
        if not self.is_local:
            self._names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
        self._connections = threading.BoundedSemaphore(_CONNECTIONS)
        self._places = threading.BoundedSemaphore(1 + _WAITING)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="predict")

    @property
    def url(self) -> str:
        """The address of the page for a browser on this machine."""
        host, port = self.server_address[:2]
        address = ipaddress.ip_address(str(host))
        if address.is_unspecified:
            address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
        return f"http://{f'[{address}]' if address.version == 6 else address}:{port}/"

    def serve(self, predictor: Predictor) -> None:
        """Answer until an exception, such as `KeyboardInterrupt`; then finish the current image."""
        self._predictor = predictor
        self._nonce = secrets.token_urlsafe(16)
        self._page = render_page(
            "demo.html.j2",
            Path(__file__).with_name("templates"),
            nonce=self._nonce,
            name=Path(predictor.cfg.MODEL.WEIGHTS).name,
            model={
                "names": predictor.class_names,
                "categories": predictor.category_ids,
                "colors": [
                    choose_color(i) for i in range(max(_COLORS, len(predictor.class_names)))
                ],
                "maxBytes": MAX_BYTES,
            },
            max_bytes=MAX_BYTES,
            max_pixels=MAX_PIXELS,
        ).encode()
        try:
            self.serve_forever()
        finally:
            self._worker.shutdown(cancel_futures=True)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection; close the connection if there are too many."""
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a connection, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a connection that broke; other connections continue."""
        logger.debug("a connection ended early", exc_info=True)

    def knows_host(self, host: str) -> bool:
        """Return whether the header `Host` of a request is a name or an address of this server.

        Another site can let its own name point to our address, but it cannot use an IP address.
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def _predict(self, data: bytes) -> bytes:
        began = time.monotonic()
        answer = answer_upload(self._predictor, data)
        answer["seconds"] = round(time.monotonic() - began, 2)
        logger.info(
            "%d x %d pixels, %s, %.2f s",
            answer["width"],
            answer["height"],
            count_noun(len(answer["objects"]), "object"),
            answer["seconds"],
        )
        return json.dumps(answer).encode()


def _explain_no_port(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use, perhaps by another demo page. End that program, or "
            "give another port, for example --port 7861"
        )
    if error.errno == errno.EACCES:
        return f"port {port} of {host} is not allowed: take one from 1024 to 65535"
    return f"cannot listen at {host}, port {port}: {error.strerror or error}"


class _Refusal(Exception):
    """A request that is refused, with a status of HTTP and a sentence."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer
    server_version, sys_version = "mask_rcnn_ext", ""
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        try:
            self._require_host()
            if urlsplit(self.path).path != "/":
                raise _Refusal(404, "there is no such page")
        except _Refusal as refusal:
            self._refuse(refusal.status, refusal.reason)
        else:
            self._send(200, "text/html; charset=utf-8", self.server._page)

    def do_POST(self) -> None:
        length = 0
        try:
            length = self._get_length()
            self._require_host()
            self._require_own_page()
            if self.path != "/predict":
                raise _Refusal(404, "there is no such page")
            if not length:
                raise _Refusal(411, "the request has no length, or is empty")
            if length > MAX_BYTES:
                said = f"the file has {length / 1e6:,.0f} MB; the demo page takes up to"
                raise _Refusal(413, f"{said} {MAX_BYTES / 1e6:.0f} MB")
            if not self.server._places.acquire(blocking=False):
                raise _Refusal(503, "other images are waiting already; try again in a moment")
        except _Refusal as refusal:
            # A browser shows the answer only if its request was read to the end.
            self._drop(min(length, MAX_BYTES))
            self._refuse(refusal.status, refusal.reason)
            return
        try:
            data = self.rfile.read(length)
            if len(data) == length:  # else the browser has closed the connection
                self._answer(data)
        finally:
            self.server._places.release()

    def _answer(self, data: bytes) -> None:
        """Predict on an image when its turn comes."""
        try:
            answer = self.server._worker.submit(self.server._predict, data).result()
        except UserError as error:
            self._refuse(400, str(error))
        except CancelledError:
            self._refuse(503, "the program that shows this page has been ended")
        except Exception as error:  # such as too little memory
            logger.error("the prediction failed (%s: %s)", type(error).__name__, error)
            logger.debug("the prediction failed", exc_info=True)
            said = "the prediction failed; the terminal that runs the demo page says why"
            self._refuse(500, said)
        else:
            self._send(200, "application/json", answer)

    def _require_host(self) -> None:
        if not self.server.knows_host(self.headers.get("Host", "")):
            raise _Refusal(
                403,
                "this name is not known here. Open the page by its IP address or as localhost, or "
                "give the name with --host",
            )

    def _require_own_page(self) -> None:
        """Refuse requests that the page of another site sends."""
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != self.headers.get("Host"):
            raise _Refusal(403, "a page of another site may not use the model")
        # Before another site's page may send this type, the browser asks us, and gets no answer.
        if self.headers.get("Content-Type") != "application/octet-stream":
            raise _Refusal(415, "expected Content-Type: application/octet-stream")

    def _get_length(self) -> int:
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0

    def _drop(self, length: int) -> None:
        while length > 0 and (data := self.rfile.read(min(length, 1 << 16))):
            length -= len(data)

    def _refuse(self, status: int, reason: str) -> None:
        self._send(status, "application/json", json.dumps({"error": reason}).encode())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that is not HTTP or has another method."""
        self._refuse(code, message or "the request is not understood")

    def _send(self, status: int, kind: str, body: bytes) -> None:
        nonce = self.server._nonce
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; "
            "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", policy),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "same-origin"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("%s %r", self.address_string(), format % args)
