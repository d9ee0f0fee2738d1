"""Rooms: reproducible, valid, complete in their classes, free of collisions, and not solvable by colour."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import numpy as np
import pytest
from scipy.spatial import cKDTree

from chorus_common.labels import FOREGROUND_EXCLUDED, SCANNET20
from chorus_common.scene import GaussianScene, quats_to_rotations
from data_manifests.synthetic import RoomOptions, SyntheticRoom, generate_room
from data_manifests.synthetic.categories import CATEGORIES
from data_manifests.synthetic.item import overlapping
from data_manifests.synthetic.model import STRUCTURE, build_model
from data_manifests.synthetic.options import SCANNER, RoomType
from data_manifests.synthetic.scan import seen_by_frames, smooth_field
from data_manifests.synthetic.trajectory import Surface

TYPES: tuple[RoomType, ...] = get_args(RoomType)
SMALL = RoomOptions(gaussians=5_000, views=6)


@pytest.fixture(scope="module")
def rooms() -> list[SyntheticRoom]:
    """Two rooms of every type."""
    return [generate_room(50 + i, SMALL.model_copy(update={"room_type": TYPES[i % 5]})) for i in range(10)]


def scene_bytes(scene: GaussianScene) -> bytes:
    columns = (
        "means", "quats", "scales", "opacities", "colors", "normals", "labels", "instances", "parts", "source_ids"
    )  # fmt: skip
    return b"".join(getattr(scene, column).tobytes() for column in columns)


@pytest.mark.parametrize("domain", ["clean", "shifted", "scan"])
def test_same_seed_same_bytes(domain: str) -> None:
    options = RoomOptions(gaussians=3_000, views=4, domain=domain)  # type: ignore[arg-type]
    a, b, c = generate_room(11, options), generate_room(11, options), generate_room(12, options)
    assert scene_bytes(a.scene) == scene_bytes(b.scene)
    assert a.cameras.viewmats.tobytes() == b.cameras.viewmats.tobytes()
    assert scene_bytes(a.scene) != scene_bytes(c.scene)


def test_more_gaussians_or_views_never_change_the_furniture() -> None:
    a = generate_room(5, RoomOptions(gaussians=2_000, views=2))
    b = generate_room(5, RoomOptions(gaussians=9_000, views=9, width=200, height=100))
    assert [(i.category, i.boxes.tobytes()) for i in a.instances] == [
        (i.category, i.boxes.tobytes()) for i in b.instances
    ]
    assert len(b.scene) > 4 * len(a.scene)


def test_rooms_are_valid_scenes(rooms: list[SyntheticRoom]) -> None:
    for room in rooms:
        scene = room.scene.validated(max_extent=12)
        assert scene.label_space == "scannet20"
        assert scene.normals is not None
        assert scene.labels is not None
        assert scene.labels.min() >= -1
        assert scene.labels.max() < len(SCANNET20)
        np.testing.assert_allclose(np.linalg.norm(scene.normals, axis=1), 1, atol=1e-5)
        assert abs(len(scene) - 5_000) < 400
        # flat: the thin axis is the third one, it is the normal, and it is far thinner than the others
        thin = quats_to_rotations(scene.quats)[:, :, 2]
        assert np.abs(np.einsum("ij,ij->i", thin, scene.normals)).min() > 0.999
        assert np.median(scene.scales[:, 2] / scene.scales[:, :2].min(1)) < 0.2
        assert scene.opacities.min() >= 0.85 - 1e-6
        assert scene.opacities.max() <= 0.97 + 1e-6


def test_labels_instances_and_parts_agree(rooms: list[SyntheticRoom]) -> None:
    for room in rooms:
        scene = room.scene
        assert scene.labels is not None
        assert scene.instances is not None
        assert scene.parts is not None
        assert [info.id for info in room.instances] == list(range(len(room.instances)))
        for info in room.instances:
            wanted = SCANNET20.index(info.label) if info.label else -1
            assert (scene.labels[scene.instances == info.id] == wanted).all()
            assert wanted == CATEGORIES[info.category].scannet20, "labels follow ScanNet's own table"
        owner = np.array(room.part_instances)
        np.testing.assert_array_equal(owner[scene.parts], scene.instances)
        assert len(room.part_names) == len(room.part_instances)
        for info in room.instances:
            names = [n for n, i in zip(room.part_names, room.part_instances) if i == info.id]
            assert len(set(names)) == len(names)


def test_furniture_has_its_parts() -> None:
    wanted = {
        "chair": {"seat", "back"}, "table": {"top", "legs"}, "sofa": {"seat", "back", "base"}, "cabinet": {"body"},
        "bed": {"mattress", "pillow", "frame"}, "toilet": {"bowl", "tank", "seat"}, "door": {"leaf", "frame", "handle"},
        "bookshelf": {"frame", "shelves"},
    }  # fmt: skip
    seen = set()
    for seed in range(15):
        model = build_model(seed, SMALL.model_copy(update={"room_type": TYPES[seed % 5]}))
        for i, placed in enumerate(model.items):
            if placed.item.label in wanted:
                names = {n for n, owner in zip(model.part_names, model.part_items) if owner == i}
                assert wanted[placed.item.label] <= names, placed.item.category
                seen.add(placed.item.label)
    assert seen == set(wanted)


def test_all_classes_occur_and_most_of_them_often() -> None:
    counts = dict.fromkeys(SCANNET20, 0)
    n = 20
    for seed in range(n):
        model = build_model(1_000 + seed, SMALL.model_copy(update={"room_type": TYPES[seed % 5]}))
        for label in {placed.item.label for placed in model.items} - {""}:
            counts[label] += 1
    assert min(counts.values()) >= 0.1 * n, counts
    assert counts["wall"] == counts["floor"] == n


def test_five_rooms_in_turn_show_nearly_every_class() -> None:
    """A data set of a handful of rooms is no empty promise: room types take turns."""
    labels: set[int] = set()
    for i, room_type in enumerate(TYPES):
        scene = generate_room(70 + i, SMALL.model_copy(update={"room_type": room_type})).scene
        assert scene.labels is not None
        labels |= set(np.unique(scene.labels).tolist())
    assert len(labels - {-1}) >= 17


def test_room_shapes_differ() -> None:
    models = [build_model(s, SMALL) for s in range(24)]
    corners = {len(m.plan.corners) for m in models}
    assert corners == {4, 6, 8}
    heights = [m.plan.height for m in models]
    assert max(heights) - min(heights) > 0.5
    turned = [abs(m.world[0, 1]) > 1e-9 for m in models]
    assert 0.4 < np.mean(turned) < 1.0, "most rooms are turned, some are aligned with the axes"
    assert {m.room_type for m in models} == set(TYPES)
    sizes = np.array([np.ptp(m.plan.corners, axis=0) for m in models])
    assert sizes.min() > 2
    assert sizes.max() < 9


def test_no_two_things_share_space() -> None:
    """By boxes: solids of two things never overlap, except within an assembly (a sink in its counter)."""
    for seed in range(15):
        model = build_model(2_000 + seed, SMALL.model_copy(update={"room_type": TYPES[seed % 5]}))
        things = [
            (model.groups[i], p.item.category, p.boxes())
            for i, p in enumerate(model.items)
            if p.item.category not in STRUCTURE
        ]
        for (group_a, name_a, a), (group_b, name_b, b) in combinations(things, 2):
            if group_a != group_b:
                assert not overlapping(a, b, -0.002).any(), (seed, name_a, name_b)


def test_no_gaussian_lies_inside_another_thing(rooms: list[SyntheticRoom]) -> None:
    """By points: the surface of one thing never enters the solids of another one; independent of the box test."""
    for room in rooms:
        assert room.scene.instances is not None
        points, owner = room.scene.means.astype(np.float64), room.scene.instances
        groups = np.array([info.group for info in room.instances])
        for info in room.instances:
            if info.category in STRUCTURE:
                continue
            for x, y, hx, hy, c, s, z0, z1 in info.boxes:
                dx, dy = points[:, 0] - x, points[:, 1] - y
                inside = (np.abs(c * dx + s * dy) < hx - 0.01) & (np.abs(c * dy - s * dx) < hy - 0.01)
                inside &= (points[:, 2] > z0 + 0.01) & (points[:, 2] < z1 - 0.01) & (groups[owner] != info.group)
                names = {room.instances[i].category for i in owner[inside]}
                if info.category in ("door", "window"):  # they sit in holes of the walls
                    names -= set(STRUCTURE)
                assert not names, f"{names} inside {info.category} of {room.scene.name}"


def test_cameras_stand_in_free_space_inside_the_room(rooms: list[SyntheticRoom]) -> None:
    for room in rooms:
        centers = room.cameras.centers
        tree = cKDTree(room.scene.means)
        assert tree.query(centers)[0].min() > 0.08, "no camera touches a surface"
        plan = (centers - room.model.world[:3, 3]) @ room.model.world[:3, :3]  # back to the frame of the floor plan
        assert room.model.plan.contains(plan[:, :2], 0.05).all()
        assert (plan[:, 2] > 0.5).all()
        assert (plan[:, 2] < room.model.plan.height).all()
        rotation = room.cameras.viewmats[:, :3, :3]
        np.testing.assert_allclose(
            rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotation.shape), atol=1e-9
        )
        assert (rotation[:, 1, 2] < -0.5).all(), "y points down in the picture"
        for info in room.instances:
            if info.category in STRUCTURE:
                continue
            for x, y, hx, hy, c, s, z0, z1 in info.boxes:
                dx, dy = centers[:, 0] - x, centers[:, 1] - y
                inside = (np.abs(c * dx + s * dy) < hx) & (np.abs(c * dy - s * dx) < hy)
                assert not (inside & (centers[:, 2] > z0) & (centers[:, 2] < z1)).any(), info.category


def disc_hits(scene: GaussianScene, eye: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Where rays from `eye` [3] to the points `to` [K, 3] meet each Gaussian taken as a flat disc of 1.5 standard
    deviations: the share [K, N] of the way, infinity where they miss. Plain geometry, every ray against every disc."""
    frame = quats_to_rotations(scene.quats.astype(np.float64))  # [N, 3, 3]
    ray = to - eye  # [K, 3]
    offset = scene.means - eye
    along = ray @ frame[:, :, 2].T  # [K, N]
    share = np.einsum("ni,ni->n", offset, frame[:, :, 2]) / np.where(np.abs(along) < 1e-9, 1e-9, along)
    radius = np.zeros_like(share)
    for axis in (0, 1):
        u = share * (ray @ frame[:, :, axis].T) - np.einsum("ni,ni->n", offset, frame[:, :, axis])
        radius += (u / (1.5 * scene.scales[:, axis])) ** 2
    return np.where((radius < 1) & (share > 0.02), share, np.inf)


