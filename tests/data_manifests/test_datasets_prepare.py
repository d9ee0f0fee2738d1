"""Preparing as a job: the same bytes with any number of workers, going on after a kill, one store for several sets."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from chorus_common.manifest import Manifest, path_digest
from chorus_common.runtime.config import load_config
from chorus_common.runtime.errors import ChorusError, ManifestError
from data_manifests.cli import cli
from data_manifests.datasets import prepare as job_module
from data_manifests.datasets.prepare import MANIFEST, prepare
from data_manifests.datasets.settings import PrepareConfig
from tests.data_manifests.release_makers import room_points, write_room, write_scannet_release

SCANNET = PrepareConfig.model_validate(
    {"name": "scannet", "label_spaces": ["scannet20", "scannet200"], "release": {"layout": "scannet"}}
)
S3DIS = PrepareConfig.model_validate(
    {"name": "s3dis", "label_spaces": ["s3dis13"], "release": {"layout": "s3dis", "folder": ""}}
)


def digests(out: Path) -> dict[str, str]:
    """Hash of every file but the hidden ones, by its path."""
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file() and not p.name.startswith(".")
    }


def test_two_workers_write_what_one_writes(tmp_path: Path) -> None:
    write_scannet_release(tmp_path / "raw", train=3, val=1)
    (tmp_path / "raw" / "scans" / "scene0001_00" / "scene0001_00.aggregation.json").unlink()
    one = prepare(SCANNET, tmp_path / "raw", tmp_path / "one")
    two = prepare(SCANNET, tmp_path / "raw", tmp_path / "two", workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert one.outcomes == two.outcomes
    for row in Manifest.read(two.manifest):
        assert row.sha256 == path_digest(row.scene_path)


def test_the_same_release_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    for place in ("a", "b"):
        write_scannet_release(tmp_path / place / "raw", train=1, val=1)
        prepare(SCANNET, tmp_path / place / "raw", tmp_path / place / "out")
    assert digests(tmp_path / "a" / "out") == digests(tmp_path / "b" / "out")


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scannet_release(tmp_path / "raw", train=3, val=1)
    whole = prepare(SCANNET, tmp_path / "raw", tmp_path / "whole")
    made: list[str] = []

    def killed_at_the_third(folder: Path, *arguments: object) -> object:
        made.append(folder.name)
        if len(made) == 3:
            # what a kill leaves behind: a folder that was not renamed
            (folder.parent / ".tmp-left").mkdir()
            (folder.parent / ".tmp-left" / "coord.npy").write_bytes(b"half")
            raise KeyboardInterrupt
        return publish(folder, *arguments)  # type: ignore[arg-type]

    publish = job_module.publish
    monkeypatch.setattr(job_module, "publish", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(SCANNET, tmp_path / "raw", tmp_path / "out")
    monkeypatch.setattr(job_module, "publish", publish)
    os.utime(tmp_path / "out" / "scannet" / ".tmp-left", (0, 0))
    result = prepare(SCANNET, tmp_path / "raw", tmp_path / "out")
    assert [outcome.fresh for outcome in result.outcomes] == [False, False, True, True]
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert not list((tmp_path / "out").rglob(".tmp-*")), "what the kill left is swept"
    assert [o.summary for o in result.outcomes] == [o.summary for o in whole.outcomes]
    again = prepare(SCANNET, tmp_path / "raw", tmp_path / "out")
    assert not any(outcome.fresh for outcome in again.outcomes)


def test_changed_files_and_settings_are_prepared_anew(tmp_path: Path) -> None:
    write_scannet_release(tmp_path / "raw", train=2, val=0)
    prepare(SCANNET, tmp_path / "raw", tmp_path / "out")
    path = tmp_path / "raw" / "scans" / "scene0001_00" / "scene0001_00.aggregation.json"
    data = json.loads(path.read_text())
    data["segGroups"][0]["label"] = "chair"
    path.write_text(json.dumps(data))
    result = prepare(SCANNET, tmp_path / "raw", tmp_path / "out")
    assert [outcome.fresh for outcome in result.outcomes] == [False, True]
    labels = np.load(tmp_path / "out" / "scannet" / "scene0001_00" / "pc_segment20.npy")
    assert not (labels == 0).any()
    coarser = SCANNET.model_copy(update={"grid": 0.3})
    assert all(outcome.fresh for outcome in prepare(coarser, tmp_path / "raw", tmp_path / "out").outcomes)


def test_a_scene_that_was_good_and_fails_leaves_the_manifest(tmp_path: Path) -> None:
    write_scannet_release(tmp_path / "raw", train=2, val=0)
    prepare(SCANNET, tmp_path / "raw", tmp_path / "out")
    (tmp_path / "raw" / "scans" / "scene0000_00" / "scene0000_00_vh_clean_2.ply").write_bytes(b"ply\n")
    result = prepare(SCANNET, tmp_path / "raw", tmp_path / "out")
    assert [row.scene_id for row in Manifest.read(result.manifest)] == ["scene0001_00"]
    table = pq.read_table(tmp_path / "out" / "outcomes" / "scannet.parquet").to_pylist()
    assert [bool(row["error"]) for row in table] == [True, False]
    assert json.loads(table[1]["labels"]) == result.outcomes[1].summary["point_labels"]


def test_data_sets_and_splits_share_a_store(tmp_path: Path) -> None:
    write_scannet_release(tmp_path / "scannet", train=2, val=1)
    write_room(tmp_path / "s3dis" / "Area_5" / "office_1", [("wall_1", room_points(0))])
    prepare(SCANNET.model_copy(update={"splits": ["val"]}), tmp_path / "scannet", tmp_path / "out")
    prepare(S3DIS, tmp_path / "s3dis", tmp_path / "out")
    result = prepare(SCANNET.model_copy(update={"splits": ["train"]}), tmp_path / "scannet", tmp_path / "out")
    manifest = Manifest.read(result.manifest)
    assert [(row.dataset, row.split, row.label_space) for row in manifest] == [
        ("s3dis", "val", "s3dis13"), ("scannet", "train", "scannet20"), ("scannet", "train", "scannet20"),
        ("scannet", "val", "scannet20"),
    ]  # fmt: skip
    assert result.manifest == tmp_path / "out" / MANIFEST
    table = pq.read_table(tmp_path / "out" / "outcomes" / "scannet.parquet").to_pylist()
    assert [(row["scene_id"], row["split"]) for row in table] == [
        ("scene0000_00", "train"), ("scene0001_00", "train"), ("scene0002_00", "val"),
    ]  # fmt: skip


def test_a_full_disk_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scannet_release(tmp_path / "raw", train=2, val=0)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "coord.npy")

    monkeypatch.setattr(job_module, "publish", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(SCANNET, tmp_path / "raw", tmp_path / "out")


def test_places_that_cannot_be_right_are_refused(tmp_path: Path) -> None:
    write_scannet_release(tmp_path / "raw", train=1, val=0)
    with pytest.raises(ManifestError, match="no such folder"):
        prepare(SCANNET, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(ManifestError, match="must lie outside"):
        prepare(SCANNET, tmp_path / "raw", tmp_path / "raw" / "out")
    with pytest.raises(ChorusError, match=r"no scenes of layout s3dis .*|no scenes of layout s3dis"):
        prepare(S3DIS, tmp_path / "raw", tmp_path / "out")


# ---- the command ----


def invoke(*arguments: str) -> tuple[int, str, Exception | None]:
    result = CliRunner().invoke(cli, ["prepare", *arguments], standalone_mode=False)
    error = result.exception if isinstance(result.exception, Exception) else None
    return (result.return_value if error is None else 2), result.stdout, error


def test_the_command_reports_counts_and_failures(tmp_path: Path) -> None:
    write_scannet_release(tmp_path / "raw", train=2, val=1)
    place = ("--root", str(tmp_path / "raw"), "--out", str(tmp_path / "out"))
    code, text, error = invoke("scannet", *place, "--split", "train", "--split", "val", "--json")
    assert error is None
    report = json.loads(text)
    assert code == 0
    assert (report["scenes"], report["failed"], report["splits"]) == (3, 0, {"train": 2, "val": 1})
    twenty = report["labels"]["scannet20"]
    assert twenty["labelled"] + twenty["outside"] + twenty["unannotated"] == report["points"] == 240
    (tmp_path / "raw" / "scans" / "scene0002_00" / "scene0002_00.aggregation.json").unlink()
    code, text, error = invoke("scannet", *place, "--split", "val", "--split", "train")
    assert (code, error) == (1, None)
    assert "2 scenes (2 train)" in text
    assert "1 scenes failed" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scannet3",), "known: matterport3d, pointcept_s3dis, .*, scannet, .*"),
        (("scannet", "--set", "grids=1"), "unknown key 'grids'; did you mean 'grid'"),
        (("scannet", "--set", 'label_spaces=["scannet21"]'), "unknown label space 'scannet21'"),
        (("scannet", "--set", 'label_spaces=["s3dis13", "scannetpp100"]'), "would share one file"),
        (("scannet", "--set", "release.layout=scanet"), "release"),
        (("scannet", "--split", "valid"), "no scenes of layout scannet in split valid"),
        (("scannet", "--set", 'label_spaces=["s3dis13"]'), ""),
    ],
)
def test_wrong_settings_give_one_line(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    write_scannet_release(tmp_path / "raw", train=1, val=0)
    code, text, error = invoke(*arguments, "--root", str(tmp_path / "raw"), "--out", str(tmp_path / "out"))
    if not message:  # a space that the release cannot have: every scene fails with the reason
        assert (code, error) == (1, None)
        assert "1 scenes failed" in text
        return
    assert isinstance(error, ChorusError)
    with pytest.raises(ChorusError, match=message):
        raise error
    assert "\n" not in str(error)


def test_every_release_that_comes_with_the_program_is_well_described() -> None:
    releases = sorted(Path(str(files("data_manifests").joinpath("releases"))).glob("*.toml"))
    assert len(releases) >= 8
    for path in releases:
        config = load_config(PrepareConfig, path)
        assert config.release.layout in job_module.LAYOUTS
        assert f"prepare {path.stem} --root" in path.read_text(encoding="utf-8"), "the command in its comment runs"
