"""Data sets of rooms: the same bytes from any number of processes, resumable; raw layouts that parse back."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from chorus_common.camera_io import read_cameras
from chorus_common.labels import S3DIS13, SCANNET20_NYU40_IDS
from chorus_common.manifest import Manifest, path_digest
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene_io import read_scene
from data_manifests.commands.synth import split_counts, synth_command
from data_manifests.synthetic import RoomOptions, SynthConfig, generate_room, tessellate, write_dataset
from data_manifests.synthetic.categories import CATEGORIES, S3DIS_OF
from data_manifests.synthetic.dataset import plan_jobs
from data_manifests.synthetic.s3dis_layout import write_s3dis
from data_manifests.synthetic.scannet_layout import write_scannet

SMALL = RoomOptions(gaussians=2_000, views=3)
COUNTS = {"train": 3, "val": 1, "test": 0}


def files_of(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_same_bytes_from_one_and_from_two_processes_and_when_resumed(tmp_path: Path) -> None:
    config = SynthConfig(room=SMALL, seed=3)
    first = list(write_dataset(tmp_path / "one", config, COUNTS))
    assert first == ["train_0000", "train_0001", "train_0002", "val_0000"]
    assert sorted(write_dataset(tmp_path / "two", config, COUNTS, workers=2)) == first
    # a smaller set that grows ends as the same set, and leaves alone what is there
    list(write_dataset(tmp_path / "grown", config, {"train": 1, "val": 1}))
    kept = (tmp_path / "grown/train/train_0000/coord.npy").stat().st_mtime_ns
    list(write_dataset(tmp_path / "grown", config, COUNTS))
    assert (tmp_path / "grown/train/train_0000/coord.npy").stat().st_mtime_ns == kept
    one = files_of(tmp_path / "one")
    assert one == files_of(tmp_path / "two")
    assert one == files_of(tmp_path / "grown")
    assert not [name for name in one if ".tmp-" in name]


def test_gaussian_folders_read_back_through_the_manifest(tmp_path: Path) -> None:
    config = SynthConfig(room=SMALL, seed=1)
    list(write_dataset(tmp_path, config, COUNTS))
    manifest = Manifest.read(tmp_path / "manifest.parquet")
    assert [len(manifest.select(split=split)) for split in ("train", "val", "test")] == [3, 1, 0]
    for row, job in zip(manifest, plan_jobs(config, COUNTS)):
        scene = read_scene(row.scene_path, label_space=row.label_space)
        room = generate_room(job.seed, job.options)
        assert row.n_gaussians == len(scene) == len(room.scene)
        assert row.sha256 == path_digest(row.scene_path)
        for key in ("means", "labels", "instances", "parts", "normals", "opacities"):
            np.testing.assert_array_equal(getattr(scene, key), getattr(room.scene, key))
        assert np.abs(scene.colors - room.scene.colors).max() <= 0.5 / 255 + 1e-6
        assert row.cameras_path is not None
        cameras = read_cameras(row.cameras_path)
        np.testing.assert_allclose(cameras.viewmats, room.cameras.viewmats, atol=1e-6)
        parts = json.loads((row.scene_path / "parts.json").read_text())
        assert [p["name"] for p in parts["parts"]] == list(room.part_names)
        assert scene.parts is not None
        assert scene.instances is not None
        owner = np.array([p["instance"] for p in parts["parts"]])
        np.testing.assert_array_equal(owner[scene.parts], scene.instances)


def test_rooms_of_a_split_do_not_depend_on_how_many_there_are() -> None:
    config = SynthConfig(room=SMALL)
    few, many = plan_jobs(config, {"train": 2, "val": 2}), plan_jobs(config, {"train": 9, "val": 4, "test": 3})
    assert set(few) <= set(many)
    assert len({job.seed for job in many}) == len(many)
    assert len({job.options.room_type for job in many if job.split == "train"}) == 5


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    list(write_dataset(tmp_path / "a", SynthConfig(room=SMALL), {"train": 1}))
    with pytest.raises(ConfigError, match=r"another seed"):
        list(write_dataset(tmp_path / "a", SynthConfig(room=SMALL, seed=1), {"train": 1}))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"not empty"):
        list(write_dataset(tmp_path / "b", SynthConfig(room=SMALL), {"train": 1}))
    (tmp_path / "a" / "synth.json").write_text("{")
    with pytest.raises(ConfigError, match=r"damaged"):
        list(write_dataset(tmp_path / "a", SynthConfig(room=SMALL), {"train": 1}))


def test_a_room_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data_manifests.synthetic.write.write_transforms_json", full)
    with pytest.raises(OSError, match="No space"):
        list(write_dataset(tmp_path, SynthConfig(room=SMALL), {"train": 1}))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["synth.json"]
    assert not list(tmp_path.rglob(".tmp-*"))


# ---- ScanNet ----


def parse_ply(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices [V, 3], colours [V, 3] u8 and triangles [F, 3] of a ScanNet mesh."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode().splitlines()
    assert lines[1] == "format binary_little_endian 1.0"
    n, f = (int(line.split()[-1]) for line in lines if line.startswith("element"))
    kinds = [line.split()[1:] for line in lines if line.startswith("property")]
    assert [k[-1] for k in kinds] == ["x", "y", "z", "red", "green", "blue", "alpha", "vertex_indices"]
    vertex = np.frombuffer(body, dtype=[("xyz", "<f4", 3), ("rgba", "u1", 4)], count=n)
    face = np.frombuffer(body, dtype=[("n", "u1"), ("v", "<i4", 3)], offset=n * 16, count=f)
    assert len(body) == n * 16 + f * 13
    assert (face["n"] == 3).all()
    return vertex["xyz"], vertex["rgba"][:, :3], face["v"]


def parse_tsv(data: bytes) -> dict[str, int]:
    """raw category -> NYU40 id."""
    assert data.count(b"\r\r\n") == data.count(b"\n")
    rows = csv.DictReader(io.StringIO(data.replace(b"\r\r\n", b"\n").decode()), delimiter="\t")
    assert len(rows.fieldnames or ()) == 17
    return {row["raw_category"]: int(row["nyu40id"]) for row in rows}


def test_scannet_layout_parses_back_to_the_ground_truth(tmp_path: Path) -> None:
    config = SynthConfig(layout="scannet", room=SMALL, mesh_step=0.08)
    counts = {"train": 2, "val": 1, "test": 1}
    list(write_dataset(tmp_path, config, counts))
    nyu40 = parse_tsv((tmp_path / "scannetv2-labels.combined.tsv").read_bytes())
    assert set(nyu40) == set(CATEGORIES)
    for job in plan_jobs(config, counts):
        folder, name = tmp_path / job.folder, job.scene_id
        assert name in (tmp_path / f"scannetv2_{job.split}.txt").read_text().split()
        xyz, _, faces = parse_ply(folder / f"{name}_vh_clean_2.ply")
        if job.split == "test":
            assert folder.parent.name == "scans_test"
            assert not list(folder.glob("*.json"))
            continue
        assert faces.max() < len(xyz)
        segments = np.array(json.loads((folder / f"{name}_vh_clean_2.0.010000.segs.json").read_text())["segIndices"])
        assert len(segments) == len(xyz)
        labels, instances = np.full(len(xyz), -1), np.full(len(xyz), -1)
        for group in json.loads((folder / f"{name}.aggregation.json").read_text())["segGroups"]:
            rows = np.isin(segments, group["segments"])
            assert (instances[rows] == -1).all(), "objects do not share segments"
            nyu = nyu40[group["label"]]
            labels[rows] = SCANNET20_NYU40_IDS.index(nyu) if nyu in SCANNET20_NYU40_IDS else -1
            instances[rows] = group["objectId"]
        mesh = tessellate(generate_room(job.seed, job.options).model, 0.08)
        np.testing.assert_array_equal(labels, mesh.labels)
        pairs = {(int(a), int(b)) for a, b in zip(instances, mesh.instances)}
        assert len(pairs) == len(set(mesh.instances.tolist())), "objects correspond one to one"
        np.testing.assert_allclose(xyz, mesh.vertices, atol=1e-5)


def test_scannet_mesh_is_made_of_real_small_triangles_that_face_outwards() -> None:
    mesh = tessellate(generate_room(4, SMALL).model, 0.05)
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    area = np.linalg.norm(normal, axis=1) / 2
    good = area > 1e-7  # triangles at the poles of lathed shapes have no area
    assert good.mean() > 0.9
    assert np.quantile(np.linalg.norm(b - a, axis=1), 0.95) < 0.09
    mean = mesh.normals[mesh.faces].mean(axis=1)
    agree = np.einsum("ij,ij->i", normal[good], mean[good]) > 0
    assert agree.mean() > 0.995
    for faces in mesh.faces[:: len(mesh.faces) // 200]:
        assert len(set(mesh.parts[faces].tolist())) == 1


def test_mesh_and_gaussians_are_the_same_surfaces() -> None:
    from scipy.spatial import cKDTree

    room = generate_room(9, RoomOptions(gaussians=8_000, views=1))
    mesh = tessellate(room.model, 0.03)
    distance, row = cKDTree(mesh.vertices).query(room.scene.means)
    assert np.quantile(distance, 0.99) < 0.035
    near = distance < 0.03
    assert (mesh.instances[row] == room.scene.instances)[near].mean() > 0.95
    same = near & (mesh.instances[row] == room.scene.instances)
    # one texture function: what differs is noise and the resolution of the shading; unrelated colours differ by 0.25
    assert np.median(np.abs(mesh.colors[row] - room.scene.colors)[same]) < 0.07


def test_axis_alignment_turns_the_walls_to_the_axes(tmp_path: Path) -> None:
    room = generate_room(2, SMALL)
    write_scannet(room, tmp_path / "scene0000_00", "scene0000_00", step=0.1)
    lines = dict(line.split(" = ") for line in (tmp_path / "scene0000_00/scene0000_00.txt").read_text().splitlines())
    align = np.array(lines["axisAlignment"].split(), dtype=np.float64).reshape(4, 4)
    walls = np.isin(room.scene.instances, [i.id for i in room.instances if i.category == "wall"])
    assert room.scene.normals is not None
    turned = np.abs(room.scene.normals[walls] @ align[:3, :3].T)
    assert np.median(turned.max(axis=1)) > 0.999
    cameras = read_cameras(tmp_path / "scene0000_00")
    np.testing.assert_allclose(cameras.centers, room.cameras.centers, atol=1e-4)
    wide = room.cameras.resized(cameras.width, cameras.height)
    np.testing.assert_allclose(cameras.intrinsics, wide.intrinsics, rtol=1e-4)


# ---- S3DIS ----


def parse_annotations(folder: Path) -> dict[str, np.ndarray]:
    """object file -> points [K, 6]; lines that do not hold six numbers are left out."""
    out = {}
    for file in sorted((folder / "Annotations").glob("*.txt")):
        rows = [line.split(" ") for line in file.read_text(encoding="ascii").rstrip("\n").split("\n")]
        out[file.stem] = np.array([[float(x) for x in row] for row in rows if len(row) == 6])
    return out


def test_s3dis_layout_parses_back_to_the_ground_truth(tmp_path: Path) -> None:
    config = SynthConfig(layout="s3dis", room=SMALL)
    jobs = plan_jobs(config, {"train": 5, "val": 1})
    list(write_dataset(tmp_path, config, {"train": 5, "val": 1}))
    for job in jobs:
        folder = tmp_path / job.folder
        area, room_name = job.scene_id.split("/")
        assert (area == "Area_5") == (job.split == "val")
        objects = parse_annotations(folder)
        room = generate_room(job.seed, job.options)
        assert {name.rpartition("_")[0] for name in objects} <= set(S3DIS13)
        truth = [S3DIS_OF.get(info.category, "clutter") for info in room.instances]
        for kind in set(truth) - {"clutter"}:
            assert sum(name.startswith(f"{kind}_") for name in objects) == truth.count(kind)
        whole = np.loadtxt(folder / f"{room_name}.txt")
        together = np.concatenate(list(objects.values()))
        np.testing.assert_array_equal(whole[np.lexsort(whole.T)], together[np.lexsort(together.T)])
        # the file of angles turns the walls to the axes
        text = (folder.parent / f"{area}_alignmentAngle.txt").read_text().splitlines()
        angles = dict(line.split() for line in text if not line.startswith("#"))
        turn = -np.radians(int(angles[room_name]))
        wall = max((points for name, points in objects.items() if name.startswith("wall_")), key=len)
        x = wall[:, 0] * np.cos(turn) - wall[:, 1] * np.sin(turn)
        y = wall[:, 0] * np.sin(turn) + wall[:, 1] * np.cos(turn)
        assert min(np.ptp(x), np.ptp(y)) < 0.03


def test_s3dis_defects_are_those_of_the_release(tmp_path: Path) -> None:
    room = generate_room(1, SMALL)
    write_s3dis(room, tmp_path / "clean", "office_1", points=2_000)
    write_s3dis(room, tmp_path / "odd", "office_1", points=2_000, defects=True)
    clean, odd = parse_annotations(tmp_path / "clean"), parse_annotations(tmp_path / "odd")
    assert "stairs_1" in odd
    assert "stairs_1" not in clean
    assert len(odd["ceiling_1"]) == len(clean["ceiling_1"]) - 1
    assert (tmp_path / "odd/Annotations/ceiling_1.txt").read_bytes().count(b"\x10") == 1


# ---- command line ----


def test_command_writes_and_reports(tmp_path: Path) -> None:
    args = ["--out", str(tmp_path / "d"), "--rooms", "2", "--gaussians", "1500", "--views", "2", "--json"]
    result = CliRunner().invoke(synth_command, args, catch_exceptions=False)
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["splits"] == {"train": 1, "val": 1, "test": 0}
    assert summary["written"] == 2
    assert len(Manifest.read(summary["manifest"])) == 2
    again = json.loads(CliRunner().invoke(synth_command, args, catch_exceptions=False).stdout)
    assert again["written"] == 0


def test_bad_numbers_are_one_clear_line(tmp_path: Path) -> None:
    for args, words in (
        (["--gaussians", "7"], "--gaussians 7"),
        (["--rooms", "3", "--val", "4"], "more than --rooms 3"),
        (["--layout", "s3dis", "--test", "1"], "no test split"),
        (["--layout", "scannet", "--domain", "scan"], "layout scannet has points of its own"),
    ):
        result = CliRunner().invoke(synth_command, ["--out", str(tmp_path / "x"), *args])
        assert isinstance(result.exception, ConfigError)
        assert words in str(result.exception)
        assert "\n" not in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_a_fifth_is_held_out() -> None:
    assert split_counts(10, None, 0) == {"train": 8, "val": 2, "test": 0}
    assert split_counts(1, None, 0) == {"train": 1, "val": 0, "test": 0}
    assert split_counts(10, 3, 3) == {"train": 4, "val": 3, "test": 3}
