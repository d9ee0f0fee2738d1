"""The pictures that the embedded teachers are trained on, from the room to the file that training reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from chorus_common.labels import SCANNET20
from chorus_common.runtime.errors import ConfigError
from data_manifests.synthetic import RoomOptions, generate_room
from data_manifests.synthetic.dataset import RESERVED_SEEDS
from data_manifests.synthetic.teacher_pictures import (
    CELL,
    KINDS,
    PictureRoom,
    main,
    object_names,
    picture_rooms,
    render_objects,
    render_shares,
    text_names,
)
from stage1_render_teachers.teachers.cell_network import PATCH
from stage1_render_teachers.teachers.embedded_training import load_pool

ROOM = 77
JOB = PictureRoom(ROOM, RoomOptions())
OBJECT_ARRAYS = ("instances", "kinds", "shares", "kind_names", "kind_classes")


def test_rendered_objects_are_the_rooms() -> None:
    """Kinds carry the labels of the room's Gaussians, and an object that is alone in a cell fills it."""
    room = render_objects(JOB)
    scene = generate_room(ROOM, RoomOptions()).scene
    assert scene.labels is not None
    assert scene.instances is not None
    class_of_kind = object_names()["kind_classes"]
    label_of = {int(i): int(c) for i, c in zip(scene.instances, scene.labels)}
    seen = np.unique(np.stack([room["instances"].ravel(), room["kinds"].ravel()], axis=1), axis=0)
    seen = seen[seen[:, 0] >= 0]
    assert len(seen) == len(np.unique(seen[:, 0])) > 10
    for instance, kind in seen:
        assert 0 <= kind < len(KINDS)
        assert class_of_kind[kind] == label_of[int(instance)]
    assert (room["shares"] > 250).mean() > 0.3


def test_shares_of_a_cell_never_exceed_it_and_mostly_fill_it() -> None:
    arrays = render_shares(JOB)
    filled = arrays["shares"].astype(int).sum(axis=-1)
    assert arrays["shares"].shape == (*arrays["images"].shape[:1], 240 // CELL, 320 // CELL, len(SCANNET20))
    assert filled.max() <= 255 + len(SCANNET20)  # rounding of each share
    assert (filled > 200).mean() > 0.5


def test_the_share_of_scans_is_spread_evenly() -> None:
    domains = [room.options.domain for room in picture_rooms(12, 0.25)]
    assert domains == ["clean", "clean", "clean", "scan"] * 3
    assert {room.options.domain for room in picture_rooms(5, 0.0)} == {"clean"}
    assert [room.seed for room in picture_rooms(3, 1.0)] == [RESERVED_SEEDS, RESERVED_SEEDS + 1, RESERVED_SEEDS + 2]


def test_one_file_holds_all_that_training_reads(tmp_path: Path) -> None:
    out = tmp_path / "new" / "objects.npz"
    done = CliRunner().invoke(main, ["objects", "--rooms", "1", "--held-out", "1", "--out", str(out), "--workers", "2"])
    assert done.exit_code == 0, done.output
    pool = load_pool(out, "objects", OBJECT_ARRAYS)
    assert (pool.rooms, pool.held_out) == (1, 1)
    assert pool.training_pictures == pool.views == len(pool.arrays["images"]) // 2
    for number in range(2):  # rooms in the order of their seeds, whichever process was first
        part = slice(number * pool.views, (number + 1) * pool.views)
        for name, values in render_objects(PictureRoom(RESERVED_SEEDS + number, RoomOptions())).items():
            np.testing.assert_array_equal(pool.arrays[name][part], values)
    assert tuple(pool.arrays["kind_names"]) == KINDS
    with pytest.raises(ConfigError, match=r"objects\.npz: holds no classes; make it with: .* text --rooms N"):
        load_pool(out, "text", ("shares", "classes"))


def test_kinds_know_their_classes_and_cells_are_the_networks_patches() -> None:
    classes = object_names()["kind_classes"]
    assert SCANNET20[classes[KINDS.index("desk")]] == "desk"
    assert classes[KINDS.index("ceiling")] == -1
    assert tuple(text_names()["classes"]) == SCANNET20
    assert CELL == PATCH


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_pool_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pool.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"pool\.npz: cannot be read as a pool of rooms .*; make it with"):
        load_pool(tmp_path / "pool.npz", "text", ())
    with pytest.raises(ConfigError, match=r"gone\.npz: cannot be read"):
        load_pool(tmp_path / "gone.npz", "text", ())


def test_cells_of_another_size_are_refused(tmp_path: Path) -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "pool.npz", images=images, rooms=1, held_out=1, cell=16)
    with pytest.raises(ConfigError, match=r"rendered for cells of 16 px, the network's have 8"):
        load_pool(tmp_path / "pool.npz", "text", ())