def test_most_surfaces_are_seen_by_three_views_and_look_closed() -> None:
    """Checked by shooting rays, which shares nothing with the way in which views are chosen."""
    rng = np.random.default_rng(0)
    for seed, room_type in ((0, "living room"), (1, "bathroom")):
        options = RoomOptions(gaussians=5_000, room_type=room_type)  # type: ignore[arg-type]
        room = generate_room(seed, options)
        scene, cameras = room.scene, room.cameras
        targets = scene.means[rng.permutation(len(scene))[:150]].astype(np.float64)
        seen = np.zeros(len(targets), dtype=np.int64)
        closed = []
        for view, k, eye in zip(cameras.viewmats, cameras.intrinsics, cameras.centers):
            camera = targets @ view[:3, :3].T + view[:3, 3]
            pixel = camera[:, :2] / camera[:, 2:] * [k[0, 0], k[1, 1]] + [k[0, 2], k[1, 2]]
            inside = (camera[:, 2] > 0) & (pixel > 0).all(1) & (pixel < [cameras.width, cameras.height]).all(1)
            distance = np.linalg.norm(targets - eye, axis=1)
            first = disc_hits(scene, eye, targets).min(axis=1)
            seen += inside & (first > 1 - 0.06 / distance)
            random = rng.uniform([0, 0], [cameras.width, cameras.height], (20, 2))
            rays = np.linalg.solve(k, np.concatenate([random, np.ones((20, 1))], axis=1).T).T @ view[:3, :3]
            closed.append(np.isfinite(disc_hits(scene, eye, eye + rays).min(axis=1)).mean())
        assert (seen >= 3).mean() > 0.5, seen
        assert (seen >= 1).mean() > 0.7
        assert np.mean(closed) > 0.97, "hardly a ray passes between the Gaussians"


