"""Scenes that are turned, in other units, or soiled come back as they were; clean ones stay as they are."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from chorus_common.cameras import CameraSet
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from chorus_common.scene_check import Alignment, AlignmentSettings, align_scene
from chorus_common.scene_check.metric import UNITS
from chorus_common.scene_check.orientation import rotation_to_z
from chorus_common.scene_check.outliers import find_outliers
from chorus_common.scene_check.settings import alignment_settings
from data_manifests.synthetic import RoomOptions, generate_room

AXES = {
    "y down": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "y up": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "upside down": np.diag([1.0, -1, -1]),
    "x up": np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
}
SEEDS = (5_000_001, 5_000_004, 5_000_006)
#: Its surfaces do not tell floor from ceiling clearly.
UNCLEAR = 5_000_000


@cache
def room(seed: int = SEEDS[0]) -> tuple[GaussianScene, CameraSet]:
    made = generate_room(seed, RoomOptions(gaussians=6000, views=6))
    return made.scene, made.cameras


def with_extra(scene: GaussianScene, points: np.ndarray, opacity: float = 0.02) -> GaussianScene:
    """`scene` and some more Gaussians at `points`, as the file's last rows."""
    more = scene.select(np.zeros(len(points), dtype=int))
    more = replace(more, means=points.astype(np.float32), opacities=np.full(len(points), opacity, np.float32))
    names = ("means", "quats", "scales", "opacities", "colors", "normals", "labels", "instances", "parts")
    columns = {
        name: None if getattr(scene, name) is None else np.concatenate([getattr(scene, name), getattr(more, name)])
        for name in names
    }
    return GaussianScene(**columns, label_space=scene.label_space)


def far_below(scene: GaussianScene, metres: float) -> np.ndarray:
    return np.array([[*scene.means[:, :2].mean(0), scene.means[:, 2].min() - metres]])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_clean_room_stays_as_it_is_to_the_byte(seed: int) -> None:
    scene, cameras = room(seed)
    for own in (None, cameras):
        aligned = align_scene(scene, cameras=own)
        assert aligned.alignment.is_identity
        assert not aligned.outliers.any()
        assert aligned.scene is scene
        assert aligned.interior
        assert all(finding.severity == "ok" for finding in aligned.findings)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("with_cameras", [False, True])
def test_a_turned_room_is_turned_back_without_rounding(name: str, seed: int, with_cameras: bool) -> None:
    scene, cameras = room(seed)
    turned = Alignment(AXES[name])
    aligned = align_scene(turned.scene(scene), cameras=turned.cameras(cameras) if with_cameras else None)
    back = aligned.alignment.rotation @ turned.rotation
    assert back[2].tolist() == [0, 0, 1]  # up is up again; the yaw may differ
    assert set(np.abs(aligned.alignment.rotation).ravel()) <= {0.0, 1.0}
    np.testing.assert_array_equal(aligned.scene.means[:, 2], scene.means[:, 2])


def test_where_up_is_unclear_nothing_is_done_but_a_warning_is_given() -> None:
    scene, cameras = room(UNCLEAR)
    turned = Alignment(AXES["upside down"])
    aligned = align_scene(turned.scene(scene))
    assert aligned.alignment.is_identity
    assert any(finding.topic == "up" and finding.severity == "warning" for finding in aligned.findings)
    seen = align_scene(turned.scene(scene), cameras=turned.cameras(cameras))
    assert (seen.alignment.rotation @ turned.rotation)[2].tolist() == [0, 0, 1]


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_any_tilt_is_found_or_the_surfaces_are_said_to_be_unclear(seed: int) -> None:
    scene, cameras = room()
    turned = Alignment(Rotation.random(random_state=seed).as_matrix())
    for own in (turned.cameras(cameras), None):
        aligned = align_scene(turned.scene(scene), AlignmentSettings(scale="off"), own)
        up = (aligned.alignment.rotation @ turned.rotation)[2, 2]
        warned = any(finding.topic == "up" and finding.severity == "warning" for finding in aligned.findings)
        assert up > np.cos(np.radians(3)) or (own is None and warned)


@pytest.mark.parametrize("name", UNITS)
def test_common_units_are_found_exactly(name: str) -> None:
    scene, _ = room()
    aligned = align_scene(Alignment(scale=1 / UNITS[name]).scene(scene))
    assert aligned.alignment.scale == UNITS[name]
    assert any(name in finding.what for finding in aligned.findings)


@pytest.mark.parametrize("factor", [0.2356, 0.4, 7.0])
def test_an_arbitrary_unit_is_found_about(factor: float) -> None:
    errors = []
    for seed in SEEDS:
        aligned = align_scene(Alignment(scale=factor).scene(room(seed)[0]))
        errors.append(abs(np.log(aligned.alignment.scale * factor)))
    assert max(errors) < 0.2
    assert np.mean(errors) < 0.12


