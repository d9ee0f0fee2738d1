"""View choice on a small furnished room, on an object seen from outside, and on input that has nothing to see."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from chorus_common.cameras import CameraSet
from chorus_common.lifting import CellGrid, LiftingIndex
from chorus_common.rasterize import get_backend
from chorus_common.runtime.errors import ConfigError, SceneError
from chorus_common.scene import GaussianScene, canonical_quats
from chorus_common.viewpoints import survey_scene
from chorus_common.viewpoints.geometry import upright_frame
from data_manifests.synthetic import RoomOptions, generate_room
from stage1_render_teachers.views.candidates import Candidates
from stage1_render_teachers.views.choose import (
    GAINS,
    REUSE,
    chain_by_overlap,
    choose_views,
    coverage,
    greedy_cover,
    overlap_matrix,
)
from tests.chorus_common.viewpoints.buildings import make_building, wrapped

F64 = NDArray[np.float64]
ROOM = (5.0, 4.0, 2.7)


def box_faces(low: F64, high: F64, closed_below: bool) -> list[tuple[F64, F64, F64]]:
    """(corner, edge, edge) of the faces of an axis-aligned box."""
    size = np.diag(high - low)
    faces = []
    for axis in range(3):
        u, v = size[(axis + 1) % 3], size[(axis + 2) % 3]
        if closed_below or axis != 2:
            faces.append((low, u, v))
        faces.append((low + size[axis], u, v))
    return faces


def surfaces(faces: list[tuple[F64, F64, F64]], n: int, seed: int) -> GaussianScene:
    """Flat opaque Gaussians spread evenly over rectangles."""
    rng = np.random.default_rng(seed)
    corner, u, v = (np.array([face[k] for face in faces]) for k in range(3))
    normal = np.cross(u, v)
    area = np.linalg.norm(normal, axis=1)
    normal /= area[:, None]
    k = rng.choice(len(faces), n, p=area / area.sum())
    points = corner[k] + rng.uniform(size=(n, 1)) * u[k] + rng.uniform(size=(n, 1)) * v[k]
    spread = np.sqrt(area.sum() / n)
    turn = np.concatenate([1 + normal[k, 2:], np.cross([0.0, 0.0, 1.0], normal[k])], 1)  # takes z to the normal
    turn[np.abs(turn).max(1) < 1e-9] = (0, 1, 0, 0)
    scales = np.tile(np.array([spread, spread, 0.1 * spread], np.float32), (n, 1))
    colors = np.clip(0.5 + 0.3 * np.sin(7 * points), 0, 1).astype(np.float32)
    opacities = np.full(n, 0.95, np.float32)
    return GaussianScene(points.astype(np.float32), canonical_quats(turn), scales, opacities, colors, name="boxes")


def furnished_room(n: int = 6000) -> GaussianScene:
    faces = box_faces(np.zeros(3), np.array(ROOM), closed_below=True)
    for x, y, width, depth, height in ((1.0, 1.0, 1.2, 0.7, 0.8), (3.5, 3.0, 0.9, 0.9, 2.0), (4.2, 0.7, 0.8, 0.8, 1.0)):
        low = np.array([x - width / 2, y - depth / 2, 0.0])
        faces += box_faces(low, low + np.array([width, depth, height]), closed_below=False)
    return surfaces(faces, n, seed=0)


def solid_object() -> GaussianScene:
    return surfaces(
        box_faces(np.array([-0.3, -0.2, 0.0]), np.array([0.3, 0.2, 1.5]), closed_below=False)
        + box_faces(np.array([-0.1, -0.1, 0.02]), np.array([0.1, 0.1, 1.4]), closed_below=True),
        2500,
        seed=1,
    )


def index_of(scene: GaussianScene, cameras: CameraSet) -> LiftingIndex:
    grid = CellGrid(cameras.width, cameras.height, 16)
    hits = []
    for view, K in zip(cameras.viewmats, cameras.intrinsics):
        out = get_backend("cpu").render(scene, view, K, cameras.width, cameras.height, grid=grid)
        assert out.hits is not None
        hits.append(out.hits)
    return LiftingIndex.build(hits, scene.means, grid)


@pytest.fixture(scope="module")
def room_views() -> tuple[GaussianScene, CameraSet]:
    scene = furnished_room()
    return scene, choose_views(scene, 64, 160, 120, seed=3)


def test_64_views_cover_a_furnished_room(room_views: tuple[GaussianScene, CameraSet]) -> None:
    scene, cameras = room_views
    index = index_of(scene, cameras)
    assert len(cameras) == 64
    assert coverage(index, min_views=3) >= 0.95
    first_half = index.select_views(np.arange(32))
    assert coverage(first_half, min_views=3) <= coverage(index, min_views=3)


def test_room_cameras_stand_inside_and_apart_from_matter(room_views: tuple[GaussianScene, CameraSet]) -> None:
    scene, cameras = room_views
    assert (cameras.centers > 0.1).all()
    assert (cameras.centers < np.array(ROOM) - 0.1).all()
    distance = np.linalg.norm(cameras.centers[:, None] - scene.means[None], axis=2).min(1)
    assert distance.min() > 0.15
    assert len(np.unique(cameras.centers.round(3), axis=0)) >= 16  # spread over many camera centres
    assert (cameras.viewmats[:, 1, 2] < 0).all()  # upright: the picture's y axis points down in the world


def seen_by_view(index: LiftingIndex) -> sparse.csr_matrix:
    """Bool matrix [V, R] (ones as f32): which matrix rows of the index have visibility in which view."""
    rows = np.repeat(np.arange(len(index)), np.diff(index.indptr))
    views = index.columns // index.grid.cells
    seen = sparse.csr_matrix((np.ones(len(rows), np.float32), (views, rows)), shape=(index.n_views, len(index)))
    seen.data[:] = 1
    return seen


def test_choice_is_a_function_of_its_arguments() -> None:
    scene = furnished_room(1500)
    one, same, other = (choose_views(scene, 8, 64, 48, seed=seed) for seed in (1, 1, 2))
    assert one.viewmats.tobytes() == same.viewmats.tobytes()
    assert one.viewmats.tobytes() != other.viewmats.tobytes()


def test_neighbours_in_the_chosen_order_overlap_more_than_others(room_views: tuple[GaussianScene, CameraSet]) -> None:
    scene, cameras = room_views
    overlap = overlap_matrix(seen_by_view(index_of(scene, cameras)))
    neighbours = np.diagonal(overlap, 1).mean()
    everyone = overlap[np.triu_indices(len(overlap), 1)].mean()
    assert neighbours > 1.3 * everyone


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0)])
def test_an_object_is_seen_from_outside(up: tuple[float, float, float]) -> None:
    scene = solid_object()
    turned = scene.means @ upright_frame(up).astype(np.float32)  # stand it up along `up`
    scene = GaussianScene(turned, scene.quats, np.full_like(scene.scales, 0.02), scene.opacities, scene.colors)
    assert survey_scene(scene, up).kind == "object"
    cameras = choose_views(scene, 16, 96, 72, up=up)
    centre = scene.means.mean(0)
    assert (np.linalg.norm(cameras.centers - centre, axis=1) > 0.8).all()
    # every camera looks at the object, and the world's up is up in the picture
    forward = cameras.viewmats[:, 2, :3]
    towards = (centre - cameras.centers) / np.linalg.norm(centre - cameras.centers, axis=1, keepdims=True)
    assert ((forward * towards).sum(1) > 0.98).all()
    assert (cameras.viewmats[:, 1, :3] @ np.array(up) < 0).all()
    outside = seen_by_view(index_of(scene, cameras)).sum(0)
    assert (np.asarray(outside) > 0).mean() > 0.6  # the inner box is hidden


def test_greedy_cover_takes_the_best_at_every_turn_and_serves_every_room_first() -> None:
    rng = np.random.default_rng(0)
    dense = rng.uniform(size=(12, 40)) < 0.3
    camera_centre = rng.integers(0, 4, 12)
    room, worth = camera_centre // 2, rng.uniform(0.5, 1, 12)
    seen = sparse.csr_matrix(dense.astype(np.float32))
    candidates = Candidates(np.zeros((12, 4, 4)), camera_centre, room, worth, seen)
    chosen = greedy_cover(candidates, 6)
    assert len(set(room[chosen[:2]].tolist())) == 2
    for k in range(6):
        times = dense[chosen[:k]].sum(0)
        gain = np.array(GAINS)[np.minimum(times, 3)]
        value = (dense * gain).sum(1) * worth
        value *= REUSE ** np.array([(camera_centre[chosen[:k]] == s).sum() for s in camera_centre])
        value[chosen[:k]] = -1
        if k == 1:
            value[room == room[chosen[0]]] = -1
        assert value[chosen[k]] == pytest.approx(value.max(), rel=1e-5)
    assert len(set(greedy_cover(candidates, 99).tolist())) == 12


def test_overlap_and_chain() -> None:
    dense = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], np.float32)
    overlap = overlap_matrix(sparse.csr_matrix(dense))
    want = np.array([[1, 0.25, 2 / 3, 0], [0.25, 1, 0.5, 0], [2 / 3, 0.5, 1, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(overlap, want)
    np.testing.assert_array_equal(chain_by_overlap(overlap), [0, 2, 1, 3])


def test_a_captured_building_is_looked_at_from_inside() -> None:
    """A closed room in a rough shell, on ground 60 m wide, with floaters up to 200 m away."""
    room = generate_room(1, RoomOptions(gaussians=30_000)).scene
    scene = wrapped(room, seed=1)
    cameras = choose_views(scene, 64, 160, 120)
    low, high = room.means.min(axis=0), room.means.max(axis=0)
    assert ((cameras.centers > low) & (cameras.centers < high)).all()
    backend = get_backend("cpu")
    views = zip(cameras.viewmats, cameras.intrinsics)
    empty = [(backend.render(scene, view, K, 160, 120).alpha < 0.05).mean() for view, K in views]
    assert np.mean(empty) < 0.05
    index = index_of(scene, cameras)
    times = np.zeros(len(scene), dtype=np.int64)
    times[index.order] = index.visibility()[1]
    assert (times[survey_scene(scene).inside(scene.means)] >= 3).mean() >= 0.95
    assert (times[: len(room)] >= 3).mean() >= 0.9


def test_every_room_of_a_building_gets_a_view() -> None:
    building = make_building(0, spacing=0.12)
    cameras = choose_views(building.scene, 8, 160, 120)
    assert set(building.room_of(cameras.centers).tolist()) == set(range(6))


def test_nothing_to_see_is_named() -> None:
    scene = solid_object()
    clear = GaussianScene(
        scene.means, scene.quats, scene.scales, np.zeros(len(scene), np.float32), scene.colors, name="glass"
    )
    with pytest.raises(SceneError, match="glass: no Gaussian has opacity"):
        choose_views(clear, 4, 64, 48)
    for setting in ({"n_views": 0}, {"fov_x": 0.0}, {"fov_x": 179.0}, {"up": (0.0, 0.0, 0.0)}):
        arguments = {"n_views": 2, "width": 64, "height": 48, **setting}
        with pytest.raises(ConfigError):
            choose_views(scene, **arguments)  # type: ignore[arg-type]


def test_one_gaussian_can_be_looked_at() -> None:
    scene = solid_object().select(np.array([0]))
    cameras = choose_views(scene, 3, 64, 48)
    assert len(cameras) == 3
    assert coverage(index_of(scene, cameras), min_views=1) == 1.0
