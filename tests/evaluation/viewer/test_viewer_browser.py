"""The viewer as a person meets it: opened in a browser, switched, asked, photographed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.viewer.scene_model import PREDICTION, QUERY, SceneModel
from tests.evaluation.viewer.browser import Browser, chromium, wait_for
from tests.evaluation.viewer.models import toy_model

pytest.importorskip("viser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium is installed"),
]

INPUT = "[...document.querySelectorAll('input')].filter(e => e.offsetParent)"


def test_a_browser_shows_switches_and_asks(tmp_path: Path) -> None:
    from evaluation.viewer.server import ViewerServer

    model: SceneModel = toy_model(4000)
    server = ViewerServer(model, port=0)
    browser = Browser(tmp_path / "profile")
    try:
        browser.send("Page.navigate", url=server.address)
        wait_for(lambda: browser.evaluate(f"{INPUT}.length") == 2, "the panel")

        def picture(name: str) -> np.ndarray:
            shots = [browser.photograph(tmp_path / f"{name}.png")]

            def still() -> bool:
                shots.append(browser.photograph(tmp_path / f"{name}.png"))
                return scene_pixels(shots[-1]).std() > 5 and np.array_equal(shots[-1], shots[-2])

            wait_for(still, f"a still picture of {name}")
            return shots[-1]

        colour = picture("colour")
        browser.click(f"{INPUT}[0]")
        option = f"[...document.querySelectorAll('[role=option]')].find(e => e.textContent.trim() == '{PREDICTION}')"
        wait_for(lambda: browser.evaluate(f"!!({option})"), "the list of modes")
        browser.click(option)
        wait_for(lambda: server.mode.value == PREDICTION, "the choice to arrive")
        prediction = picture("prediction")
        assert (scene_pixels(colour) != scene_pixels(prediction)).any(axis=-1).mean() > 0.02

        browser.click(f"{INPUT}[1]")
        browser.type("chair")
        wait_for(lambda: server.query.value == "chair", "the query to arrive")
        wait_for(lambda: server.mode.value == QUERY, "the answer to be shown")
        wait_for(lambda: "Relevancy to" in browser.evaluate("document.body.innerText"), "the legend")
        answer = picture("query")
        assert (scene_pixels(prediction) != scene_pixels(answer)).any(axis=-1).mean() > 0.02
    finally:
        browser.close()
        server.stop()


def scene_pixels(picture: np.ndarray) -> np.ndarray:
    """The left part of the page, where no panel lies."""
    return picture[:, : picture.shape[1] // 2].astype(np.int32)
