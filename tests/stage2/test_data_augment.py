"""Augmentations against plain twins: what they do to centres, covariances, normals and colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chorus_common.scene import GaussianScene, canonical_quats, quats_to_rotations
from stage2_distill.data import augment as aug
from stage2_distill.data.augment import AugmentConfig, augment


def make_scene(seed: int = 0, n: int = 60) -> GaussianScene:
    rng = np.random.default_rng(seed)
    normals = rng.standard_normal((n, 3))
    return GaussianScene(
        means=rng.uniform(-1, 2, (n, 3)).astype(np.float32),
        quats=canonical_quats(rng.standard_normal((n, 4))),
        scales=np.exp(rng.uniform(-5, -1, (n, 3))).astype(np.float32),
        opacities=rng.uniform(0.05, 0.95, n).astype(np.float32),
        colors=rng.random((n, 3)).astype(np.float32),
        normals=(normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32),
        labels=rng.integers(0, 5, n).astype(np.int32),
    )


def covariances(scene: GaussianScene) -> np.ndarray:
    """R diag(s^2) R^T, one Gaussian at a time."""
    out = []
    for quat, scale in zip(scene.quats.astype(np.float64), scene.scales.astype(np.float64)):
        rotation = quats_to_rotations(quat)
        out.append(rotation @ np.diag(scale**2) @ rotation.T)
    return np.stack(out)


def assert_canonical(scene: GaussianScene) -> None:
    assert (scene.quats[:, 0] >= 0).all()
    np.testing.assert_allclose(np.linalg.norm(scene.quats, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flip_mirrors_covariances_centres_and_normals(axis: int) -> None:
    scene = make_scene(axis)
    reflection = np.eye(3)
    reflection[axis, axis] = -1
    flipped = aug.flip(scene, axis)
    np.testing.assert_allclose(flipped.means, scene.means @ reflection, atol=0)
    np.testing.assert_allclose(flipped.normals, scene.normals @ reflection, atol=0)
    np.testing.assert_allclose(covariances(flipped), reflection @ covariances(scene) @ reflection, atol=1e-7)
    for i in range(len(scene)):  # the rule itself: R becomes F R F, a proper rotation
        expected = reflection @ quats_to_rotations(scene.quats[i].astype(np.float64)) @ reflection
        np.testing.assert_allclose(quats_to_rotations(flipped.quats[i].astype(np.float64)), expected, atol=1e-6)
    assert_canonical(flipped)


def test_rescale_scales_the_picture_as_a_whole() -> None:
    scene = make_scene()
    bigger = aug.rescale(scene, 1.25)
    np.testing.assert_allclose(bigger.means, scene.means * 1.25, rtol=1e-6)
    np.testing.assert_allclose(covariances(bigger), covariances(scene) * 1.25**2, rtol=1e-4, atol=1e-9)


def test_covariance_noise_has_the_shape_of_each_gaussian() -> None:
    one = make_scene(3, 1)
    many = one.select(np.zeros(40_000, dtype=np.int64))
    moved = aug.covariance_noise(many, np.random.default_rng(0), 0.5)
    shift = (moved.means - many.means).astype(np.float64)
    measured, expected = np.cov(shift.T), 0.25 * covariances(one)[0]
    assert np.abs(measured - expected).max() < 0.03 * np.abs(expected).max()
    np.testing.assert_array_equal(moved.scales, many.scales)


def test_covariance_noise_twin() -> None:
    scene = make_scene(5)
    moved = aug.covariance_noise(scene, np.random.default_rng(7), 0.3)
    noise = np.random.default_rng(7).standard_normal((len(scene), 3), dtype=np.float32)
    for i in range(len(scene)):
        rotation = quats_to_rotations(scene.quats[i].astype(np.float64))
        expected = scene.means[i] + 0.3 * rotation @ (scene.scales[i] * noise[i])
        np.testing.assert_allclose(moved.means[i], expected, atol=1e-6)


def test_inflated_scales_stay_between_one_and_the_largest_factor() -> None:
    scene = make_scene()
    grown = [aug.inflate_scales(scene, np.random.default_rng(s), 1.5).scales / scene.scales for s in range(20)]
    factors = np.stack(grown)
    assert factors.min() >= 1 - 1e-6
    assert factors.max() <= 1.5 + 1e-6
    assert factors.max() > 1.3  # it does something
    assert np.ptp(factors[:, 0, 0]) > 0.05  # and not the same every time


def test_scales_grow_by_a_factor_per_gaussian_or_scene() -> None:
    scene = make_scene()
    for each, distinct in (("gaussian", len(scene)), ("scene", 1)):
        factors = np.stack(
            [aug.inflate_scales(scene, np.random.default_rng(s), 3.0, each).scales / scene.scales for s in range(50)]
        )
        assert 1 - 1e-5 <= factors.min() < 1.3
        assert 2.7 < factors.max() <= 3 + 1e-5
        np.testing.assert_allclose(factors, factors[:, :, :1].repeat(3, axis=2), rtol=1e-5)  # shapes stay
        assert len(np.unique(factors[0, :, 0].round(4))) >= min(distinct, 30)
        assert distinct > 1 or np.ptp(factors[0]) < 1e-5


def test_jitter_is_clipped() -> None:
    scene = make_scene(0, 5000)
    shift = aug.jitter(scene, np.random.default_rng(0), 0.01).means - scene.means
    assert np.abs(shift).max() <= 0.02 + 1e-6
    assert 0.008 < shift.std() < 0.01  # clipping takes a little off 0.01


def test_dropout_keeps_order_and_says_what_stayed() -> None:
    scene = make_scene(0, 100)
    found = augment(scene, AugmentConfig(dropout_p=1, dropout_ratio=0.2), np.random.default_rng(0))
    assert len(found.kept) == len(found.scene) == 80
    assert (np.diff(found.kept) > 0).all()
    np.testing.assert_array_equal(found.scene.source_ids, scene.source_ids[found.kept])
    np.testing.assert_array_equal(found.scene.opacities, scene.opacities[found.kept])
    assert len(aug.dropped_out(1, np.random.default_rng(0), 0.9)) == 1


def test_auto_contrast_stretches_each_channel() -> None:
    scene = make_scene()
    flat = scene.colors.copy()
    flat[:, 1] = 0.25  # a constant channel cannot be stretched
    flat[:, 0] = 0.3 + 0.2 * flat[:, 0]
    from dataclasses import replace

    scene = replace(scene, colors=flat)
    full = aug.auto_contrast(scene, 1.0).colors
    np.testing.assert_allclose([full[:, 0].min(), full[:, 0].max()], [0, 1], atol=1e-6)
    np.testing.assert_allclose(full[:, 1], 0.25, atol=1e-6)
    half = aug.auto_contrast(scene, 0.5).colors
    np.testing.assert_allclose(half, (full + scene.colors) / 2, atol=1e-6)


def test_colour_shift_is_one_per_channel_and_jitter_one_per_gaussian() -> None:
    from dataclasses import replace

    scene = replace(make_scene(0, 4000), colors=np.full((4000, 3), 0.5, np.float32))
    shift = aug.shift_colors(scene, np.random.default_rng(0), 0.05).colors - 0.5
    assert np.ptp(shift, axis=0).max() < 1e-6
    assert 0 < np.abs(shift).max() <= 0.05
    noise = aug.jitter_colors(scene, np.random.default_rng(0), 0.05).colors - 0.5
    assert abs(noise.std() - 0.05) < 0.003
    edge = replace(scene, colors=np.ones((4000, 3), np.float32))
    assert aug.jitter_colors(edge, np.random.default_rng(0), 0.05).colors.max() <= 1


@pytest.mark.parametrize("seed", range(4))
def test_augment_gives_a_valid_scene_and_is_a_function_of_its_seed(seed: int) -> None:
    scene = make_scene(seed, 200)
    found = augment(scene, AugmentConfig(), np.random.default_rng(seed))
    one, two = found.scene.validated(), augment(scene, AugmentConfig(), np.random.default_rng(seed)).scene
    for key in ("means", "quats", "scales", "colors", "normals", "source_ids"):
        np.testing.assert_array_equal(getattr(one, key), getattr(two, key))
    np.testing.assert_array_equal(one.labels, scene.labels[found.kept])
    assert_canonical(one)
    other = augment(scene, AugmentConfig(), np.random.default_rng(seed + 100)).scene
    assert len(other) != len(one) or not np.array_equal(other.means, one.means)


def test_augment_switched_off_changes_nothing() -> None:
    scene = make_scene()
    assert augment(scene, AugmentConfig(enabled=False), np.random.default_rng(0)).scene is scene


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(1 / np.mean((a.astype(np.float64) - b) ** 2)))


def test_rendering_equivalent_noise_hardly_changes_the_picture() -> None:
    """At its default strength covariance-shaped noise keeps a rendered room above 38 dB; as much noise of the same
    length without the Gaussians' shape costs at least 1 dB more.
    """
    from chorus_common.rasterize import get_backend
    from data_manifests.synthetic import RoomOptions, generate_room

    room = generate_room(3, RoomOptions(gaussians=6000, views=2, width=160, height=120))
    backend, cameras = get_backend("cpu"), room.cameras

    def pictures(scene: GaussianScene) -> np.ndarray:
        shots = zip(cameras.viewmats, cameras.intrinsics)
        return np.stack([backend.render(scene, w, k, cameras.width, cameras.height).color for w, k in shots])

    strength = AugmentConfig().covariance_noise[1]
    shaped = aug.covariance_noise(room.scene, np.random.default_rng(0), strength)
    shift = shaped.means - room.scene.means
    turned = np.random.default_rng(1).standard_normal(shift.shape)
    turned *= np.linalg.norm(shift, axis=1, keepdims=True) / np.linalg.norm(turned, axis=1, keepdims=True)
    round_noise = replace(room.scene, means=room.scene.means + turned.astype(np.float32))
    plain = pictures(room.scene)
    kept, lost = psnr(pictures(shaped), plain), psnr(pictures(round_noise), plain)
    assert kept > 38, (kept, lost)
    assert kept > lost + 1, (kept, lost)
