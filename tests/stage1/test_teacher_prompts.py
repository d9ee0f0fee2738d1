"""Prompt density: visibility and closest depth against a plain loop, the count's formula, and the draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.rasterize import get_backend
from chorus_common.runtime.errors import ConfigError
from stage1_render_teachers.teachers import prompt_density as density
from stage1_render_teachers.views.surfaces import SceneSurfaces
from tests.stage1.small_rooms import ring_of_cameras, tiny_scene

WIDTH, HEIGHT = 96, 72


def wall(distances: tuple[float, ...]) -> tuple[np.ndarray, CameraSet, np.ndarray]:
    """A wall at y = 0, cameras looking at it head on from `distances`, and the exact depths they render."""
    grid = np.stack(np.meshgrid(np.linspace(-6, 6, 420), [0.0], np.linspace(-5, 5, 360)), -1).reshape(-1, 3)
    views = [look_at(np.array([0.0, -d, 0.0]), np.zeros(3)) for d in distances]
    k = pinhole(WIDTH, HEIGHT, 60.0)
    cameras = CameraSet(
        np.stack(views), np.stack([k] * len(views)), WIDTH, HEIGHT, tuple(f"v{i}" for i in range(len(views)))
    )
    depths = np.stack([np.full((HEIGHT, WIDTH), d, dtype=np.float32) for d in distances])
    return grid.astype(np.float32), cameras, depths


def test_closest_depth_equals_the_plain_loop() -> None:
    rng = np.random.default_rng(0)
    means, cameras, depths = wall((2.0, 4.0, 3.0))
    means = (means + rng.normal(0, 0.4, means.shape)).astype(np.float32)[::97]
    depths = (depths + rng.uniform(-0.5, 0.5, depths.shape)).astype(np.float32)
    depths[:, :5] = 0
    expected = np.full(len(means), np.inf)
    for view, k, depth in zip(cameras.viewmats, cameras.intrinsics, depths):
        for i, point in enumerate(means):
            x, y, z = view[:3, :3] @ point.astype(np.float64) + view[:3, 3]
            if z <= 0:
                continue
            u, v = int(np.floor(k[0, 0] * x / z + k[0, 2])), int(np.floor(k[1, 1] * y / z + k[1, 2]))
            if 0 <= u < WIDTH and 0 <= v < HEIGHT and depth[v, u] > 0 and abs(depth[v, u] - z) <= 0.25 * depth[v, u]:
                expected[i] = min(expected[i], z)
    closest = density.closest_depths(means, cameras, depths)
    np.testing.assert_allclose(closest, expected, rtol=1e-12)
    assert 0 < np.isinf(closest).sum() < len(closest)


def test_depths_of_another_size_are_refused() -> None:
    means, cameras, depths = wall((2.0,))
    with pytest.raises(ConfigError, match="a depth picture has shape"):
        density.closest_depths(means, cameras, depths[:, 1:])


def test_count_grows_with_the_square_of_the_distance_and_never_collapses() -> None:
    means, cameras, depths = wall((2.0, 4.0, 6.0))
    closest = density.closest_depths(means, cameras, depths)
    counts = []
    for view, k, depth in zip(cameras.viewmats, cameras.intrinsics, depths):
        counts.append(density.prompts_per_side(density.visible_surface(means, closest, view, k, depth)))
    assert (counts[0] == 4).all()  # the closest view: 16 prompts a patch, 1024 a picture
    assert counts[1][3:5, 3:5].tolist() == [[8, 8], [8, 8]]
    # At 6 m the middle was seen from 2 m (4 * 3 = 12 a side), the rim in this view only.
    assert counts[2][4, 4] == 12
    assert counts[2][0, 0] == 4


@given(st.floats(0.01, 100), st.integers(0, 2**32 - 1))
def test_ratio_is_at_least_one_whatever_the_depth(scale: float, seed: int) -> None:
    """`closest` is a minimum that includes this view, so a view that sees a patch never gives it one prompt."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 40 * 48, 300)
    now = scale * rng.uniform(0.5, 2, 300)
    n = density.prompts_per_side(density.VisibleSurface(40, 48, pixels, now, now * rng.uniform(0.2, 1, 300)))
    hit = np.bincount(density.patch_of_pixels(40, 48).reshape(-1)[pixels], minlength=64).reshape(8, 8) > 0
    assert (n[hit] >= 4).all()
    assert (n[~hit] == 1).all()
    assert n.max() <= 20


