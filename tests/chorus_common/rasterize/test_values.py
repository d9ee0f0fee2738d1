"""Drawn values against the float64 twin's matrix of weights."""

from __future__ import annotations

import numpy as np
import pytest

from chorus_common.cameras import look_at, pinhole
from chorus_common.rasterize import get_backend, render_values
from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene, canonical_quats
from tests.chorus_common.rasterize import reference_rasterizer as reference


def random_scene(seed: int, n: int) -> GaussianScene:
    rng = np.random.default_rng(seed)
    return GaussianScene(
        means=rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        quats=canonical_quats(rng.standard_normal((n, 4))),
        scales=rng.uniform(0.02, 0.3, (n, 3)).astype(np.float32),
        opacities=rng.uniform(0.001, 0.999, n).astype(np.float32),
        colors=rng.random((n, 3)).astype(np.float32),
    )


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_twins_weights_times_the_values(seed: int, channels: int) -> None:
    scene = random_scene(seed, 25)
    view = look_at(np.array([2.2, -1.0 + seed, 0.6]), np.zeros(3))
    k = pinhole(20, 15, 60)
    values = np.random.default_rng(seed).normal(0, 10, (25, channels)).astype(np.float32)
    drawn, alpha = render_values(scene, view, k, 20, 15, values)
    want = reference.render(scene, view, k, 20, 15)
    sure = ~want.doubtful
    assert sure.mean() > 0.98
    expected = (want.weights @ values.astype(np.float64)).reshape(15, 20, channels)
    np.testing.assert_allclose(drawn[sure], expected[sure], atol=3e-4)
    np.testing.assert_allclose(alpha[sure], want.alpha[sure], atol=3e-5)
    # At a cut-off a rounding may decide: such pixels differ by no more than what the cut-off leaves out.
    np.testing.assert_allclose(drawn, expected, atol=50 / 255)


def test_the_colours_as_values_are_the_picture_itself() -> None:
    scene, view, k = random_scene(3, 60), look_at(np.array([3.0, 0.5, 0.2]), np.zeros(3)), pinhole(50, 37, 60)
    picture = get_backend("cpu").render(scene, view, k, 50, 37)
    drawn, alpha = render_values(scene, view, k, 50, 37, scene.colors)
    np.testing.assert_array_equal(drawn, picture.color)
    np.testing.assert_array_equal(alpha, picture.alpha)


def test_channels_do_not_mix_and_order_does_not_matter() -> None:
    scene = random_scene(9, 40)
    view, k = look_at(np.array([3.0, 0.5, 0.2]), np.zeros(3)), pinhole(24, 18, 60)
    values = np.random.default_rng(0).random((40, 7)).astype(np.float32)
    together, _ = render_values(scene, view, k, 24, 18, values)
    alone, _ = render_values(scene, view, k, 24, 18, values[:, 3:4])
    np.testing.assert_array_equal(together[..., 3:4], alone)
    rows = np.random.default_rng(1).permutation(40)
    shuffled, _ = render_values(scene.select(rows), view, k, 24, 18, values[rows])
    np.testing.assert_array_equal(together, shuffled)


def test_nothing_in_view_is_empty() -> None:
    scene = random_scene(0, 5)
    behind = look_at(np.array([3.0, 0, 0]), np.array([6.0, 0, 0]))
    picture, alpha = render_values(scene, behind, pinhole(8, 6, 60), 8, 6, scene.colors)
    assert not picture.any()
    assert not alpha.any()


def test_values_of_another_scene_are_refused() -> None:
    with pytest.raises(SceneError, match=r"values must be \[5, C\], got \[4, 3\]"):
        render_values(random_scene(0, 5), np.eye(4), pinhole(8, 6, 60), 8, 6, np.zeros((4, 3), np.float32))