def shape_context(scene: GaussianScene) -> np.ndarray:
    """Height, normal, and the spread of the neighbours within three radii: what a network could see without colour."""
    assert scene.normals is not None
    points = scene.means.astype(np.float64)
    tree = cKDTree(points)
    out = [2 * points[:, 2:], scene.normals[:, 2:], np.abs(scene.normals[:, 2:])]
    for radius, k in ((0.2, 16), (0.5, 32), (1.0, 64)):
        distance, index = tree.query(points, k=k, distance_upper_bound=radius)
        there = np.isfinite(distance)
        index = np.where(there, index, 0)
        weight = there / there.sum(1, keepdims=True)
        offset = points[index] - points[:, None]
        mean = np.einsum("nk,nki->ni", weight, offset)
        spread = offset - mean[:, None]
        covariance = np.einsum("nk,nki,nkj->nij", weight, spread, spread)
        eigen = np.sqrt(np.clip(np.linalg.eigvalsh(covariance), 0, None))
        z = np.where(there, offset[..., 2], 0)
        flat = (weight * np.abs(scene.normals[index, 2])).sum(1, keepdims=True)
        out += [
            3 * eigen / radius,
            2 * mean[:, 2:] / radius,
            z.min(1, keepdims=True) / radius,
            z.max(1, keepdims=True) / radius,
            flat,
        ]
    return np.concatenate(out, axis=1)


