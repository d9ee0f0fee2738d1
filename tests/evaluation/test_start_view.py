"""The first view: it shows the scene, and not a wall or the empty side of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chorus_common.cameras import pinhole
from chorus_common.rasterize import get_backend
from chorus_common.scene import GaussianScene
from evaluation import start_view as module
from evaluation.scenes import EvalScene, LoadedScene
from evaluation.start_view import FIELD, StartView, start_view

ROOM = np.array([5.0, 4.0, 2.6])


def loaded(scene: GaussianScene) -> LoadedScene:
    return LoadedScene(EvalScene("toy", "scene"), scene, None)


def shell(seed: int, n: int = 9000) -> np.ndarray:
    """Points on all six walls of a room."""
    rng = np.random.default_rng(seed)
    points = rng.random((n, 3)) * ROOM
    side = rng.integers(6, size=n)
    points[np.arange(n), side % 3] = np.where(side < 3, 0.0, ROOM[side % 3])
    return points


def splats(points: np.ndarray, colors: np.ndarray | None = None, size: float = 0.05) -> GaussianScene:
    n = len(points)
    return GaussianScene(
        means=points.astype(np.float32),
        quats=np.tile(np.array([1, 0, 0, 0], np.float32), (n, 1)),
        scales=np.full((n, 3), size, np.float32),
        opacities=np.full(n, 0.95, np.float32),
        colors=np.full((n, 3), 0.5, np.float32) if colors is None else colors.astype(np.float32),
    )


def weights(scene: GaussianScene, view: StartView, rows: np.ndarray) -> float:
    """Share of the picture that these rows fill."""
    bright = replace(scene, colors=np.repeat(rows[:, None].astype(np.float32), 3, axis=1))
    drawn = get_backend("cpu").render(bright, view.viewmat, pinhole(96, 72, FIELD), 96, 72)
    return float(drawn.color[..., 0].mean())


def test_a_room_is_seen_from_within() -> None:
    view = start_view(loaded(splats(shell(0))))
    assert (view.eye > 0).all()
    assert (view.eye < ROOM).all()


def test_a_cupboard_before_the_camera_is_avoided() -> None:
    """A closed box fills one corner: whoever stands in it sees nothing else."""
    rng = np.random.default_rng(1)
    box = rng.random((4000, 3))
    side = rng.integers(6, size=4000)
    box[np.arange(4000), side % 3] = side < 3
    box = np.array([0.05, 0.05, 0.05]) + box * np.array([1.2, 1.2, 2.4])
    scene = splats(np.concatenate([shell(0), box]))
    view = start_view(loaded(scene))
    assert not ((view.eye > 0.05) & (view.eye < [1.25, 1.25, 2.45])).all()


def test_an_object_is_seen_whole_from_outside() -> None:
    rng = np.random.default_rng(2)
    ball = rng.standard_normal((4000, 3))
    ball = ball / np.linalg.norm(ball, axis=1, keepdims=True) + np.array([10.0, -3.0, 2.0])
    filled = np.concatenate([ball, 0.8 * (ball - [10, -3, 2]) * rng.random((4000, 1)) + [10, -3, 2]])
    scene = splats(filled, size=0.06)
    view = start_view(loaded(scene))
    assert np.linalg.norm(view.eye - [10, -3, 2]) > 1.5
    camera = filled @ view.viewmat[:3, :3].T + view.viewmat[:3, 3]
    assert (camera[:, 2] > 0).all()
    focal = 48 / np.tan(np.radians(FIELD) / 2)
    assert (np.abs(camera[:, :2] / camera[:, 2:] * focal) < [48, 36]).all()


def test_what_is_asked_for_is_in_the_picture() -> None:
    rng = np.random.default_rng(3)
    for corner in ([0.4, 0.4, 0.3], [4.5, 3.6, 0.3]):
        thing = np.array(corner) + 0.3 * (rng.random((400, 3)) - 0.5)
        scene = splats(np.concatenate([shell(0), thing]))
        focus = np.arange(len(scene)) >= 9000
        view = start_view(loaded(scene), focus)
        assert weights(scene, view, focus) > 0.005
        assert np.linalg.norm(view.eye - corner) > 0.6


def test_it_is_the_same_every_time_and_survives_little() -> None:
    scene = loaded(splats(shell(4, 300)))
    first, second = start_view(scene), start_view(scene)
    np.testing.assert_array_equal(first.eye, second.eye)
    for few in (np.zeros((1, 3)), np.zeros((5, 3))):
        alone = start_view(loaded(splats(few)))
        assert np.isfinite(alone.eye).all()
        assert np.linalg.norm(alone.eye - alone.target) > 0
    small = splats(0.01 * shell(4, 300), size=0.0005)
    near = start_view(loaded(small), np.arange(300) < 30)
    assert np.isfinite(near.eye).all()
    nothing = start_view(scene, np.zeros(300, bool))
    np.testing.assert_array_equal(nothing.eye, first.eye)


def test_what_fills_the_only_place_to_stand_is_looked_at_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = splats(shell(5))
    focus = scene.means[:, 2] > 2
    thing = np.median(scene.means[focus], axis=0).astype(np.float64)
    monkeypatch.setattr(module, "standing_places", lambda *_: (thing[None], thing[None]))
    view = start_view(loaded(scene), focus)
    assert np.linalg.norm(view.eye - view.target) > 0.3
