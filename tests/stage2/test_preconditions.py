"""What encoders state about the scenes they take, and what is said of a scene that is not such."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from chorus_common.scene import GaussianScene
from chorus_common.scene_check import AlignmentSettings, Finding
from chorus_common.scene_io import write_ply
from stage2_distill.cli import cli
from stage2_distill.encoder import build_encoder, export_encoder, load_encoder
from stage2_distill.encoder.presets import PRESETS, preset_config
from stage2_distill.preconditions import _with_neighbour, settings_for, unmet
from tests.evaluation.student import TINY

ANY = {"up": "any", "unit": "any"}


def sheet(step: float, n: int = 60) -> GaussianScene:
    """n x n Gaussians on a plane, `step` metres apart."""
    x, y = np.meshgrid(np.arange(n), np.arange(n))
    means = np.stack([x.ravel(), y.ravel(), 0 * x.ravel()], axis=1) * step
    count = len(means)
    return GaussianScene(
        means=means.astype(np.float32),
        quats=np.tile(np.float32([1, 0, 0, 0]), (count, 1)),
        scales=np.full((count, 3), step / 2, np.float32),
        opacities=np.full(count, 0.9, np.float32),
        colors=np.full((count, 3), 0.5, np.float32),
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_states_its_preconditions(preset: str) -> None:
    result = CliRunner().invoke(cli, ["info", "--preset", preset, "--json"], standalone_mode=False)
    stated = json.loads(result.stdout)["conventions"]
    assert (stated["up"], stated["unit"], stated["grid_size"]) == ("z", "metres", 0.02)


def test_export_keeps_them(tmp_path: Path) -> None:
    encoder = build_encoder("chorus-lite", **TINY, inputs=ANY | {"grid_size": 0.1})
    export_encoder(encoder, tmp_path / "e")
    again = load_encoder(tmp_path / "e").config.inputs
    assert (again.up, again.unit, again.grid_size) == ("any", "any", 0.1)
    with pytest.raises(Exception, match="up"):
        preset_config("chorus-lite", inputs={"up": "sideways"})


def test_what_makes_no_difference_is_not_estimated() -> None:
    for words in ({}, {"up": "off", "scale": "off"}):
        told = settings_for(preset_config("chorus-lite", inputs=ANY), AlignmentSettings(**words))
        assert (told.up, told.scale, told.outliers) == ("z", "1", "auto")
    said = AlignmentSettings(up="-y", scale="0.5", outliers="off")
    assert settings_for(preset_config("chorus-lite", inputs=ANY), said) == said
    assert settings_for(PRESETS["sonata"], AlignmentSettings()) == AlignmentSettings()


@pytest.mark.parametrize(
    ("step", "words"),
    [(0.02, ""), (0.03, ""), (0.2, "0% of the encoder's voxels of 0.02 m have a neighbour"), (2e-5, "fill")],
)
def test_scenes_too_sparse_or_too_small_for_the_grid(step: float, words: str) -> None:
    found = unmet(PRESETS["chorus-3dgs"], sheet(step))
    assert bool(found) == bool(words)
    if words:
        assert words in found[0].line()
        assert found[0].severity == "warning"


def test_a_warning_about_up_names_what_the_encoder_takes() -> None:
    check = [Finding("up", "warning", "which way is up is unclear"), Finding("outliers", "note", "one")]
    (found,) = unmet(PRESETS["sonata"], sheet(0.02), check)
    assert found.line() == "warning: encoder: sonata takes z up and metres; see up above"
    assert unmet(PRESETS["sonata"], sheet(0.02), check[1:]) == []


@given(st.integers(0, 10_000), st.integers(2, 60))
def test_neighbours_against_a_set(seed: int, n: int) -> None:
    grid = np.unique(np.random.default_rng(seed).integers(0, 7, (n, 3)), axis=0)
    there = set(map(tuple, grid.tolist()))
    steps = [s for s in itertools.product((-1, 0, 1), repeat=3) if any(s)]
    wanted = np.mean([any((x + a, y + b, z + c) in there for a, b, c in steps) for x, y, z in grid.tolist()])
    assert _with_neighbour(grid) == pytest.approx(wanted)


def test_encode_says_so(tmp_path: Path) -> None:
    source = write_ply(sheet(0.5), tmp_path / "a.ply")
    export_encoder(build_encoder("chorus-lite", **TINY), tmp_path / "e")
    arguments = ["encode", str(source), "--encoder", str(tmp_path / "e"), "--out", str(tmp_path / "f.npy")]
    result = CliRunner().invoke(cli, [*arguments, "--up", "z", "--scale", "1"], standalone_mode=False)
    assert result.exception is None, result.exception
    assert "warning: encoder: 0% of the encoder's voxels of 0.02 m have a neighbour" in result.stderr
    assert len(np.load(tmp_path / "f.npy")) == 3600
