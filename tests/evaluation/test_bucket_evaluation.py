"""Manifest, stores and feature files in a bucket or on a web server: the same figures as from a disk, and nothing is
fetched that is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from chorus_common.manifest import Manifest, ManifestRow, read_placed
from chorus_common.runtime.bucket import BucketPath
from chorus_common.runtime.errors import ChorusError, ConfigError, ManifestError
from chorus_common.runtime.store_path import StorePath, parse_store_path
from chorus_common.scene_io import write_npy_folder
from evaluation.cli import cli
from evaluation.scenes import select_scenes
from stage1_render_teachers.commands.copy import copy_command
from stage2_distill.encoder.checkpoints import export_encoder
from stage2_distill.sources import find_scenes
from tests.evaluation.instance_rooms import room_with_instances
from tests.evaluation.labelled_rooms import tiny_encoder
from tests.evaluation.rooms import Rooms, WordVectors
from tests.evaluation.web_server import serving
from tests.stage1.s3_server import running_bucket

pytest.importorskip("obstore")


def call(*arguments: object) -> int:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return int(result.return_value or 0)


def upload(folder: Path, place: BucketPath) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            (place / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())


def download(place: BucketPath, folder: Path) -> None:
    for name in place.files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((place / name).read_bytes())


@dataclass
class Traffic:
    """What was asked of buckets, key -> bytes."""

    read: dict[str, int] = field(default_factory=dict)

    def below(self, folder: str) -> set[str]:
        return {key.removeprefix(folder) for key in self.read if key.startswith(folder)}


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    found, plain = Traffic(), BucketPath.read_bytes

    def counted(path: BucketPath, start: int = 0, end: int | None = None) -> bytes:
        data = plain(path, start, end)
        found.read[path.key] = found.read.get(path.key, 0) + len(data)
        return data

    monkeypatch.setattr(BucketPath, "read_bytes", counted)
    return found


@dataclass(frozen=True)
class Sources:
    """A folder with rooms, their points and junk, two manifests and features; the same in a bucket and on a server."""

    folder: Path
    bucket: BucketPath
    web: BucketPath

    def at(self, place: str) -> StorePath:
        return {"disk": self.folder, "bucket": self.bucket, "web": self.web}[place]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sources]:
    root = tmp_path_factory.mktemp("sources")
    rows = []
    for i, split in enumerate(("train", "val", "val")):
        scene, folder = room_with_instances(i, per_box=60), root / "scenes" / f"room{i}"
        write_npy_folder(scene, folder)
        np.save(folder / "pc_coord.npy", scene.means[::2])
        np.save(folder / "pc_segment.npy", scene.labels[::2])
        np.save(folder / "pc_instance.npy", scene.instances[::2])
        np.save(folder / "lang_feat.npy", np.zeros((len(scene), 100), np.float16))
        features = np.random.default_rng(i).standard_normal((len(scene), WordVectors.channels)).astype(np.float16)
        for variant in ("", "clean", "noise-0.01"):
            (root / "features" / variant).mkdir(parents=True, exist_ok=True)
            np.save(root / "features" / variant / f"room{i}.npy", features)
        rows.append(
            ManifestRow("toy", f"room{i}", split, "npy-folder", folder, None, "scannet20", len(scene), "0" * 64)
        )
    Manifest(root, tuple(rows)).write(root / "manifest.parquet")
    (root / "lists").mkdir()
    Manifest(root, tuple(rows)).write(root / "lists" / "manifest.parquet")  # its root is the folder above
    bucket = BucketPath.parse("memory://sources/here")
    upload(root, bucket)
    with serving(root.parent) as address:
        yield Sources(root, bucket, BucketPath.parse(f"{address}/{root.name}"))


def figures(file: Path) -> dict[str, object]:
    """A result without its command and the places that it was read from."""
    document = json.loads(file.read_text())
    return {key: value for key, value in document.items() if key not in ("command", "inputs")}


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("zero-shot", ()),
        ("zero-shot", ("--on", "points", "-k", "5")),
        ("instances", ("--proposals", "truth")),
        ("probe", ("--points-per-scene", "100")),
        ("retrieval", ("--perturbation", "noise-0.01", "--min-size", "5")),
    ],
)
def test_from_a_bucket_and_from_the_web_as_from_a_disk(
    command: str, more: tuple[str, ...], sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.sources.load_text_encoder", lambda spec: WordVectors())
    found = {}
    text = ("--text", "embedded:text") if command in ("zero-shot", "instances") else ()
    for place in ("disk", "bucket", "web"):
        root, out = sources.at(place), tmp_path / f"{place}.json"
        manifest = root / "lists" / "manifest.parquet" if isinstance(root, Path) else root / "manifest.parquet"
        code = call(command, "--manifest", manifest, "--features", root / "features", *text, *more, "--out", out)
        assert code == 0
        found[place] = figures(out)
    assert found["bucket"] == found["web"] == found["disk"]


def test_fine_tuning_from_a_bucket(sources: Sources, tmp_path: Path) -> None:
    export_encoder(tiny_encoder(), tmp_path / "encoder")
    small = ("--mode", "linear", "--device", "cpu", "--set", "steps=2", "--set", "batch_size=1")
    found = {}
    for place in ("disk", "bucket"):
        out = tmp_path / f"{place}.json"
        where = ("--manifest", sources.at(place) / "manifest.parquet", "--encoder", tmp_path / "encoder")
        assert call("finetune", *where, *small, "--out", out) == 0
        found[place] = figures(out)
    assert found["bucket"] == found["disk"]


def test_nothing_is_fetched_that_is_not_read(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, traffic: Traffic
) -> None:
    monkeypatch.setattr("evaluation.sources.load_text_encoder", lambda spec: WordVectors())
    where = ("--manifest", sources.bucket / "manifest.parquet", "--features", sources.bucket / "features")
    call("zero-shot", *where, "--text", "embedded:text", "--out", tmp_path / "a.json")
    geometry = {"coord", "color", "opacity", "scale", "quat", "segment", "instance"}
    assert traffic.below("here/scenes/room1/") == {f"{key}.npy" for key in geometry}
    assert traffic.below("here/features/") == {"room1.npy", "room2.npy"}, (
        "scenes of the other split stay where they are"
    )
    assert not traffic.below("here/scenes/room0/")
    for key, read in traffic.read.items():
        assert read == (sources.folder / key.removeprefix("here/")).stat().st_size, f"{key} is fetched once and whole"
    traffic.read.clear()
    call("zero-shot", *where, "--text", "embedded:text", "--on", "points", "-k", "5", "--out", tmp_path / "b.json")
    points = {"pc_coord", "pc_segment", "pc_instance"}
    assert traffic.below("here/scenes/room1/") == {f"{key}.npy" for key in geometry | points}


@pytest.fixture(scope="module")
def stored(rooms: Rooms, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[StorePath, StorePath]]]:
    """Place -> (store, manifest) of the toy rooms."""
    bucket = BucketPath.parse("memory://stored/toy")
    CliRunner().invoke(
        copy_command, ["--store", str(rooms.store), "--to", str(bucket / "store")], standalone_mode=False
    )
    (bucket / "manifest.parquet").write_bytes(rooms.manifest.read_bytes())
    served = tmp_path_factory.mktemp("served")
    download(bucket, served)
    with serving(served) as address, running_bucket() as s3:
        upload(served, s3)
        web = BucketPath.parse(f"{address}/store")
        yield {
            "disk": (rooms.store, rooms.manifest),
            "bucket": (bucket / "store", bucket / "manifest.parquet"),
            "web": (web, web.parent / "manifest.parquet"),
            "s3": (s3 / "store", s3 / "manifest.parquet"),
        }


def test_the_lifted_teacher_of_a_store_elsewhere(
    stored: dict[str, tuple[StorePath, StorePath]], tmp_path: Path, traffic: Traffic
) -> None:
    found = {}
    for place, (store, manifest) in stored.items():
        traffic.read.clear()
        out = tmp_path / f"{place}.json"
        assert (
            call("zero-shot", "--store", store, "--manifest", manifest, "--lifted", "--out", out) == 1
        )  # one is missing
        found[place] = figures(out)
        if place == "bucket":
            chunks = [key for key in traffic.read if "/c/" in key]
            assert not [key for key in traffic.read if "train_" in key]
            assert {key.split("/")[5] for key in chunks} == {"gaussians", "lifting", "teachers", "visibility"}
    assert found["bucket"] == found["web"] == found["s3"] == found["disk"]


def test_files_of_features_leave_the_teachers_where_they_are(
    stored: dict[str, tuple[StorePath, StorePath]],
    rooms: Rooms,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    traffic: Traffic,
) -> None:
    monkeypatch.setattr("evaluation.sources.load_text_encoder", lambda spec: WordVectors())
    place = BucketPath.parse("memory://stored/features")
    for name, scene in rooms.scenes.items():
        np.save(tmp_path / "f.npy", np.ones((len(scene), WordVectors.channels), np.float32))
        (place / f"{name}.npy").write_bytes((tmp_path / "f.npy").read_bytes())
    store, manifest = stored["bucket"]
    where = ("--store", store, "--manifest", manifest, "--features", place, "--no-lifted", "--text", "embedded:text")
    assert call("zero-shot", *where, "--out", tmp_path / "out.json") == 1
    chunks = [key for key in traffic.read if "/c/" in key]
    assert {key.split("/")[5] for key in chunks} <= {"gaussians", "lifting", "visibility"}
    assert not [key for key in chunks if "lifting/" in key and "order" not in key]


def test_where_paths_of_a_manifest_lie(tmp_path: Path, sources: Sources) -> None:
    manifest, place_of = read_placed(sources.bucket / "lists" / "manifest.parquet")
    assert str(place_of(manifest.rows[0].scene_path)) == "memory://sources/here/scenes/room0"
    far = Manifest(
        tmp_path / "far", (ManifestRow("a", "b", "val", "ply", tmp_path / "far" / "b", None, "", 1, "0" * 64),)
    )
    (tmp_path / "far").mkdir()
    (sources.bucket / "far.parquet").write_bytes(far.write(Path("/tmp") / tmp_path.name / "m.parquet").read_bytes())
    manifest, place_of = read_placed(sources.bucket / "far.parquet")
    assert place_of(manifest.rows[0].scene_path) == (tmp_path / "far" / "b").resolve()


def test_training_takes_a_manifest_in_a_bucket_and_stage_1_says_that_it_does_not(
    stored: dict[str, tuple[StorePath, StorePath]],
) -> None:
    store, manifest = stored["bucket"]
    assert [scene_id for _, scene_id, _ in find_scenes([store], manifest, "train", print)] == ["train_0", "train_1"]
    with pytest.raises(ManifestError, match="scenes are read from a disk here"):
        Manifest.read(manifest)


def test_what_is_not_there_is_one_line(sources: Sources, rooms: Rooms) -> None:
    for place in (sources.bucket, sources.web):
        with pytest.raises(ManifestError, match=r"none\.parquet: no such manifest"):
            select_scenes([], place / "none.parquet", "val")
        (scene, *_) = select_scenes([], place / "manifest.parquet", "val").scenes
        with pytest.raises(ChorusError, match="scenes/nowhere"):
            replace(scene, source=place / "scenes" / "nowhere").load()
    with pytest.raises(ChorusError, match="does not list what it has; give --manifest"):
        select_scenes([sources.web], None, "val")
    with pytest.raises(ConfigError, match="a web server is read only"):
        (sources.web / "x").write_bytes(b"")
    for bad in ("ftp://a/b", "https://"):
        with pytest.raises(ConfigError, match=r"ftp://a/b: takes a folder or an address|write s3://"):
            parse_store_path(bad)
    assert str(parse_store_path("gs://bucket/a/b")) == "gs://bucket/a/b"
