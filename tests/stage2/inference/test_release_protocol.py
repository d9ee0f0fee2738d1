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
