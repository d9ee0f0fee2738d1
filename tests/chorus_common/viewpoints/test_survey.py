"""Where people can stand: in buildings with a garden, on open ground, around objects, and not in hollow things."""

from __future__ import annotations

import numpy as np
import pytest

from chorus_common.rotations import rotate
from chorus_common.scene import GaussianScene
from chorus_common.viewpoints import good_view, survey_scene
from chorus_common.viewpoints.places import ring_places, standing_places
from data_manifests.synthetic import RoomOptions, generate_room
from tests.chorus_common.viewpoints.buildings import (
    Building,
    box_faces,
    floaters,
    gaussians_on,
    ground_around,
    join,
    make_building,
    wrapped,
)

SPACING = 0.09


@pytest.fixture(scope="module", params=[(0, 3, 2, 1), (1, 2, 2, 1), (5, 2, 2, 2)], ids=["six", "four", "two storeys"])
def building(request: pytest.FixtureRequest) -> Building:
    seed, columns, rows, storeys = request.param
    return make_building(seed, columns, rows, storeys, spacing=SPACING)


def test_every_room_of_a_building_is_found_and_nothing_else(building: Building) -> None:
    survey = survey_scene(building.scene)
    assert survey.kind == "interior"
    assert len(survey.rooms) == len(building.rooms)
    found = [np.bincount(building.room_of(room.stands) + 1, minlength=len(building.rooms) + 1) for room in survey.rooms]
    assert sorted(int(counts[1:].argmax()) for counts in found) == list(range(len(building.rooms)))
    low, high = building.rooms[:, 0].min(axis=0), building.rooms[:, 1].max(axis=0)
    for room, counts in zip(survey.rooms, found):
        assert ((room.stands > low) & (room.stands < high)).all()  # inside the house; some stand in its doors
        assert counts[0] <= 0.05 * counts.sum()
        assert not building.in_furniture(room.stands).any()
        floor = building.rooms[int(counts[1:].argmax()), 0, 2]
        assert np.abs(room.stands[:, 2] - floor - 1.5).max() < 0.35


def test_places_are_in_every_room(building: Building) -> None:
    survey = survey_scene(building.scene)
    eyes, rooms = standing_places(survey, 24, np.random.default_rng(0))
    assert set(building.room_of(eyes).tolist()) == set(range(len(building.rooms)))
    assert len(np.unique(rooms)) == len(building.rooms)
    again, _ = standing_places(survey_scene(building.scene), 24, np.random.default_rng(0))
    np.testing.assert_array_equal(eyes, again)


def test_the_interior_is_what_is_seen_from_inside(building: Building) -> None:
    inside = survey_scene(building.scene).inside(building.scene.means)
    assert inside[building.inner].mean() > 0.93
    assert inside[~building.inner].mean() < 0.4  # of facade, roof, garden and trees, a part of the facade


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_closed_room_in_a_rough_shell_with_ground_and_floaters(seed: int) -> None:
    room = generate_room(seed, RoomOptions(gaussians=30_000)).scene
    survey = survey_scene(wrapped(room, seed))
    assert survey.kind == "interior"
    stands = np.concatenate([found.stands for found in survey.rooms])
    assert ((stands > room.means.min(axis=0)) & (stands < room.means.max(axis=0))).all()
    view = good_view(wrapped(room, seed))
    assert ((view.eye > room.means.min(axis=0)) & (view.eye < room.means.max(axis=0))).all()


def scan_without_ceiling() -> GaussianScene:
    rng = np.random.default_rng(3)
    low, high = np.zeros(3), np.array([5.0, 4.0, 2.4])
    faces = box_faces(low, high)
    faces = [face for face in faces if face[0][2] < 2.0]  # all but the ceiling
    faces += box_faces(np.array([1.0, 1.0, 0.0]), np.array([2.0, 1.6, 0.7]), bottom=False)
    return gaussians_on(faces, 0.06, rng)


def test_a_scan_may_lack_its_ceiling() -> None:
    survey = survey_scene(scan_without_ceiling())
    assert survey.kind == "interior"
    assert len(survey.rooms) == 1
    assert np.isinf(survey.rooms[0].height)
    stands = survey.rooms[0].stands
    assert ((stands[:, :2] > 0.2) & (stands[:, :2] < np.array([4.8, 3.8]))).all()