def test_prompts_are_distinct_inside_and_where_the_surface_is() -> None:
    means, cameras, depths = wall((2.0, 9.0))
    means = means[means[:, 0] > 0]  # nothing in the left half
    closest = density.closest_depths(means, cameras, depths)
    view, k, depth = cameras.viewmats[0], cameras.intrinsics[0], depths[0]
    points = density.draw_prompts(density.visible_surface(means, closest, view, k, depth), seed=3)
    assert len(np.unique(points, axis=0)) == len(points)
    assert (points > 0).all()
    assert (points < [WIDTH, HEIGHT]).all()
    assert np.count_nonzero(points[:, 0] < WIDTH / 2) == 32  # one prompt for each empty patch
    assert np.count_nonzero(points[:, 0] >= WIDTH / 2) == 32 * 16


def test_prompts_depend_on_the_seed_and_on_nothing_drawn_before() -> None:
    means, cameras, depths = wall((2.0,))
    closest = density.closest_depths(means, cameras, depths)
    surface = density.visible_surface(means, closest, cameras.viewmats[0], cameras.intrinsics[0], depths[0])
    first = density.draw_prompts(surface, seed=1)
    other = density.draw_prompts(surface, seed=2)
    np.testing.assert_array_equal(first, density.draw_prompts(surface, seed=1))
    assert first.shape == other.shape
    assert (first != other).any()


@given(st.integers(8, 90), st.integers(8, 90))
def test_patches_cover_every_pixel(height: int, width: int) -> None:
    patch = density.patch_of_pixels(height, width)
    assert np.unique(patch).tolist() == list(range(64))
    sizes = np.bincount(patch.reshape(-1))
    assert sizes.min() >= (height // 8) * (width // 8)
    assert sizes.max() <= -(-height // 8) * -(-width // 8)


def test_the_survey_of_a_scene_finds_what_full_pictures_find() -> None:
    """Closest depths from small pictures: those of full-size ones but at outlines; never beyond what a view shows."""
    scene, cameras = tiny_scene(0, 4000), ring_of_cameras(6)
    rows = [(1.0 if i % 2 else 0.6) for i in range(6)]  # every other camera stands closer
    viewmats = np.stack([look_at(eye * near, np.zeros(3)) for eye, near in zip(cameras.centers, rows)])
    cameras = CameraSet(viewmats, cameras.intrinsics, cameras.width, cameras.height, cameras.names).resized(320, 240)
    surfaces = SceneSurfaces(scene, cameras, "cpu")
    backend = get_backend("cpu")
    depths = [backend.render(scene, v, k, 320, 240).depth for v, k in zip(cameras.viewmats, cameras.intrinsics)]
    full = density.closest_depths(scene.means, cameras, depths)
    both = np.isfinite(full) & np.isfinite(surfaces.closest)
    assert both.mean() > 0.7
    assert (np.abs(full - surfaces.closest)[both] < 1e-9).mean() > 0.9
    for view, depth in enumerate(depths):
        surface = surfaces.of_view(view, depth)
        assert (surface.closest <= surface.now).all()
        counts = density.prompts_per_side(surface)
        hit = np.bincount(density.patch_of_pixels(240, 320).reshape(-1)[surface.pixels], minlength=64).reshape(8, 8) > 0
        assert (counts[hit] >= 4).all()
    assert max(density.prompts_per_side(surfaces.of_view(1, depths[1])).ravel()) > 4