def foreground_miou(features: list[np.ndarray], labels: list[np.ndarray], n_train: int) -> float:
    """15 nearest neighbours, trained on the first rooms and tested on the others; mean IoU without wall and floor."""
    train, target = np.concatenate(features[:n_train]), np.concatenate(labels[:n_train])
    test, truth = np.concatenate(features[n_train:]), np.concatenate(labels[n_train:])
    votes = target[cKDTree(train).query(test, k=15)[1]]
    guess = np.stack([(votes == c).sum(1) for c in range(20)], axis=1).argmax(1)
    ious = [
        ((truth == c) & (guess == c)).sum() / ((truth == c) | (guess == c)).sum()
        for c, name in enumerate(SCANNET20)
        if name not in FOREGROUND_EXCLUDED and (truth == c).any()
    ]
    assert len(ious) >= 14
    return float(np.mean(ious))


def test_colour_says_little_and_shape_says_much() -> None:
    colors, shapes, labels = [], [], []
    for i in range(15):
        options = RoomOptions(gaussians=2_500, views=1, room_type=TYPES[i % 5])
        scene = generate_room(300 + i, options).scene
        assert scene.labels is not None
        known = scene.labels >= 0
        colors.append(scene.colors[known])
        shapes.append(shape_context(scene)[known])
        labels.append(scene.labels[known])
    by_color = foreground_miou(colors, labels, 10)
    by_shape = foreground_miou(shapes, labels, 10)
    assert by_color < 0.08
    assert by_shape > 0.35


