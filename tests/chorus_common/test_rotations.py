"""Turning scenes against the plain formulas: centres, covariances, normals, quaternions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus_common import rotations
from chorus_common.scene import quats_to_rotations
from tests.stage2.test_data_augment import assert_canonical, covariances, make_scene


@settings(max_examples=30, deadline=None)
@given(
    axis=st.sampled_from("xyz"),
    angle=st.floats(-np.pi, np.pi),
    second=st.floats(-np.pi, np.pi),
    seed=st.integers(0, 99),
)
def test_rotation_turns_covariances_centres_and_normals(axis: str, angle: float, second: float, seed: int) -> None:
    scene = make_scene(seed, 20)
    matrix = rotations.rotation_about(axis, angle) @ rotations.rotation_about("z", second)
    center = np.array([0.3, -0.2, 0.9])
    turned = rotations.rotate(scene, matrix, center)
    for i in range(len(scene)):
        np.testing.assert_allclose(turned.means[i], matrix @ (scene.means[i] - center) + center, atol=1e-5)
        np.testing.assert_allclose(turned.normals[i], matrix @ scene.normals[i], atol=1e-5)
    np.testing.assert_allclose(covariances(turned), matrix @ covariances(scene) @ matrix.T, atol=1e-6)
    assert_canonical(turned)
    np.testing.assert_array_equal(turned.scales, scene.scales)


def test_rotation_about_is_counter_clockwise() -> None:
    np.testing.assert_allclose(rotations.rotation_about("z", np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(rotations.rotation_about("x", np.pi / 2) @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotations.rotation_about("y", np.pi / 2) @ [0, 0, 1], [1, 0, 0], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 1e-3))
def test_quaternion_of_a_rotation_gives_it_back(quat: list[float]) -> None:
    matrix = quats_to_rotations(np.array(quat) / np.linalg.norm(quat))
    back = rotations.quat_from_rotation(matrix)
    assert back[0] >= 0
    np.testing.assert_allclose(quats_to_rotations(back), matrix, atol=1e-9)


def test_middle_is_that_of_the_box() -> None:
    scene = make_scene(0, 20)
    low, high = scene.means.min(0), scene.means.max(0)
    np.testing.assert_allclose(rotations.middle(scene) - low, high - rotations.middle(scene), atol=1e-6)
