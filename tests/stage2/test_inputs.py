"""Scenes to inputs: voxels, members, ranges, conventions, normals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chorus_common.normals import facing_free_space, plane_normals, shortest_axes
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene, canonical_quats
from stage2_distill.encoder import InputConfig, preset_config
from stage2_distill.encoder.inputs import POINT_CLOUD_LACKS, centred, scene_inputs, voxel_inputs, voxelise
from stage2_distill.encoder.normals import scene_normals


def scene(n: int = 400, seed: int = 0, side: float = 0.3) -> GaussianScene:
    rng = np.random.default_rng(seed)
    f = np.float32
    return GaussianScene(
        means=(rng.random((n, 3)) * side + 5).astype(f),
        quats=canonical_quats(rng.normal(size=(n, 4))),
        scales=rng.uniform(0.001, 3, (n, 3)).astype(f),
        opacities=rng.uniform(0.01, 0.99, n).astype(f),
        colors=rng.random((n, 3)).astype(f),
    )


def test_voxels_equal_floor_of_centred_coordinates() -> None:
    s = scene()
    batch, inverse = scene_inputs(s, preset_config("chorus-lite"))
    cell = np.floor(centred(s.means) / 0.02).astype(np.int64)
    cell -= cell.min(0)
    assert np.array_equal(batch.grid_coord.numpy()[inverse], cell)
    assert len(np.unique(cell, axis=0)) == len(batch)
    low, high = centred(s.means).min(0), centred(s.means).max(0)
    assert np.allclose(low[:2] + high[:2], 0, atol=1e-9)
    assert low[2] == 0


def test_most_opaque_member_and_channel_order() -> None:
    s = scene()
    batch, inverse = scene_inputs(s, preset_config("scenesplat"))
    feat = batch.feat.numpy()
    assert feat.shape[1] == 11
    for voxel in range(0, len(batch), 9):
        rows = np.flatnonzero(inverse == voxel)
        best = rows[np.argmax(s.opacities[rows])]
        expected = [
            s.colors[best] * 2 - 1,
            s.opacities[best : best + 1],
            s.quats[best],
            np.minimum(s.scales[best], 1.5),
        ]
        assert np.allclose(feat[voxel], np.concatenate(expected))
        assert np.allclose(batch.coord[voxel].numpy(), centred(s.means)[best], atol=1e-6)


def test_mean_member() -> None:
    s = scene(side=0.05)
    config = preset_config("chorus-lite", inputs=InputConfig(member="mean"))
    batch, inverse = scene_inputs(s, config)
    for voxel in range(len(batch)):
        rows = inverse == voxel
        assert np.allclose(batch.feat[voxel, 3], s.opacities[rows].mean(), atol=1e-6)
        assert np.isclose(np.linalg.norm(batch.feat[voxel, 4:8]), 1, atol=1e-5)


def test_training_members_are_a_function_of_the_seed() -> None:
    s = scene(side=0.06)
    config = preset_config("chorus-lite")
    draws = [scene_inputs(s, config, training=True, seed=k)[0].feat.numpy() for k in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    features = scene_inputs(s, preset_config("chorus-lite", inputs=InputConfig(grid_size=1e-4)))[
        0
    ]  # every Gaussian alone
    known = {tuple(row) for row in features.feat.numpy().tolist()}
    assert all(tuple(row) in known for row in draws[2].tolist())


def test_rows_do_not_depend_on_the_order_of_the_file() -> None:
    s = scene()
    order = np.random.default_rng(3).permutation(len(s))
    a, inverse_a = scene_inputs(s, preset_config("chorus-lite"))
    b, inverse_b = scene_inputs(s.select(order), preset_config("chorus-lite"))
    assert np.array_equal(a.feat.numpy(), b.feat.numpy())
    assert np.array_equal(inverse_a[order], inverse_b)


def test_absent_attributes_are_zero_and_said_to_be() -> None:
    features = ("coord", "color", "opacity", "quat", "scale", "normal")
    config = preset_config("chorus-lite", inputs=InputConfig(features=features, indicator=True))
    assert config.in_channels == 17 + 6
    gaussians = scene_inputs(scene(), config)[0].feat.numpy()
    points = scene_inputs(scene(), config, absent=POINT_CLOUD_LACKS)[0].feat.numpy()
    assert (gaussians[:, 17:] == 1).all()
    assert (points[:, 17:] == [1, 1, 0, 0, 0, 1]).all()
    assert (points[:, 6:14] == 0).all()
    assert (gaussians[:, 6:14] != 0).any(0).all()


def test_unit_colours_for_sonata() -> None:
    batch, _ = scene_inputs(scene(), preset_config("sonata"))
    assert batch.feat.shape[1] == 9
    assert 0 <= float(batch.feat[:, 3:6].min()) < 0.1
    assert np.allclose(batch.feat[:, :3], batch.coord)


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"give 11 channels, but it takes 12"):
        scene_inputs(scene(), preset_config("chorus-lite", in_channels=12))
    with pytest.raises(ConfigError, match="features must be distinct"):
        preset_config("chorus-lite", inputs={"features": ("color", "colour")})


def test_voxelise_lists_members() -> None:
    coord = np.random.default_rng(0).random((60, 3)) * 0.1
    grid, inverse, starts, order = voxelise(coord, 0.04)
    for voxel, rows in enumerate(np.split(order, starts[1:])):
        assert np.array_equal(rows, np.flatnonzero(inverse == voxel))
    assert np.array_equal(grid, np.unique(grid, axis=0))


def test_estimated_normals_face_free_space() -> None:
    flat = replace(scene(50, side=2.0), scales=np.tile(np.float32([0.2, 0.01, 0.3]), (50, 1)))
    np.testing.assert_array_equal(scene_normals(flat, "axis"), facing_free_space(shortest_axes(flat), flat))
    np.testing.assert_array_equal(scene_normals(flat, "plane"), facing_free_space(plane_normals(flat.means), flat))
    assert not scene_normals(flat, "zeros").any()
    own = np.float32([0, 1, 0]) * np.ones((50, 1), np.float32)
    assert scene_normals(replace(flat, normals=own), "axis") is own


def test_the_nearest_voxels_are_left_and_centred_anew() -> None:
    s, config = scene(), preset_config("chorus-pts")
    whole = voxel_inputs(s, config, training=True, seed=3)
    assert whole.members is not None
    part = voxel_inputs(s, config, training=True, seed=3, max_voxels=60)
    assert len(part.points) == 60 < len(whole.points)
    place = {tuple(g): i for i, g in enumerate(whole.points.grid_coord.tolist())}
    rows = [place[tuple(g)] for g in part.points.grid_coord.tolist()]
    assert rows == sorted(rows)
    assert part.members is not None
    np.testing.assert_array_equal(part.members, whole.members[rows])  # the same draw of members
    for voxel in range(60):
        np.testing.assert_array_equal(np.flatnonzero(part.voxel == voxel), np.flatnonzero(whole.voxel == rows[voxel]))
    assert (part.voxel >= 0).sum() == np.isin(whole.voxel, rows).sum()
    coord = centred(s.means)[whole.members]
    distance = np.linalg.norm(coord[:, None] - coord[rows][None], axis=2)
    left = np.setdiff1d(np.arange(len(coord)), rows)
    assert any(  # some voxel has no nearer one than these
        distance[rows, k].max() <= distance[left, k].min() + 1e-12 for k in range(60)
    )
    own = coord[rows]
    own = own - [*((own[:, :2].min(0) + own[:, :2].max(0)) / 2), 0]
    np.testing.assert_allclose(part.points.coord, own, atol=1e-6)
    np.testing.assert_allclose(part.points.feat[:, :3], own, atol=1e-6)  # chorus-pts feeds coordinates, too
    all_of_them = voxel_inputs(s, config, training=True, seed=3, max_voxels=10**6)
    np.testing.assert_array_equal(all_of_them.voxel, whole.voxel)
