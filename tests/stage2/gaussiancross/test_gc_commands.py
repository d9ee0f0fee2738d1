"""chorus-stage1 capture and chorus-stage2 gaussiancross on small rooms from disk, and their one-line errors."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from chorus_common.captures import read_capture
from chorus_common.manifest import Manifest
from chorus_common.runtime.errors import CacheError, ChorusError, ConfigError, SceneError
from stage1_render_teachers.cli import cli as stage1
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import RunConfig
from stage2_distill.cli import cli as stage2
from stage2_distill.encoder import load_encoder
from tests.stage1.small_rooms import CONFIG, tree_digest, write_rooms
from tests.stage2.gaussiancross.small_captures import SETTINGS


def invoke(group: click.Command, *arguments: object) -> str:
    result = CliRunner().invoke(group, [str(a) for a in arguments], catch_exceptions=True, standalone_mode=False)
    if isinstance(result.exception, ChorusError):
        raise result.exception
    assert result.exception is None, result.exception
    return result.output


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """manifest.parquet, store/ (pictures and depth kept) and captures/ of two rooms."""
    root = tmp_path_factory.mktemp("rooms")
    manifest = write_rooms(root, 2)
    config = CONFIG.model_copy(update={"teachers": ("embedded:dense",), "store_rgb": True})
    summary = run_stage1(list(Manifest.read(manifest)), root / "store", config, RunConfig())
    assert not summary.failures
    invoke(stage1, "capture", "--manifest", manifest, "--out", root / "captures", "--width", 32, "--height", 24)
    return root


def pretrain(rooms: Path, out: Path, *more: object) -> str:
    settings = [word for s in SETTINGS for word in ("--set", s)]
    return invoke(
        stage2, "gaussiancross", "--store", rooms / "store", "--manifest", rooms / "manifest.parquet", "--out", out,
        *settings, "--set", "epochs=1", "--device", "cpu", "--json", *more,
    )  # fmt: skip


def test_captures_are_written_once(rooms: Path) -> None:
    capture = read_capture(rooms / "captures" / "tiny" / "scene00")
    assert len(capture) == 5
    assert len(capture.points(0, stride=1)[0]) > 50
    before = tree_digest(rooms / "captures")
    invoke(stage1, "capture", "--manifest", rooms / "manifest.parquet", "--out", rooms / "captures")
    assert tree_digest(rooms / "captures") == before


def written(run: Path) -> dict[str, str]:
    """Digests of a run's files, but for TensorBoard's, which every start adds to."""
    return {name: digest for name, digest in tree_digest(run).items() if not name.startswith("tensorboard/")}


@pytest.mark.parametrize("source", ["cache", "captures"])
def test_pretraining_from_the_command_line(rooms: Path, tmp_path: Path, source: str) -> None:
    more = ["--captures", rooms / "captures"] if source == "captures" else []
    facts = json.loads(pretrain(rooms, tmp_path / "run", *more).splitlines()[-1])
    assert facts["steps"] == 1
    assert facts["width"] == load_encoder(tmp_path / "run").out_channels == 8
    assert 0 <= facts.pop("starvation") <= 1
    before = written(tmp_path / "run")
    again = json.loads(pretrain(rooms, tmp_path / "run", *more).splitlines()[-1])
    assert again.pop("starvation") == 0, "done: nothing to do"
    assert again == facts
    assert written(tmp_path / "run") == before
    if source == "captures":
        with pytest.raises(ConfigError, match=r"depth_unit: 0\.001, now 0\.002"):
            pretrain(rooms, tmp_path / "run", *more, "--depth-unit", 0.002)


def test_what_is_wrong_is_said(rooms: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'head\.grid'"):
        pretrain(rooms, tmp_path / "a", "--set", "head.gird=[4,4,4]")
    with pytest.raises(ConfigError, match="nowhere: no such folder"):
        pretrain(rooms, tmp_path / "b", "--captures", tmp_path / "nowhere")
    with pytest.raises(SceneError, match="needs one per scene"):
        pretrain(rooms, tmp_path / "c", "--captures", tmp_path)
    with pytest.raises(ConfigError, match="no scene has features of teacher 'clip'"):
        pretrain(rooms, tmp_path / "d", "--set", 'teachers=["clip"]')
    with pytest.raises(CacheError, match="no such store"):
        invoke(stage2, "gaussiancross", "--store", tmp_path / "none", "--out", tmp_path / "e")
