"""S3DIS's release: points, labels and instances equal the truth, with the release's own defects; damage gives one
line.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chorus_common.labels import S3DIS13
from chorus_common.manifest import Manifest
from chorus_common.runtime.errors import SceneError
from data_manifests.datasets.prepare import prepare
from data_manifests.datasets.s3dis import read_object, turned
from data_manifests.datasets.settings import PrepareConfig
from data_manifests.synthetic.categories import S3DIS_OF
from data_manifests.synthetic.dataset import SynthConfig, plan_jobs, write_dataset
from data_manifests.synthetic.options import RoomOptions
from data_manifests.synthetic.room import generate_room
from tests.data_manifests.release_makers import room_points, write_room


def config(**changes: object) -> PrepareConfig:
    release = {"layout": "s3dis", "folder": ""} | dict(changes.pop("release", {}))  # type: ignore[call-overload]
    return PrepareConfig.model_validate({"name": "s3dis", "label_spaces": ["s3dis13"], "release": release} | changes)


def load(folder: Path, *keys: str) -> list[np.ndarray]:
    return [np.load(folder / f"{key}.npy") for key in keys]


def test_rooms_written_as_s3dis_come_back_as_the_generator_made_them(tmp_path: Path) -> None:
    """With defects: what the damaged line and the odd class stood for is what the room without them holds."""
    options = SynthConfig(layout="s3dis", room=RoomOptions(gaussians=1_500, views=1), defects=True)
    counts = {"train": 1, "val": 1}
    list(write_dataset(tmp_path / "raw", options, counts))
    result = prepare(config(release={"folder": "Stanford3dDataset_v1.2"}), tmp_path / "raw", tmp_path / "out")
    assert [outcome.error for outcome in result.outcomes] == ["", ""]
    assert {o.split for o in result.outcomes} == {"train", "val"}
    for job, outcome in zip(plan_jobs(options, counts), result.outcomes):
        assert outcome.scene_id == job.scene_id.replace("/", "_")
        folder = tmp_path / "out" / "s3dis" / outcome.scene_id
        name = job.scene_id.rpartition("/")[2]
        whole = np.loadtxt(tmp_path / "raw" / job.folder / f"{name}.txt")  # written before any line was damaged
        coord, labels, instances = load(folder, "pc_coord", "pc_segment", "pc_instance")
        assert len(coord) == len(whole)
        order, other = np.lexsort(coord.T), np.lexsort(whole[:, :3].astype(np.float32).T)
        np.testing.assert_array_equal(coord[order], whole[other, :3].astype(np.float32))
        room = generate_room(job.seed, job.options)
        truth = sorted(S3DIS13.index(S3DIS_OF.get(i.category, "clutter")) for i in room.instances)
        of_instance = [labels[instances == i] for i in range(instances.max() + 1)]
        assert all(len(set(values.tolist())) == 1 for values in of_instance)
        assert sorted(int(values[0]) for values in of_instance) == truth
        notes = outcome.summary["notes"]
        assert any("control character read as a space" in note for note in notes)
        assert any("'stairs' is none of the thirteen" in note for note in notes)
        # the file of the whole room lists the objects in the generator's order
        by_place = {tuple(row): label for row, label in zip(coord.tolist(), labels.tolist())}
        in_order = [by_place[tuple(row)] for row in whole[:, :3].astype(np.float32).tolist()]
        at = {tuple(row): instance for row, instance in zip(coord.tolist(), instances.tolist())}
        objects = [at[tuple(row)] for row in whole[:, :3].astype(np.float32).tolist()]
        starts = np.flatnonzero(np.diff(objects, prepend=-1))
        assert [in_order[i] for i in starts] == [
            S3DIS13.index(S3DIS_OF.get(i.category, "clutter")) for i in room.instances
        ]


def test_objects_are_joined_in_the_order_of_their_names(tmp_path: Path) -> None:
    objects = [("wall_2", room_points(1)), ("chair_1", room_points(2, 7)), ("ceiling_1", room_points(3, 11)),
               ("stairs_1", room_points(4, 5))]  # fmt: skip
    write_room(tmp_path / "raw" / "Area_5" / "office_1", objects)
    write_room(tmp_path / "raw" / "Area_1" / "WC_1", objects[:1])
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    assert [(o.scene_id, o.split) for o in result.outcomes] == [("Area_1_WC_1", "train"), ("Area_5_office_1", "val")]
    folder = tmp_path / "out" / "s3dis" / "Area_5_office_1"
    coord, labels, instances, color = load(folder, "pc_coord", "pc_segment", "pc_instance", "color")
    in_order = [objects[2], objects[1], objects[3], objects[0]]
    table = np.concatenate([points for _, points in in_order])
    np.testing.assert_array_equal(coord, table[:, :3].astype(np.float32))
    np.testing.assert_array_equal(color, table[:, 3:])
    kinds = [S3DIS13.index(kind) for kind in ("ceiling", "chair", "clutter", "wall")]
    np.testing.assert_array_equal(labels, np.repeat(kinds, [11, 7, 5, 40]))
    np.testing.assert_array_equal(instances, np.repeat(np.arange(4), [11, 7, 5, 40]))
    assert Manifest.read(result.manifest).rows[1].label_space == "s3dis13"


@pytest.mark.parametrize(
    ("line", "values", "what"),
    [
        (b"1.5 2.5 3.5 185\x10187 190", [1.5, 2.5, 3.5, 185, 187, 190], "a space"),
        (b"22.35 6.692 3.048 103.0\x100000 103.000000 9", [22.35, 6.692, 3.048, 103, 103, 9], "a 0"),
        (b"1 2 3 4 5\xff6", [1, 2, 3, 4, 5, 6], "a space"),
    ],
)
def test_the_known_corrupt_lines_are_read(tmp_path: Path, line: bytes, values: list[float], what: str) -> None:
    file = tmp_path / "ceiling_1.txt"
    file.write_bytes(b"0 0 0 1 2 3\n" + line + b"\n9 9 9 1 2 3\n")
    table, repaired = read_object(file)
    np.testing.assert_array_equal(table[1], values)
    assert len(table) == 3
    assert repaired == [(2, what)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"0 0 0 1 2 3\n1 2 3 4 5\n", "line 2 is no point"),
        (b"0 0 0 1 2 3\n1 2 x 4 5 6\n", "line 2 is no point"),
        (b"0 0 0 1 2 3\n0 0\x10 0 1 2\x103 9\n", "line 2 holds stray bytes"),
        (b"0 0 0 1 2 3\n\nnan 0 0 1 2 3\n", "not finite at row 1"),
        (b"0 0 0 1 2 300\n", "colour of point 0"),
        (b"", "holds no points"),
        (b"\n\n", "holds no points"),
        (b"1 2 3\n4 5 6\n", "line 1 is no point"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: bytes, message: str) -> None:
    file = tmp_path / "chair_3.txt"
    file.write_bytes(text)
    with pytest.raises(SceneError, match=message) as caught:
        read_object(file)
    assert str(file) in str(caught.value)


def test_a_damaged_room_fails_alone(tmp_path: Path) -> None:
    for name in ("office_1", "office_2", "office_3"):
        write_room(tmp_path / "raw" / "Area_1" / name, [("wall_1", room_points(5)), ("chair_1", room_points(6))])
    (tmp_path / "raw" / "Area_1" / "office_2" / "Annotations" / "chair_1.txt").write_text("1 2 3 4 5 6\n1 2 3\n")
    for file in (tmp_path / "raw" / "Area_1" / "office_3" / "Annotations").iterdir():
        file.unlink()
    result = prepare(config(), tmp_path / "raw", tmp_path / "out")
    errors = [outcome.error for outcome in result.outcomes]
    assert errors[0] == ""
    assert "chair_1.txt: line 2 is no point" in errors[1]
    assert "has no Annotations" in errors[2]
    assert any("Area_5 is not in the release" in note for note in result.notes)


def test_alignment_turns_about_the_middle_and_keeps_distances(tmp_path: Path) -> None:
    points = room_points(7, 60)
    write_room(tmp_path / "raw" / "Area_2" / "hallway_1", [("wall_1", points)])
    (tmp_path / "raw" / "Area_2" / "Area_2_alignmentAngle.txt").write_text(
        "## Global alignment angle per disjoint space in Area_2 ##\n## Name Angle ##\nhallway_1 90\n"
    )
    prepare(config(release={"align": True}), tmp_path / "raw", tmp_path / "out")
    coord = load(tmp_path / "out" / "s3dis" / "Area_2_hallway_1", "pc_coord")[0]
    middle = (points[:, :3].min(0) + points[:, :3].max(0)) / 2
    x, y, z = (points[:, :3] - middle).T
    # by minus 90 degrees: x -> -y, y -> x
    np.testing.assert_allclose(coord, np.stack([y, -x, z], axis=1) + middle, atol=1e-5)
    there = turned(points[:, :3], 37.0)
    pairs = np.linalg.norm(points[:30, :3] - points[30:, :3], axis=1)
    np.testing.assert_allclose(np.linalg.norm(there[:30] - there[30:], axis=1), pairs, atol=1e-9)


@pytest.mark.parametrize(
    ("angles", "message"), [(None, "alignmentAngle.txt: no such file"), ("office_9 3\n", "has no angle for hallway_1")]
)
def test_alignment_needs_the_rooms_angle(tmp_path: Path, angles: str | None, message: str) -> None:
    write_room(tmp_path / "raw" / "Area_2" / "hallway_1", [("wall_1", room_points(7))])
    if angles is not None:
        (tmp_path / "raw" / "Area_2" / "Area_2_alignmentAngle.txt").write_text(angles)
    result = prepare(config(release={"align": True}), tmp_path / "raw", tmp_path / "out")
    assert message in result.outcomes[0].error
