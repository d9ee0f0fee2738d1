"""chorus-data as a user meets it: output, files and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from chorus_common.manifest import Manifest
from chorus_common.scene_io import probe, write_npy_folder, write_scene
from data_manifests.cli import cli, main
from tests.chorus_common.scene_files import random_scene


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["chorus-data", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def make_data(folder: Path) -> Path:
    for name in ("a", "b"):
        write_scene(random_scene(8), folder / f"{name}.ply")
    return folder


def test_index_then_inspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path / "scenes")
    assert run(monkeypatch, "index", data) == 0
    assert "2 scenes, 16 Gaussians, 0 with cameras" in capsys.readouterr().out
    assert len(Manifest.read(data / "manifest.parquet")) == 2
    assert run(monkeypatch, "inspect", data / "manifest.parquet", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["format"], report["n_scenes"], report["n_gaussians"]) == ("manifest", 2, 16)
    assert report["scenes_per_split"] == {"scenes/all": 2}
    assert report["missing_scenes"] == 0
    (data / "a.ply").unlink()
    assert run(monkeypatch, "inspect", data / "manifest.parquet") == 0
    assert "missing_scenes       1" in capsys.readouterr().out


def test_index_with_a_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path / "scenes")
    (tmp_path / "d.toml").write_text('name = "d"\n[scenes]\ntrain = "*.ply"\n')
    assert run(monkeypatch, "index", tmp_path / "d.toml") == 2
    assert "give --root" in capsys.readouterr().err
    out = tmp_path / "out" / "m.parquet"
    assert run(monkeypatch, "index", tmp_path / "d.toml", "--root", data, "-o", out) == 0
    assert [row.split for row in Manifest.read(out)] == ["train", "train"]


def test_bad_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_data(tmp_path / "scenes")
    (data / "c.ply").write_bytes((data / "a.ply").read_bytes()[:30])
    assert run(monkeypatch, "index", data) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "c.ply" in error
    assert error.count("\n") == 1
    assert not (data / "manifest.parquet").exists()
    assert run(monkeypatch, "index", data, "--skip-bad") == 1
    captured = capsys.readouterr()
    assert "skipped: " in captured.err
    assert "2 scenes" in captured.out
    assert run(monkeypatch, "inspect", data / "c.ply") == 2
    assert run(monkeypatch, "inspect", data / "nothing") == 2
    assert run(monkeypatch, "inspect", data / "a.ply", "--max-gaussians", "7") == 2
    assert "limit of 7" in capsys.readouterr().err


def test_inspect_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.array([0, 0, 1, -1, 19, 0, 1, 1], np.int32)
    scene = replace(random_scene(8), labels=labels, instances=np.array([0, 0, 1, -1, 2, 0, 1, 3], np.int32))
    folder = write_npy_folder(scene, tmp_path / "room")
    (folder / "segment.npy").rename(folder / "segment20.npy")
    assert run(monkeypatch, "inspect", folder, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["format"] == "npy-folder"
    assert report["n_gaussians"] == 8
    assert report["labels"] == {"unknown": 1, "wall": 3, "floor": 3, "other furniture": 1}
    assert report["n_instances"] == 4
    assert report["has"] == ["labels", "instances"]
    np.testing.assert_allclose(report["bounds_min_m"], scene.means.min(0), rtol=1e-5)
    np.testing.assert_allclose(report["opacity"], np.percentile(scene.opacities, [0, 1, 50, 99, 100]), rtol=1e-5)
    assert run(monkeypatch, "inspect", folder) == 0
    assert "wall 3" in capsys.readouterr().out


def test_help_loads_no_synthetic_rooms() -> None:
    code = "import sys; from data_manifests.cli import cli; assert not any('synthetic' in m for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert isinstance(cli.get_command(click.Context(cli), "synth"), click.Command)
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in ("index", "inspect", "synth"))


def test_convert_writes_what_the_ending_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = Path(__file__).parents[1] / "data" / "formats"
    assert run(monkeypatch, "convert", files / "source.sog", tmp_path / "a.spz", "--json") == 0
    assert json.loads(capsys.readouterr().out)["n_gaussians"] == 300
    assert probe(tmp_path / "a.spz").format == "spz"
    assert run(monkeypatch, "convert", files / "lod", tmp_path / "b.ply", "--lod", "1") == 0
    assert probe(tmp_path / "b.ply").n_gaussians == 100
    assert run(monkeypatch, "convert", files / "lod", tmp_path / "b.ply", "--lod", "7") == 2
    assert "levels of detail 0 to 1" in capsys.readouterr().err
