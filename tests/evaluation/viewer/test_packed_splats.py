"""Packed splats: what is lost is what is said, and nothing is as large as .spz."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene, RenderMode, canonical_quats
from chorus_common.scene_io.spz_write import write_spz
from evaluation.viewer.packed_splats import MOST_BITS, pack_splats, unpack_places


def cloud(seed: int, n: int, spread: float = 2.0, size: float = 0.02) -> GaussianScene:
    rng = np.random.default_rng(seed)
    return GaussianScene(
        means=(spread * rng.standard_normal((n, 3))).astype(np.float32),
        quats=canonical_quats(rng.standard_normal((n, 4))),
        scales=np.exp(rng.normal(np.log(size), 0.7, (n, 3))).astype(np.float32),
        opacities=rng.uniform(0.02, 0.99, n).astype(np.float32),
        colors=rng.random((n, 3)).astype(np.float32),
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 400), st.sampled_from([1e-3, 1.0, 300.0]))
def test_places_are_within_half_a_step(seed: int, n: int, spread: float) -> None:
    scene = cloud(seed, n, spread, size=0.01 * spread)
    packed = pack_splats(scene)
    assert sorted(packed.order) == list(range(n))
    place = packed.header["place"]
    bent = np.abs(scene.means - np.array(place["centre"])) / place["size"]
    step = place["size"] * place["step"] * np.sqrt(1 + bent.max() ** 2)
    np.testing.assert_allclose(unpack_places(packed), scene.means[packed.order], atol=0.51 * step + 1e-6 * spread)
    assert place["bits"] <= MOST_BITS


def test_steps_are_small_beside_the_gaussians() -> None:
    scene = cloud(0, 3000)
    error = np.abs(unpack_places(pack := pack_splats(scene)) - scene.means[pack.order]).max()
    assert error < 0.02 / 8


def test_a_stray_gaussian_costs_the_others_nothing() -> None:
    scene = cloud(0, 3000)
    far = scene.means.copy()
    far[0] = (4e4, 0, 0)
    packed = pack_splats(replace(scene, means=far))
    error = np.abs(unpack_places(packed) - far[packed.order])
    near = packed.order != 0
    assert error[near].max() < 0.02 / 2
    assert error[~near].max() < 100


def test_other_columns_are_within_their_steps() -> None:
    scene = cloud(1, 500)
    packed, n = pack_splats(scene), 500
    rows = scene.select(packed.order)

    def planes(name: str) -> np.ndarray:
        return np.frombuffer(zlib.decompress(packed.blocks[name]), np.uint8).reshape(-1, n).astype(int)

    green, red, blue = np.cumsum(planes("colour"), axis=1) & 255
    red, blue = (2 * ((half + 128) % 256 - 128) + 0.5 for half in (red, blue))
    colors = np.stack([green + red, green, green + blue], axis=1) / 127
    np.testing.assert_allclose(colors, rows.colors, atol=1.01 / 127)
    np.testing.assert_allclose(planes("opacity")[0] / 63, rows.opacities, atol=0.5 / 63 + 1e-6)
    scale = packed.header["scale"]
    logs = scale["low"] + scale["step"] * planes("scale").T
    assert scale["step"] <= 0.1
    np.testing.assert_allclose(logs, np.log(rows.scales), atol=scale["step"] * 0.51 + 0.5)
    largest, *rest = planes("turn")
    quats = np.zeros((n, 4))
    for k, part in enumerate(rest, start=1):
        quats[np.arange(n), (largest + k) % 4] = (part / 127 - 0.5) * np.sqrt(2)
    quats[np.arange(n), largest] = np.sqrt(np.clip(1 - (quats**2).sum(axis=1), 0, None))
    assert np.abs((quats * rows.quats).sum(axis=1)).min() > np.cos(np.radians(1.2))


def test_the_same_scene_gives_the_same_bytes_and_fewer_than_spz(tmp_path: Path) -> None:
    scene = cloud(2, 20_000, spread=1.0, size=0.01)
    first, second = pack_splats(scene), pack_splats(scene)
    assert first.blocks == second.blocks
    assert first.header == second.header
    size = write_spz(scene, tmp_path / "cloud.spz").stat().st_size
    assert sum(map(len, first.blocks.values())) * 4 / 3 < size


def test_how_a_scene_was_trained_is_kept() -> None:
    scene = cloud(0, 10)
    assert pack_splats(scene).header["eps2d"] == 0.3
    mip = pack_splats(replace(scene, render_mode=RenderMode.MIP)).header
    assert (mip["eps2d"], mip["compensated"]) == (0.1, True)
    with pytest.raises(SceneError, match="flat discs"):
        pack_splats(replace(scene, render_mode=RenderMode.DISCS))