def test_shifted_domain_is_worse_in_every_way() -> None:
    options = RoomOptions(gaussians=5_000, views=1)
    rooms = [generate_room(8, options.model_copy(update={"domain": d})) for d in ("clean", "shifted")]
    clean, shifted = (room.scene for room in rooms)
    same = zip(rooms[0].instances, rooms[1].instances)
    assert all((a.boxes == b.boxes).all() for a, b in same), "the furniture is that of the clean room"
    assert clean.labels is not None
    assert shifted.labels is not None
    assert shifted.instances is not None
    assert shifted.colors.mean() < clean.colors.mean()
    assert (shifted.instances == -1).sum() > 50, "floaters"
    assert clean.instances is not None
    assert clean.instances.min() == 0
    assert (shifted.labels[shifted.instances == -1] == -1).all()
    assert shifted.opacities.std() > 2 * clean.opacities.std()
    shifted.validated()


def test_a_scan_holds_what_a_walk_sees() -> None:
    options = RoomOptions(gaussians=12_000, views=1)
    room, scan = (generate_room(8, options.model_copy(update={"domain": d})) for d in ("clean", "scan"))
    assert all((a.boxes == b.boxes).all() for a, b in zip(room.instances, scan.instances)), "the furniture is the same"
    whole, seen = room.scene, scan.scene.validated()
    assert whole.instances is not None
    assert whole.labels is not None
    assert seen.instances is not None
    assert seen.labels is not None
    distance, nearest = cKDTree(whole.means).query(seen.means)
    assert np.quantile(distance, 0.99) < 0.15, "points lie on the room's surfaces"
    near = distance < 0.03
    assert (whole.labels[nearest] == seen.labels)[near].mean() > 0.9
    assert 0.7 < len(seen) / 12_000 < 1.2
    # the ceiling is above the frames
    ceilings = [i.id for i in room.instances if i.category == "ceiling"]
    assert np.isin(whole.instances, ceilings).mean() > 0.04
    assert np.isin(seen.instances, ceilings).mean() < 0.01
    # all surfaces are as dense, in a room's Gaussians small things are denser
    spread = [np.std(np.log(np.sort(s.scales, axis=1)[:, 1])) for s in (whole, seen)]
    assert spread[1] < 0.8 * spread[0]
    # discs of measured points: round, of one opacity
    assert (seen.scales[:, 0] == seen.scales[:, 1]).all()
    assert len(np.unique(seen.opacities)) == 1


def test_surfaces_behind_others_are_not_in_a_scan() -> None:
    """A second floor below the floor."""
    model = build_model(8, RoomOptions(room_type="office"))
    u = np.random.default_rng(0).random((20_000, 2))
    low, high = model.plan.corners.min(0), model.plan.corners.max(0)
    floor = np.column_stack([low + u * (high - low), np.zeros(20_000)])
    under = floor - [0, 0, 0.5]
    up = np.tile([0.0, 0.0, 1.0], (40_000, 1))
    surface = Surface(np.concatenate([floor, under]), up, np.ones(40_000))
    seen = seen_by_frames(np.random.default_rng(1), model.plan, np.zeros((0, 8)), surface, SCANNER)
    assert seen[:20_000].mean() > 0.5
    assert seen[20_000:].mean() < 0.03


def test_noise_of_a_scan_is_smooth_and_of_unit_deviation() -> None:
    points = np.random.default_rng(0).random((20_000, 3)) * [9, 8, 3]
    noise = smooth_field(np.random.default_rng(1), points, 2)
    np.testing.assert_allclose(noise.std(axis=0), 1, atol=0.15)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.2
    near = smooth_field(np.random.default_rng(1), np.concatenate([points, points[:1000] + 0.01]), 2)
    assert np.abs(near[20_000:] - near[:1000]).max() < 0.5


def test_budget_is_met_from_small_to_large() -> None:
    for target in (1_500, 60_000):
        n = len(generate_room(3, RoomOptions(gaussians=target, views=1)).scene)
        assert abs(n - target) < (0.35 if target < 2_000 else 0.05) * target


def test_categories_are_those_of_the_table() -> None:
    used = set()
    for seed in range(25):
        options = SMALL.model_copy(update={"room_type": TYPES[seed % 5]})
        used |= {placed.item.category for placed in build_model(seed, options).items}
    assert used <= set(CATEGORIES)
    assert len(used) > 0.7 * len(CATEGORIES), set(CATEGORIES) - used
