"""The server's answers, over HTTP."""

from __future__ import annotations

import base64
import json
import threading
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from chorus_common.labels import SCANNET20
from chorus_common.runtime.errors import ConfigError
from evaluation.viewer.scene_model import SceneModel
from evaluation.viewer.server import ViewerServer
from tests.evaluation.viewer.models import room_model, toy_model


@contextmanager
def serving(model: SceneModel) -> Iterator[ViewerServer]:
    server = ViewerServer(model, port=0)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(timeout=10)


def get(server: ViewerServer, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(server.address + path, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def ask(server: ViewerServer, path: str) -> tuple[dict[str, Any], np.ndarray]:
    status, body = get(server, path)
    assert status == 200, body
    answer = json.loads(body)
    return answer["header"], np.frombuffer(zlib.decompress(base64.b64decode(answer["planes"])), np.uint8)


def test_it_answers_what_the_page_asks() -> None:
    model = room_model()
    with serving(model) as server:
        status, page = get(server, "/")
        assert status == 200
        assert b'id="scene"' in page
        assert b'id="block-place"' not in page
        order = server._content.splats.order
        assert len(zlib.decompress(get(server, "/block/opacity")[1])) == 600
        header, values = ask(server, "/layer?layer=prediction")
        names = {e["id"]: e["name"] for e in header["entries"]}
        labels = model.scene.gaussians.labels
        assert labels is not None
        wanted = np.where(labels[order] < 0, "none", np.array([*SCANNET20, ""])[labels[order]])
        assert [names[int(v)] for v in values] == wanted.tolist()
        header, values = ask(server, "/layer?query=a+chair")
        assert header["name"] == "“a chair”"
        chair = labels[order] == SCANNET20.index("chair")
        assert values[chair].min() > values[~chair].max()
        row = int(np.flatnonzero(chair)[0])
        _, values = ask(server, f"/layer?row={row}")
        assert (values[chair] == values.max()).all()
        header, values = ask(server, "/objects")
        ids = values[:600].astype(int) + 256 * values[600:].astype(int) - 1
        for described in header["objects"]:
            assert (ids == described["id"]).sum() == described["count"]


def test_what_cannot_be_answered_is_one_line() -> None:
    with serving(toy_model(50, features=False, labels=False)) as server:
        for path, status, words in (
            ("/nothing", 404, "no such thing"),
            ("/block/../secret", 404, "no such thing"),
            ("/layer?layer=prediction", 400, "unknown mode"),
            ("/layer?query=chair", 400, "no text side"),
            ("/layer?row=50", 400, "no row 50"),
            ("/layer?row=-1", 400, "no row -1"),
            ("/layer?row=1", 400, "no features"),
            ("/objects", 400, "no objects"),
        ):
            found, body = get(server, path)
            assert (found, words in body.decode()) == (status, True), (path, body)
        with pytest.raises(ConfigError, match="choose another --port"):
            ViewerServer(toy_model(50), port=int(server.address.rpartition(":")[2]))
