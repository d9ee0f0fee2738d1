from __future__ import annotations

import numpy as np
import pytest

from chorus_common.labels import SCANNET20
from chorus_common.runtime.errors import ConfigError
from evaluation.report.colours import class_palette, heat
from evaluation.viewer.scene_model import COLOUR, FEATURES, PREDICTION, QUERY, TRUTH, SceneModel
from tests.evaluation.viewer.models import toy_model


def test_modes_follow_what_there_is() -> None:
    assert toy_model(50).modes == (COLOUR, FEATURES, PREDICTION, QUERY, TRUTH)
    assert toy_model(50, labels=False, features=False).modes == (COLOUR,)
    assert toy_model(50, features=False).modes == (COLOUR, TRUTH)
    with pytest.raises(ConfigError, match="unknown mode 'query'"):
        toy_model(50, features=False).show(QUERY, "chair")


def test_colours_mean_what_the_legend_says() -> None:
    model: SceneModel = toy_model(300)
    labels = model.scene.gaussians.labels
    assert labels is not None
    truth, prediction = model.show(TRUTH), model.show(PREDICTION)
    known = labels >= 0
    np.testing.assert_array_equal(truth.colors, class_palette(SCANNET20)[labels])
    np.testing.assert_array_equal(truth.colors[known], prediction.colors[known])
    assert "chair" in truth.legend
    assert "bathtub" not in truth.legend
    answer = model.show(QUERY, "chair")
    chair = labels == SCANNET20.index("chair")
    blue, red = heat(np.array([0.0, 1.0], np.float32), 0, 1)
    assert np.ptp(answer.colors[chair], axis=0).max() == 0
    np.testing.assert_allclose(answer.colors[chair][0], red, atol=1e-6)
    for name in ("floor", "wall", "table"):
        assert np.abs(answer.colors[labels == SCANNET20.index(name)] - red).sum(axis=1).min() > 0.5
    np.testing.assert_allclose(answer.colors[~known], np.tile(blue, ((~known).sum(), 1)), atol=1e-6)
    assert "red 1.00" in answer.legend
    assert "&lt;b&gt;" in model.show(QUERY, "<b>").legend
    np.testing.assert_array_equal(model.show(QUERY, "  ").colors, model.scene.gaussians.colors)
    assert model.show(FEATURES).colors.shape == (300, 3)


def test_covariances_are_those_of_the_splats() -> None:
    model = toy_model(20)
    np.testing.assert_allclose(model.covariances()[0], 0.06**2 * np.eye(3), atol=1e-6)


def test_server_follows_the_panel() -> None:
    pytest.importorskip("viser")
    from evaluation.viewer.server import ViewerServer

    server = ViewerServer(toy_model(200), port=0)
    try:
        assert server.address.startswith("http://127.0.0.1:")
        server.mode.value = TRUTH
        server.refresh()
        assert "chair" in server.legend.content
        server.query.value = "table"
        server._asked()
        assert server.mode.value == QUERY
        assert "Relevancy to “table”" in server.legend.content
        before = server.legend.content

        def refuse(*_: object) -> None:
            raise ConfigError("phrases.npz: has no vector of 'chair'")

        server.model.show = refuse  # type: ignore[assignment, method-assign]
        server.refresh()
        assert server.legend.content == "Not answered: phrases.npz: has no vector of 'chair'" != before
    finally:
        server.stop()