def test_a_scan_may_lack_walls_as_well() -> None:
    """Three walls of 1.7 m, as a hand-held scanner leaves them."""
    rng = np.random.default_rng(8)
    faces = [face for face in box_faces(np.zeros(3), np.array([4.5, 3.5, 1.7])) if face[0][2] < 1.5]
    faces = [face for face in faces if face[0][0] < 4.0]  # not the wall at x = 4.5
    faces += box_faces(np.array([3.2, 1.0, 0.0]), np.array([4.2, 2.5, 0.8]), bottom=False)
    survey = survey_scene(gaussians_on(faces, 0.06, rng))
    assert survey.kind == "interior"
    stands = np.concatenate([room.stands for room in survey.rooms])
    assert ((stands[:, :2] > 0.1) & (stands[:, :2] < (4.6, 3.4))).all()


def object_on_ground(ground: float) -> GaussianScene:
    rng = np.random.default_rng(4)
    parts = [gaussians_on(box_faces(np.array([-0.4, -0.3, 0.0]), np.array([0.4, 0.3, 1.2])), 0.03, rng)]
    if ground > 0:
        parts.append(gaussians_on(ground_around(np.full(2, -0.01), np.full(2, 0.01), ground, 0.0), 0.05, rng))
    return join(parts, "object")


@pytest.mark.parametrize("ground", [0.0, 3.0, 6.0])
def test_an_object_is_looked_at_from_rings(ground: float) -> None:
    scene = object_on_ground(ground)
    survey = survey_scene(scene)
    assert survey.kind == "object"
    assert survey.surroundings is not None
    assert survey.surroundings.on_ground == (ground > 0)
    eyes, centre = ring_places(survey, 36, np.array([0.7, 0.5]))
    assert np.abs(centre - (0, 0, 0.6)).max() < 0.3
    if ground > 0:
        assert (eyes[:, 2] > 0).all()
    around = np.arctan2(eyes[:, 1], eyes[:, 0])
    assert np.diff(np.sort(around)).max() < np.radians(60)  # all around
    assert (np.abs(eyes) > (0.4, 0.3, 1.2)).any(axis=1).all()  # outside the object
    assert standing_places(survey, 5, np.random.default_rng(0))[0].shape == (0, 3)
    assert good_view(scene, survey=survey).kind == "object"


def test_open_ground_is_looked_at_from_eye_height() -> None:
    rng = np.random.default_rng(5)
    faces = ground_around(np.full(2, -0.1), np.full(2, 0.1), 30.0, 0.0)
    for place in rng.uniform(-14, 14, (40, 2)):
        faces += box_faces(np.array([*(place - 0.3), 0.0]), np.array([*(place + 0.3), 1.5]))
    scene = join([gaussians_on(faces, 0.2, rng), floaters(200, 60.0, rng)], "field")
    survey = survey_scene(scene)
    assert survey.kind == "outdoors"
    eyes, _ = standing_places(survey, 16, rng)
    assert len(eyes) == 16
    assert np.abs(eyes[:, 2] - 1.6).max() < 0.4
    assert (np.abs(eyes[:, :2]) < 16).all()


def test_a_hollow_house_seen_from_the_street_is_no_interior() -> None:
    rng = np.random.default_rng(6)
    low, high = np.array([-4.0, -3.0, 0.0]), np.array([4.0, 3.0, 5.0])
    parts = [gaussians_on(box_faces(low, high), 0.08, rng)]
    parts.append(gaussians_on(ground_around(low[:2], high[:2], 30.0, 0.0), 0.15, rng))
    assert survey_scene(join(parts, "house")).kind != "interior"


def test_an_empty_room_alone_is_an_interior() -> None:
    scene = gaussians_on(box_faces(np.zeros(3), np.array([4.0, 3.0, 2.5])), 0.08, np.random.default_rng(7))
    assert survey_scene(scene).kind == "interior"


@pytest.mark.parametrize("n", [0, 1, 3])
def test_hardly_any_gaussians(n: int) -> None:
    scene = object_on_ground(0.0).select(np.arange(n))
    assert survey_scene(scene).kind == "object"


def test_up_may_be_any_direction() -> None:
    building = make_building(2, 2, 1, spacing=SPACING)
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # z becomes -y
    turned = rotate(building.scene, turn, np.zeros(3))
    plain, other = survey_scene(building.scene), survey_scene(turned, (0.0, -1.0, 0.0))
    assert [round(room.area) for room in other.rooms] == pytest.approx(
        [round(room.area) for room in plain.rooms], abs=1
    )
    stands = np.concatenate([room.stands for room in other.rooms]) @ turn
    assert (building.room_of(stands) >= 0).mean() > 0.95
