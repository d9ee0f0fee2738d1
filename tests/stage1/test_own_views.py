"""Choosing among a scene's own views."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chorus_common.cameras import CameraSet
from chorus_common.lifting import CellGrid, LiftingIndex
from chorus_common.rasterize import get_backend
from chorus_common.scene import GaussianScene
from data_manifests.synthetic import RoomOptions, generate_room
from stage1_render_teachers.views.captured import spread_views
from stage1_render_teachers.views.choose import coverage


@pytest.fixture(scope="module")
def walk() -> tuple[GaussianScene, CameraSet]:
    """A room and a capture that dwells: the first ten poses a dozen times each, with small steps, then the others."""
    room = generate_room(3, RoomOptions(gaussians=5000, views=24, width=96, height=72))
    own = room.cameras
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.repeat(np.arange(10), 12), np.arange(10, 24)])
    viewmats = own.viewmats[rows].copy()
    viewmats[:, :3, 3] += rng.normal(0, 0.005, (len(rows), 3))
    k = own.intrinsics[rows]
    return room.scene, CameraSet(viewmats, k, own.width, own.height, tuple(f"f{i:03d}" for i in range(len(rows))))


def seen_twice(scene: GaussianScene, cameras: CameraSet) -> float:
    grid = CellGrid(cameras.width, cameras.height, 8)
    hits = []
    for view, k in zip(cameras.viewmats, cameras.intrinsics):
        found = get_backend("cpu").render(scene, view, k, cameras.width, cameras.height, grid=grid).hits
        assert found is not None
        hits.append(found)
    return coverage(LiftingIndex.build(hits, scene.means, grid), 2)


def test_spread_views_see_more_than_every_nth_frame(walk: tuple[GaussianScene, CameraSet]) -> None:
    scene, cameras = walk
    spread = spread_views(scene, cameras, 8)
    even = cameras.select(np.linspace(0, len(cameras) - 1, 8).round().astype(int))
    assert len(set(spread.names)) == 8
    assert seen_twice(scene, spread) > seen_twice(scene, even) + 0.05


def test_the_choice_is_repeatable_and_takes_cameras_as_they_are(walk: tuple[GaussianScene, CameraSet]) -> None:
    scene, cameras = walk
    first, again = (spread_views(scene, cameras, 6) for _ in range(2))
    assert first.names == again.names
    place = [cameras.names.index(name) for name in first.names]
    np.testing.assert_array_equal(first.viewmats, cameras.viewmats[place])
    np.testing.assert_array_equal(first.intrinsics, cameras.intrinsics[place])
    assert spread_views(scene, cameras, len(cameras)) is cameras


def test_equal_poses_count_once(walk: tuple[GaussianScene, CameraSet]) -> None:
    scene, cameras = walk
    standing = replace(cameras, viewmats=np.repeat(cameras.viewmats[:1], len(cameras), axis=0))
    assert spread_views(scene, standing, 5).names == ("f000",)
