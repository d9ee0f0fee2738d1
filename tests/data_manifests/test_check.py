"""chorus-data check: what it finds and how it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chorus_common.camera_io import write_transforms_json
from chorus_common.scene import RenderMode
from chorus_common.scene_check import Alignment
from chorus_common.scene_io import write_scene
from data_manifests.check import check_scene
from data_manifests.cli import cli
from data_manifests.synthetic import RoomOptions, generate_room


@pytest.fixture(scope="module")
def room():  # type: ignore[no-untyped-def]
    return generate_room(5_000_000, RoomOptions(gaussians=6000, views=8))


def test_a_good_scene_has_nothing_to_mend(room) -> None:  # type: ignore[no-untyped-def]
    report = check_scene(room.scene, cameras=room.cameras)
    assert report.usable
    assert {finding.topic for finding in report.findings} >= {"rows", "render mode", "kind", "up", "scale", "cameras"}
    assert all(f.severity == "ok" for f in report.findings if f.topic != "coverage")


def test_cameras_of_another_scene_are_noticed(room) -> None:  # type: ignore[no-untyped-def]
    far = Alignment(scale=1.0).cameras(room.cameras)
    views = far.viewmats.copy()
    views[:, :3, 3] += 500
    report = check_scene(room.scene, cameras=replace(far, viewmats=views))
    found = next(f for f in report.findings if f.topic == "cameras")
    assert found.severity == "warning"
    assert "belong" in found.advice


def test_zeros_and_discs(room) -> None:  # type: ignore[no-untyped-def]
    means = room.scene.means.copy()
    means[: len(means) // 4] = 0
    report = check_scene(replace(room.scene, means=means, render_mode=RenderMode.DISCS))
    assert not report.usable
    assert any("25% of the centres" in f.what for f in report.findings)


def test_the_command(room, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    turned = Alignment(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]))
    write_scene(turned.scene(room.scene), tmp_path / "room.ply")
    write_transforms_json(turned.cameras(room.cameras), tmp_path / "transforms.json")
    arguments = [str(tmp_path / "room.ply"), "--cameras", str(tmp_path / "transforms.json")]
    assert cli.main(["check", *arguments, "--json"], standalone_mode=False) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["usable"]
    assert report["kind"] == "interior"
    note = next(f for f in report["findings"] if f["topic"] == "up")
    assert note["severity"] == "note"
    assert "-y is up" in note["what"]
    assert cli.main(["check", *arguments], standalone_mode=False) == 0
    assert "note: up: -y is up" in capsys.readouterr().out
