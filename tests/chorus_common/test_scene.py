from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from chorus_common.cameras import CameraSet, look_at, pinhole
from chorus_common.runtime.errors import SceneError
from chorus_common.scene import GaussianScene, canonical_quats, quats_to_rotations


def random_scene(n: int = 20, seed: int = 0) -> GaussianScene:
    rng = np.random.default_rng(seed)
    return GaussianScene(
        means=rng.normal(size=(n, 3)),
        quats=canonical_quats(rng.normal(size=(n, 4))),
        scales=rng.uniform(0.01, 0.1, (n, 3)),
        opacities=rng.uniform(0.1, 0.9, n),
        colors=rng.uniform(size=(n, 3)),
        labels=rng.integers(-1, 5, n),
        name="random",
    )


def test_select_keeps_the_map_to_the_source() -> None:
    scene = random_scene()
    part = scene.select(np.array([5, 3, 7])).select(np.array([False, True, True]))
    assert part.source_ids.tolist() == [3, 7]
    np.testing.assert_array_equal(part.means, scene.means[[3, 7]])
    assert part.labels is not None
    assert scene.labels is not None
    np.testing.assert_array_equal(part.labels, scene.labels[[3, 7]])
    assert part.normals is None


@pytest.mark.parametrize(
    ("field", "row", "message"),
    [
        ("means", [np.nan, 0, 0], "means is not finite at Gaussian 4"),
        ("means", [1e9, 0, 0], "centres reach"),
        ("scales", [0, 1, 1], "scales must lie"),
        ("quats", [2, 0, 0, 0], "not unit"),
        ("opacities", 1.5, "opacities"),
        ("colors", [0, 2, 0], "colours"),
    ],
)
def test_validation_names_the_scene_and_the_fault(field: str, row: object, message: str) -> None:
    scene = random_scene()
    value = getattr(scene, field).copy()
    value[4] = row
    with pytest.raises(SceneError, match=f"scene random: .*{message}"):
        replace(scene, **{field: value}).validated()


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(SceneError, match=r"quats has shape \(20, 3\), expected \(20, 4\)"):
        replace(random_scene(), quats=np.zeros((20, 3)))


@given(st.integers(0, 2**32 - 1))
def test_rotations_agree_with_scipy_and_ignore_sign(seed: int) -> None:
    q = np.random.default_rng(seed).normal(size=(5, 4))
    canonical = canonical_quats(q)
    assert (canonical[:, 0] >= 0).all()
    expected = Rotation.from_quat(q[:, [1, 2, 3, 0]]).as_matrix()
    np.testing.assert_allclose(quats_to_rotations(canonical.astype(np.float64)), expected, atol=1e-6)


def test_w_zero_stays_a_rotation() -> None:
    np.testing.assert_allclose(
        canonical_quats(np.array([[0.0, 3.0, 4.0, 0.0], [0, 0, 0, 0]])), [[0, 0.6, 0.8, 0], [1, 0, 0, 0]]
    )


def test_look_at_puts_the_target_on_the_optical_axis_with_y_down() -> None:
    eye, target = np.array([1.0, 2.0, 1.5]), np.array([4.0, -1.0, 1.0])
    view = look_at(eye, target)
    at_camera = view @ np.array([*target, 1.0])
    np.testing.assert_allclose(at_camera[:2], 0, atol=1e-12)
    assert at_camera[2] == pytest.approx(np.linalg.norm(target - eye))
    above = view @ np.array([target[0], target[1], target[2] + 0.1, 1.0])
    assert above[1] < 0
    np.testing.assert_allclose(view[:3, :3] @ view[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(view[:3, :3]) == pytest.approx(1)


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (100, 30), (320, 240)])
@pytest.mark.parametrize("own", [(1920, 1080), (1080, 1920), (1296, 968)])
def test_filling_a_picture_of_another_shape_stretches_nothing(own: tuple[int, int], size: tuple[int, int]) -> None:
    k = np.array([[900.0, 0, own[0] / 2 + 30], [0, 950.0, own[1] / 2 - 20], [0, 0, 1]])
    filled = CameraSet(np.eye(4)[None], k[None], *own, ("a",)).filled(*size)
    new = filled.intrinsics[0]
    assert (filled.width, filled.height) == size
    assert new[0, 0] / new[1, 1] == pytest.approx(900 / 950)
    factor = new[0, 0] / 900
    # the middle stays, and the old picture fills the new one, touching it at two sides
    np.testing.assert_allclose((new[:2, 2] - np.array(size) / 2) / factor, [30, -20])
    covered = factor * np.array(own) / size
    assert covered.min() == pytest.approx(1)


def test_camera_centres_and_resizing() -> None:
    eye = np.array([1.0, 2.0, 1.5])
    cameras = CameraSet(
        viewmats=look_at(eye, np.zeros(3))[None],
        intrinsics=pinhole(320, 240, 70)[None],
        widths=320,
        heights=240,
        names=("a",),
    )
    np.testing.assert_allclose(cameras.centers, eye[None])
    half = cameras.resized(160, 120)
    np.testing.assert_allclose(half.intrinsics[0][:2] * 2, cameras.intrinsics[0][:2])
    np.testing.assert_array_equal(cameras.filled(160, 120).intrinsics, half.intrinsics)
    with pytest.raises(SceneError, match="view a is not finite"):
        replace(cameras, viewmats=np.full((1, 4, 4), np.nan))
    with pytest.raises(SceneError, match="not distinct"):
        CameraSet(np.zeros((2, 4, 4)), np.zeros((2, 3, 3)), 4, 4, ("a", "a"))


def test_views_of_several_sizes_keep_them_until_they_are_drawn_at_one() -> None:
    sizes = [(1000, 750), (750, 1000), (1957, 1091), (1957, 1100)]
    k = np.stack([pinhole(*size, 60) for size in sizes])
    widths, heights = np.array(sizes).T
    cameras = CameraSet(np.tile(np.eye(4), (4, 1, 1)), k, widths, heights, tuple("abcd"))
    assert cameras.sizes == sizes
    with pytest.raises(SceneError, match="one picture size is needed, the 4 views have 1000x750, 750x1000"):
        _ = cameras.width
    for change in (lambda c: c.filled(640, 480), lambda c: c.resized(320, 200)):
        together = change(cameras)
        for i in range(4):
            alone = change(CameraSet(np.eye(4)[None], k[i : i + 1], *sizes[i], ("a",)))
            np.testing.assert_array_equal(together.intrinsics[i], alone.intrinsics[0])
            assert (together.width, together.height) == (alone.width, alone.height)
    some = cameras.select([3, 1])
    assert some.sizes == [sizes[3], sizes[1]]
    assert some.names == ("d", "b")


def test_bent_views_are_refused_only_where_photographs_are_read() -> None:
    k = np.tile(pinhole(8, 6, 60), (2, 1, 1))
    cameras = CameraSet(np.tile(np.eye(4), (2, 1, 1)), k, 8, 6, ("a", "b"), np.array([False, True]))
    with pytest.raises(SceneError, match=r"room: view b has lens distortion"):
        cameras.filled(4, 4).check_undistorted("room")
    cameras.select([0]).check_undistorted("room")