@pytest.mark.parametrize("metres", [1.0, 3.0, 10.0, 1e4])
@pytest.mark.parametrize("opacity", [0.02, 0.9])
def test_one_stray_gaussian_changes_nothing_else(metres: float, opacity: float) -> None:
    scene, _ = room()
    aligned = align_scene(with_extra(scene, far_below(scene, metres), opacity))
    assert np.flatnonzero(aligned.outliers).tolist() == [len(scene)]
    np.testing.assert_array_equal(aligned.scene.means, scene.means)
    assert aligned.scene.source_rows == len(scene) + 1
    values = aligned.all_rows(np.arange(len(scene)))
    assert values[:-1].tolist() == list(range(len(scene)))
    nearest = np.linalg.norm(scene.means.astype(float) - far_below(scene, metres), axis=1).argmin()
    assert values[-1] == nearest


def test_dirt_just_below_the_floor_is_left_out() -> None:
    scene = generate_room(SEEDS[0], RoomOptions(gaussians=24_000, views=1)).scene
    aligned = align_scene(with_extra(scene, far_below(scene, 0.15)))
    assert np.flatnonzero(aligned.outliers).tolist() == [len(scene)]


def test_a_second_room_and_a_few_random_points_are_no_outliers() -> None:
    scene, _ = room()
    beside = replace(scene, means=scene.means + np.float32(20))
    both = with_extra(scene, beside.means[::3], 0.9)
    assert not find_outliers(both).any()
    assert not find_outliers(scene.select(np.arange(0, len(scene), 60))).any()  # too sparse to say


def test_off_changes_nothing_and_warns() -> None:
    scene, _ = room()
    soiled = with_extra(Alignment(AXES["y down"], 1000.0).scene(scene), np.array([[0, 1e5, 0]]))
    aligned = align_scene(soiled, AlignmentSettings(up="off", scale="off", outliers="off"))
    assert aligned.scene is soiled
    assert aligned.alignment.is_identity
    warned = {finding.topic for finding in aligned.findings if finding.severity == "warning"}
    assert {"up", "outliers"} <= warned


def test_what_is_told_is_done() -> None:
    scene, _ = room()
    soiled = with_extra(scene, far_below(scene, 0.7))
    for metres, found in (("0.3", [len(scene)]), ("0.4", [])):  # a unit is half a metre
        aligned = align_scene(soiled, AlignmentSettings(up="-y", scale="0.5", outliers=metres))
        assert (aligned.alignment.rotation @ [0, -1, 0]).tolist() == [0, 0, 1]
        assert aligned.alignment.scale == 0.5
        assert np.flatnonzero(aligned.outliers).tolist() == found


def test_a_lone_gaussian_inside_the_room_decides_nothing_and_stays() -> None:
    scene, _ = room()
    middle = (scene.means.min(0) + scene.means.max(0)) / 2
    assert np.linalg.norm(scene.means - middle, axis=1).min() > 0.3
    assert not find_outliers(with_extra(scene, middle[None], 0.9)).any()


@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_points_and_cameras_go_along(seed: int, scale: float) -> None:
    scene, cameras = room()
    alignment = Alignment(Rotation.random(random_state=seed).as_matrix(), scale)
    moved, views = alignment.scene(scene), alignment.cameras(cameras)
    np.testing.assert_allclose(moved.means, alignment.points(scene.means), rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_allclose(alignment.points_back(alignment.points(scene.means)), scene.means, atol=1e-5)
    before = scene.means @ cameras.viewmats[0, :3, :3].T + cameras.viewmats[0, :3, 3]
    after = moved.means @ views.viewmats[0, :3, :3].T + views.viewmats[0, :3, 3]
    np.testing.assert_allclose(after, before * scale, atol=2e-5 * max(1.0, scale) * 10)
    again = Alignment.from_quat(tuple(alignment.as_dict()["quat"]), alignment.as_dict()["scale"])
    np.testing.assert_allclose(again.rotation, alignment.rotation, atol=1e-6)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(lambda v: np.linalg.norm(v) > 1e-3))
def test_rotation_to_z_is_a_rotation_that_does_so(vector: list[float]) -> None:
    up = np.array(vector) / np.linalg.norm(vector)
    rotation = rotation_to_z(up)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)
    np.testing.assert_allclose(rotation @ up, [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("words", "line"),
    [({"up": "sideways"}, "--up: 'sideways' is no direction"), ({"scale": "-1"}, "--scale: '-1' is neither"),
     ({"outliers": "nan"}, "--outliers: 'nan' is neither"), ({"up": "0,0,0"}, "--up: '0,0,0' is no direction")],
)  # fmt: skip
def test_words_that_mean_nothing_are_refused(words: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        alignment_settings(**words)
