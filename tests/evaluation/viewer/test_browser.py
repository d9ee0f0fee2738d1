"""The viewer as a person meets it: opened in a browser, from disk and from the server; clicked, asked, photographed."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chorus_common.rasterize import render_values
from evaluation.viewer.content import shared_content, shared_page
from evaluation.viewer.scene_model import SceneModel
from tests.evaluation.viewer.browser import Browser, chromium, wait_for
from tests.evaluation.viewer.models import room_model
from tests.evaluation.viewer.test_server import serving

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium is installed: apt-get install chromium")

STILL = "window.chorus && window.chorus.still"
PICTURE = "document.getElementById('canvas').toDataURL('image/png')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(shared_page(shared_content(room_model(), ["chair"])), encoding="utf-8")
    return path


def visit(browser: Browser, address: str) -> None:
    browser.send("Page.navigate", url=address)
    wait_for(lambda: browser.evaluate(f"location.href == {address!r} && !!({STILL})"), "the scene")


def canvas(browser: Browser, path: Path) -> np.ndarray:
    """[H, W, 3] in [0, 1]: the picture that the page shows once nothing moves; also written to `path`."""
    wait_for(lambda: browser.evaluate(STILL), "a still picture")
    data = base64.b64decode(browser.evaluate(PICTURE).partition(",")[2])
    path.write_bytes(data)
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32) / 255


def layer_button(name: str) -> str:
    return f"[...document.querySelectorAll('[data-layer]')].find(e => e.dataset.layer == {name!r})"


def look(browser: Browser) -> tuple[np.ndarray, np.ndarray, int, int]:
    """(viewmat, K, width, height) of what the page shows."""
    found: Any = browser.evaluate(
        "(() => { const c = chorus.canvas, l = chorus.camera.look(c.width, c.height); "
        "return [[...l.view], l.focal, c.width, c.height] })()"
    )
    width, height = int(found[2]), int(found[3])
    intrinsics = np.array([[found[1], 0, width / 2], [0, found[1], height / 2], [0, 0, 1]])
    return np.array(found[0]).reshape(4, 4).T, intrinsics, width, height


def named(model: SceneModel, name: str) -> dict[str, Any]:
    """The object of that class."""
    return next(o for o in model.objects.described if o["class"] == name)


def place(browser: Browser, described: dict[str, Any]) -> tuple[float, float]:
    """Where on the page the middle of an object is seen."""
    viewmat, intrinsics, _, _ = look(browser)
    at = intrinsics @ (viewmat[:3, :3] @ np.array(described["box"]["centre"]) + viewmat[:3, 3])
    return float(at[0] / at[2]), float(at[1] / at[2])


def test_a_page_from_disk_draws_what_the_rasteriser_draws(browser: Browser, page: Path, tmp_path: Path) -> None:
    visit(browser, page.as_uri())
    model = room_model()
    scene = model.scene.gaussians
    for layer in (model.layer("colour"), model.layer("prediction"), model.answer("chair")):
        browser.click(layer_button(layer.name))
        wait_for(lambda name=layer.name: browser.evaluate("chorus.layer") == name, "the layer")
        picture = canvas(browser, tmp_path / "picture.png")
        drawn, alpha = render_values(scene, *look(browser), layer.colors(scene.colors))
        wanted = drawn + (1 - alpha[..., None]) * np.array([0.96, 0.96, 0.97], np.float32)
        error = np.abs(picture - wanted)
        assert error.mean() < 0.004, layer.name  # 7 bits of a colour, 8 of a picture
        assert np.quantile(error, 0.999) < 0.06, layer.name
        assert alpha.mean() > 0.04
    photograph = browser.photograph(tmp_path / "page.png")  # with the panel beside it
    np.testing.assert_array_equal(photograph[:, : picture.shape[1]], np.rint(picture * 255).astype(np.uint8))
    assert np.unique(photograph[:, picture.shape[1] :].reshape(-1, 3), axis=0).shape[0] > 20


def test_a_click_selects_an_object_and_boxes_are_drawn(browser: Browser, page: Path, tmp_path: Path) -> None:
    visit(browser, page.as_uri())
    before = canvas(browser, tmp_path / "before.png")
    bed = named(room_model(), "bed")
    browser.click_at(*place(browser, bed))
    wait_for(lambda: browser.evaluate("chorus.selected") == bed["id"], "the bed to be selected")
    assert f"bed {bed['id']}: {bed['count']} Gaussians" in browser.evaluate("document.body.innerText")
    selected = canvas(browser, tmp_path / "selected.png")
    assert (np.abs(before - selected).max(axis=-1) > 0.1).mean() > 0.02
    browser.click("document.getElementById('boxes')")
    boxes = canvas(browser, tmp_path / "boxes.png")
    assert (np.abs(boxes - selected).max(axis=-1) > 0.1).mean() > 0.001
    browser.click("document.querySelector('[data-object]')")
    wait_for(lambda: browser.evaluate("chorus.selected") == 0, "the first object of the list")


def test_sliders_camera_picture_and_video(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    visit(browser, page.as_uri())
    before = canvas(browser, tmp_path / "before.png")
    for slider in ("opacity", "size"):
        browser.evaluate(
            f"(() => {{ const s = document.getElementById('slider-{slider}'); s.value = 0.3; "
            "s.dispatchEvent(new Event('input')) })()"
        )
        after = canvas(browser, tmp_path / f"{slider}.png")
        assert np.abs(after - before).mean() > 0.003, slider
        before = after
    browser.drag((200, 300), (320, 260))
    turned = canvas(browser, tmp_path / "turned.png")
    assert np.abs(turned - before).mean() > 0.001
    browser.click("document.getElementById('tool-start-view')")
    np.testing.assert_array_equal(canvas(browser, tmp_path / "again.png"), before)
    browser.click("document.getElementById('tool-save-picture')")
    picture = tmp_path / "room.png"
    wait_for(lambda: picture.is_file() and picture.read_bytes()[-8:-4] == b"IEND", "the picture")
    browser.click("document.getElementById('tool-keep-view')")
    browser.drag((200, 300), (320, 260))
    browser.click("document.getElementById('tool-keep-view')")
    browser.evaluate("chorus.saveVideo(1.0)")
    video = tmp_path / "room.webm"
    wait_for(lambda: video.is_file() and video.stat().st_size > 1000, "the video")
    assert video.read_bytes()[:4] == b"\x1a\x45\xdf\xa3"  # EBML, what WebM begins with
    assert browser.evaluate("chorus.path.views.length") == 2


def test_the_server_s_page_asks_and_finds_what_is_alike(browser: Browser, tmp_path: Path) -> None:
    model = room_model()
    with serving(model) as server:
        visit(browser, server.address + "/")
        colour = canvas(browser, tmp_path / "colour.png")
        browser.click(layer_button("features"))
        wait_for(lambda: browser.evaluate("chorus.layer") == "features", "the features")
        browser.click("document.getElementById('query')")
        browser.type("table\r")
        wait_for(lambda: browser.evaluate("chorus.layer") == "“table”", "the answer")
        answer = canvas(browser, tmp_path / "answer.png")
        assert np.abs(answer - colour).mean() > 0.005
        more = "[...document.querySelectorAll('#picked button')].find(e => e.textContent == 'More like this')"
        browser.click_at(*place(browser, named(model, "bed")))
        wait_for(lambda: browser.evaluate(f"!!({more}) && chorus.still"), "a click before there are objects")
        browser.click("document.getElementById('tool-find-objects')")
        wait_for(lambda: browser.evaluate("!!chorus.objects && chorus.still"), "the objects")
        chair = named(model, "chair")
        browser.click(f"document.querySelector('[data-object=\"{chair['id']}\"]')")
        wait_for(lambda: browser.evaluate("chorus.selected") == chair["id"], "the chair")
        canvas(browser, tmp_path / "chair.png")
        browser.click_at(*place(browser, chair))
        wait_for(lambda: browser.evaluate(f"!!({more})"), "the button")
        browser.click(more)
        wait_for(lambda: browser.evaluate("chorus.layer") == "like the clicked one", "what is alike")
        assert browser.evaluate("chorus.selected") == -1
        rows = browser.evaluate("[...chorus.known.get(chorus.layer).ids]")
        labels = model.scene.gaussians.labels
        assert labels is not None
        order = server._content.splats.order
        hot = np.array(rows) == max(rows)
        truth = labels[order][hot]
        assert len(set(truth.tolist())) == 1
        assert hot.sum() > 100
