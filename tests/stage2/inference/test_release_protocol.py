"""The released Chorus's inference: equal to the golden outputs of the authors' class over the authors' steps."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from chorus_common.scene_io import write_scene
from stage2_distill import cli
from stage2_distill.encoder import PointBatch, load_encoder
from stage2_distill.inference.clouds import release_clouds
from tests.stage2.inference.golden_scene import (
    MODES,
    golden,
    golden_scene,
    order_within_cells_kept,
    weights,
    write_folder,
)

OUTPUTS = ("lang", "dino", "backbone_upcast")


def encode(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["chorus-stage2", "encode", *map(str, arguments), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def asked(*names: str) -> list[str]:
    return [word for name in names for word in ("--output", name)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("form", ["folder", "permuted", "blocks"])
def test_golden_outputs(mode: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = order_within_cells_kept(mode) if form == "permuted" else np.arange(len(golden(mode)["coord"]))
    scene = write_folder(mode, tmp_path / "room", order)
    more = ["--block-voxels", "150"] if form == "blocks" else []
    arguments = [scene, "--encoder", weights(mode), "--protocol", "release", "--out", tmp_path / "out", *more]
    assert encode(monkeypatch, *arguments, *asked(*OUTPUTS, "backbone_last")) == 0
    data = golden(mode)
    for name in OUTPUTS:
        found = np.load(tmp_path / "out" / f"room_{name}.npy", allow_pickle=False)
        assert np.abs(found - data[f"out/{name}"][order]).max() < 1e-5
    parts = {p: np.load(tmp_path / "out" / f"room_backbone_last_{p}.npy") for p in ("coord", "grid_coord", "fragment")}
    feat, offset = (np.load(tmp_path / "out" / f"room_backbone_last{p}.npy") for p in ("", "_offset"))
    fragments = int(data["fragments"])
    assert len(offset) == fragments
    for i in range(fragments):
        rows = parts["fragment"] == i
        assert np.abs(feat[rows] - data[f"last/{i}/feat"]).max() < 1e-5
        assert np.array_equal(parts["grid_coord"][rows], data[f"last/{i}/grid_coord"])
    assert sorted(p.name for p in (tmp_path / "out").glob(".*")) == []


@pytest.mark.parametrize("mode", MODES)
def test_rows_in_any_order_move_features_a_little(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The golden outputs take the members of a voxel in row order, and no order by content gives their numbers: see
    the next test. With that order lost, outputs stay near, and they are the same in every run.
    """
    order = np.random.default_rng(0).permutation(len(golden(mode)["coord"]))
    scene = write_folder(mode, tmp_path / "room", order)
    arguments = [scene, "--encoder", weights(mode), "--protocol", "release", "--output", "lang", "--out"]
    found = []
    for name in ("a.npy", "b.npy"):
        assert encode(monkeypatch, *arguments, tmp_path / name) == 0
        found.append(np.load(tmp_path / name))
    assert np.array_equal(*found)
    cosines = (found[0] * golden(mode)["out/lang"][order]).sum(axis=1)
    assert 0.999 < cosines.min() < 1 - 1e-5


def test_golden_members_of_a_voxel_follow_no_content() -> None:
    """Between two members of one voxel that follow each other in row order, every attribute rises about as often as it
    falls: 70 % at most go one way, so no attribute orders them as the golden outputs do.
    """
    data = golden("3dgs")
    coord = data["coord"].astype(np.float64)
    low, high = coord.min(0), coord.max(0)
    cell = np.floor((coord - [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2]]) / 0.02)
    voxel = np.unique(cell, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(voxel, kind="stable")
    same = voxel[order][:-1] == voxel[order][1:]
    first, second = order[:-1][same], order[1:][same]
    assert len(first) > 50
    for name in ("coord", "color", "opacity", "quat", "scale", "normal"):
        values = data[name].reshape(len(coord), -1).astype(np.float64)
        rises, falls = (values[first] < values[second]).mean(0), (values[first] > values[second]).mean(0)
        assert max(rises.max(), falls.max()) < 0.7, name


def test_a_splat_of_the_same_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .ply holds colours as harmonics, opacities as logits, scales as logarithms: the same to their rounding."""
    write_scene(golden_scene("3dgs"), tmp_path / "room.ply")
    arguments = [tmp_path / "room.ply", "--encoder", weights("3dgs"), "--protocol", "release", "--out"]
    assert encode(monkeypatch, *arguments, tmp_path / "f.npy", "--output", "lang") == 0
    assert np.abs(np.load(tmp_path / "f.npy") - golden("3dgs")["out/lang"]).max() < 1e-4


@pytest.mark.parametrize("mode", MODES)
def test_fragments_in_a_batch(mode: str) -> None:
    """All fragments as clouds of one batch: the numbers of one after the other."""
    encoder = load_encoder(weights(mode))
    clouds = [cloud.batch for cloud in release_clouds(golden_scene(mode), encoder.config).make]
    with torch.no_grad():
        together = encoder.forward_levels(PointBatch.concatenate(clouds))[-1]
    data = golden(mode)
    for i in range(len(clouds)):
        mine = together.level.batch == i
        assert (together.feat[mine] - torch.from_numpy(data[f"last/{i}/feat"])).abs().max() < 1e-5


def test_one_stands_for_a_cell_of_half_a_voxel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubles a hair away, less opaque: nothing changes for the others, and they get the features of their twins."""
    scene = write_folder("3dgs", tmp_path / "room", np.tile(np.arange(len(golden("3dgs")["coord"])), 2))
    opacity = np.load(scene / "opacity.npy")
    n = len(opacity) // 2
    opacity[n:] *= 0.9
    np.save(scene / "opacity.npy", opacity)
    arguments = [scene, "--encoder", weights("3dgs"), "--protocol", "release", "--out", tmp_path / "f.npy"]
    assert encode(monkeypatch, *arguments, "--output", "dino") == 0
    found = np.load(tmp_path / "f.npy")
    assert np.abs(found[:n] - golden("3dgs")["out/dino"]).max() < 1e-5
    assert np.array_equal(found[:n], found[n:])


def test_the_protocol_says_itself_how_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = write_folder("3dgs", tmp_path / "room")
    arguments = [scene, "--encoder", weights("3dgs"), "--protocol", "release", "--out", tmp_path / "o"]
    assert encode(monkeypatch, *arguments, "--fragments", "2") == 2
    assert "leave out --fragments" in capsys.readouterr().err


def test_low_precision_is_near_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("chorus_common.runtime.devices.has_bf16_units", lambda: False)
    scene = write_folder("3dgs", tmp_path / "room")
    arguments = [scene, "--encoder", weights("3dgs"), "--output", "lang"]
    found = {}
    for precision in ("fp32", "bf16", "auto"):
        out = tmp_path / f"{precision}.npy"
        assert encode(monkeypatch, *arguments, "--precision", precision, "--out", out) == 0
        found[precision], said = np.load(out), capsys.readouterr().err
        assert ("warning: precision bf16" in said) == (precision == "bf16")
        assert ("precision auto: fp32, since this CPU" in said) == (precision == "auto")
    assert np.array_equal(found["auto"], found["fp32"])
    cosines = (found["bf16"] * found["fp32"]).sum(axis=1)
    assert 0.99 < cosines.min() < 1 - 1e-7, "near, but not the same"
