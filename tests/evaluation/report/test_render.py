from __future__ import annotations

import numpy as np
import pytest

from chorus_common.cameras import look_at, pinhole
from chorus_common.scene import GaussianScene, canonical_quats, quats_to_rotations
from evaluation.report.render import draw


def random_scene(seed: int, n: int) -> GaussianScene:
    rng = np.random.default_rng(seed)
    return GaussianScene(
        means=rng.uniform(-1, 1, (n, 3)).astype(np.float32),
        quats=canonical_quats(rng.standard_normal((n, 4))),
        scales=rng.uniform(0.02, 0.3, (n, 3)).astype(np.float32),
        opacities=rng.uniform(0.001, 0.999, n).astype(np.float32),
        colors=rng.random((n, 3)).astype(np.float32),
    )


def plain_draw(scene: GaussianScene, view: np.ndarray, k: np.ndarray, width: int, height: int) -> np.ndarray:
    """3DGS's compositing pixel by pixel in double precision, every Gaussian at every pixel; last channel alpha."""
    rotation = quats_to_rotations(scene.quats.astype(np.float64))
    order, parts = [], {}
    for g in range(len(scene)):
        p = view[:3, :3] @ scene.means[g].astype(np.float64) + view[:3, 3]
        if p[2] <= 0.01:
            continue
        lx, ly = 0.65 * width / k[0, 0], 0.65 * height / k[1, 1]
        tx, ty = np.clip(p[0] / p[2], -lx, lx), np.clip(p[1] / p[2], -ly, ly)
        j = np.array([[k[0, 0] / p[2], 0, -k[0, 0] * tx / p[2]], [0, k[1, 1] / p[2], -k[1, 1] * ty / p[2]]])
        sigma = rotation[g] @ np.diag(scene.scales[g].astype(np.float64) ** 2) @ rotation[g].T
        cov = j @ view[:3, :3] @ sigma @ view[:3, :3].T @ j.T + 0.3 * np.eye(2)
        order.append((p[2], g))
        parts[g] = ((k @ p)[:2] / p[2], np.linalg.inv(cov))
    picture = np.zeros((height, width, 4))
    for v in range(height):
        for u in range(width):
            t = 1.0
            for _, g in sorted(order):
                centre, inverse = parts[g]
                d = np.array([u + 0.5, v + 0.5]) - centre
                alpha = min(0.999, float(scene.opacities[g]) * np.exp(-0.5 * d @ inverse @ d))
                if alpha < 1 / 255:
                    continue
                if t < 1e-3:
                    break
                picture[v, u, :3] += alpha * t * scene.colors[g]
                t *= 1 - alpha
            picture[v, u, 3] = 1 - t
    return picture


@pytest.mark.parametrize("seed", range(4))
def test_equals_plain_compositing(seed: int) -> None:
    scene = random_scene(seed, 25)
    view = look_at(np.array([2.2, -1.0 + seed, 0.6]), np.zeros(3))
    k = pinhole(20, 15, 60)
    picture, alpha = draw(scene, view, k, 20, 15, scene.colors)
    expected = plain_draw(scene, view, k, 20, 15)
    got = np.concatenate([picture, alpha[..., None]], axis=-1)
    # At the cut-offs (alpha 1/255, transmittance 1e-3) a rounding may decide: such pixels differ by no more than the
    # cut-off.
    close = np.abs(got - expected).max(axis=-1) < 2e-5
    assert close.mean() > 0.98
    np.testing.assert_allclose(got, expected, atol=1 / 255)


def test_channels_do_not_mix_and_order_does_not_matter() -> None:
    scene = random_scene(9, 40)
    view, k = look_at(np.array([3.0, 0.5, 0.2]), np.zeros(3)), pinhole(24, 18, 60)
    values = np.random.default_rng(0).random((40, 7)).astype(np.float32)
    together, _ = draw(scene, view, k, 24, 18, values)
    alone, _ = draw(scene, view, k, 24, 18, values[:, 3:4])
    np.testing.assert_array_equal(together[..., 3:4], alone)
    rows = np.random.default_rng(1).permutation(40)
    shuffled, _ = draw(scene.select(rows), view, k, 24, 18, values[rows])
    np.testing.assert_array_equal(together, shuffled)


def test_nothing_in_view_is_empty() -> None:
    scene = random_scene(0, 5)
    behind = look_at(np.array([3.0, 0, 0]), np.array([6.0, 0, 0]))
    picture, alpha = draw(scene, behind, pinhole(8, 6, 60), 8, 6, scene.colors)
    assert not picture.any()
    assert not alpha.any()
