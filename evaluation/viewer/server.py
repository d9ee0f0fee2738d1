"""The viewer's server: the page, its blocks, and the layers that it asks for. Nothing but the standard library."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from chorus_common.runtime.errors import ChorusError, ConfigError
from evaluation.viewer.content import live_content
from evaluation.viewer.page import html
from evaluation.viewer.scene_model import SceneModel


class ViewerServer:
    """Serves one scene until `stop`; it changes nothing, and every browser has a view of its own.

    Args:
        host, port: port 0 = any free one. Bound to this machine unless told otherwise: nothing asks for a password.

    Raises ConfigError where the port is taken.
    """

    def __init__(self, model: SceneModel, *, host: str = "127.0.0.1", port: int = 8080) -> None:
        self.model = model
        self._content = live_content(model)
        self._blocks = self._content.blocks()
        self._page = html(self._content, {}).encode()
        self._lock = threading.Lock()  # the model makes one thing at a time
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(self))
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port") from None
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """What to open in a browser."""
        host, port = self._server.server_address[:2]
        return f"http://{host if isinstance(host, str) else host.decode()}:{port}"

    def serve(self) -> None:
        """Answer until interrupted or stopped."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """End `serve`, which another thread is in, and let the port go."""
        self._server.shutdown()
        self.close()

    def close(self) -> None:
        """Let the port go, after `serve` has ended."""
        self._server.server_close()

    def answer(self, target: str) -> tuple[str, bytes] | None:
        """(content type, body) of a path with its query; None = there is no such thing.

        Raises ChorusError for a question that cannot be answered.
        """
        parts = urlsplit(target)
        asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path == "/":
            return "text/html; charset=utf-8", self._page
        if parts.path.startswith("/block/"):
            block = self._blocks.get(parts.path.removeprefix("/block/"))
            return None if block is None else ("application/octet-stream", block)
        if parts.path == "/layer":
            return self._json(*self._layer(asked))
        if parts.path == "/objects":
            with self._lock:
                objects = self.model.objects
            header = {"objects": list(objects.described)}
            return self._json(header, objects.packed(self._content.splats.order))
        return None

    def _layer(self, asked: dict[str, str]) -> tuple[dict[str, Any], bytes]:
        order = self._content.splats.order
        with self._lock:
            if "query" in asked:
                layer = self.model.answer(asked["query"])
            elif "row" in asked:
                row = asked["row"]
                if not row.isdigit() or int(row) >= len(order):
                    raise ConfigError(f"there is no row {row}")
                layer = self.model.like(int(order[int(row)]))
            else:
                layer = self.model.layer(asked.get("layer", ""))
        return layer.packed(order)

    @staticmethod
    def _json(header: dict[str, Any], planes: bytes) -> tuple[str, bytes]:
        answer = {"header": header, "planes": base64.b64encode(planes).decode("ascii")}
        return "application/json", json.dumps(answer, allow_nan=False).encode()


def _handler(server: ViewerServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                found = server.answer(self.path)
            except ChorusError as error:
                return self._reply(400, "text/plain; charset=utf-8", str(error).encode())
            if found is None:
                return self._reply(404, "text/plain; charset=utf-8", b"there is no such thing here")
            self._reply(200, *found)

        def _reply(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Requests are not the user's business."""

    return Handler
