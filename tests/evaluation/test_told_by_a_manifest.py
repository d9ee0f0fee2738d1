"""What a manifest says of a scene (up, scale, outliers, level) reaches stage 1, encoders and evaluation; a command line
wins over it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from chorus_common.cache import SceneCache
from chorus_common.manifest import Manifest
from chorus_common.runtime.errors import ChorusError, ManifestError
from chorus_common.scene_check import AlignmentSettings
from chorus_common.scene_io import write_ply
from data_manifests.cli import cli as data
from evaluation.cli import cli as evaluate
from evaluation.scenes import select_scenes
from stage1_render_teachers.cli import cli as stage1
from stage2_distill.cli import cli as stage2
from stage2_distill.encoder import build_encoder
from stage2_distill.encoder.checkpoints import export_encoder
from tests.chorus_common.test_scene_io_foreign import FILES
from tests.evaluation.student import TINY
from tests.stage1.small_rooms import tiny_scene

#: What `--up -y --scale 0.5` does: z of the scene is -y of the file, half as long.
HALF_UPRIGHT = [[0.5, 0, 0], [0, 0, 0.5], [0, -0.5, 0]]
TINY_RUN = ("--set", "width=64", "--set", "height=48", "--set", "cell=8", "--set", "n_views=4")


def call(program: object, *arguments: object) -> Result:
    result = CliRunner().invoke(program, [str(a) for a in arguments], standalone_mode=False)  # type: ignore[arg-type]
    if result.exception is not None:
        raise result.exception
    return result


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a scene of 400 Gaussians and a streamed one, of 300 and 100."""
    scene = replace(tiny_scene(1), labels=None, label_space="")
    write_ply(scene, tmp_path / "scenes" / "room.ply")
    shutil.copytree(FILES / "lod", tmp_path / "scenes" / "stream")
    return tmp_path / "scenes"


def index(folder: Path, *more: object) -> Path:
    call(data, "index", folder, "-o", folder / "m.parquet", *more)
    return folder / "m.parquet"


def test_the_columns_hold_what_the_command_said(folder: Path) -> None:
    path = index(folder, "--up", "-y", "--scale", "0.5", "--outliers", "off", "--lod", 1)
    rows = {row.scene_id: row for row in Manifest.read(path)}
    for row in rows.values():
        assert row.alignment == AlignmentSettings(up="-y", scale="0.5", outliers="off")
    assert (rows["stream"].lod, rows["stream"].n_gaussians) == (1, 100)
    assert rows["room"].lod == 0, "a file has no levels"
    assert {"up", "scale", "outliers", "lod", "render_mode"} <= set(pq.read_schema(path).names)
    assert Manifest.read(index(folder)).rows[0].alignment == AlignmentSettings()


def test_a_description_says_it_for_its_scenes_and_the_command_wins(folder: Path, tmp_path: Path) -> None:
    text = 'name = "d"\nup = "-y"\nscale = "0.5"\nlod = 1\n[scenes]\nval = ["room.ply", "stream"]\n'
    (tmp_path / "d.toml").write_text(text)
    out = tmp_path / "m.parquet"
    call(data, "index", tmp_path / "d.toml", "--root", folder, "-o", out)
    rows = {row.scene_id: row for row in Manifest.read(out)}
    assert (rows["room"].up, rows["room"].scale, rows["stream"].lod) == ("-y", "0.5", 1)
    call(data, "index", tmp_path / "d.toml", "--root", folder, "-o", out, "--up", "x", "--lod", 0)
    rows = {row.scene_id: row for row in Manifest.read(out)}
    assert (rows["room"].up, rows["room"].scale, rows["stream"].lod) == ("x", "0.5", 0)


@pytest.mark.parametrize(("column", "value"), [("up", "sideways"), ("scale", "-1"), ("outliers", "some")])
def test_a_damaged_word_is_one_line(folder: Path, column: str, value: str) -> None:
    path = index(folder)
    manifest = Manifest.read(path)
    with pytest.raises(ManifestError, match="row 0: up, scale or outliers is damaged"):
        Manifest(manifest.root, (replace(manifest.rows[0], **{column: value}),)).write(path)  # type: ignore[arg-type]


def test_stage_1_goes_by_the_manifest_and_the_command_line_wins(folder: Path, tmp_path: Path) -> None:
    path = index(folder, "--up", "-y", "--scale", "0.5", "--outliers", "off", "--lod", 1)
    found = {}
    for name, more in (("told", ()), ("said", ("--up", "z", "--scale", "1", "--lod", "0"))):
        call(
            stage1,
            "run",
            "--manifest",
            path,
            "--store",
            tmp_path / name,
            "--teachers",
            "embedded:dense",
            *TINY_RUN,
            *more,
        )
        for scene in ("room", "stream"):
            cache = SceneCache.open(tmp_path / name / "scenes" / f"{scene}.zarr")
            found[name, scene] = cache.attributes
            if scene == "room":
                means = cache.scene().means[np.argsort(cache.scene().source_ids)]
                turn = np.array(HALF_UPRIGHT) if name == "told" else np.eye(3)
                np.testing.assert_allclose(means, tiny_scene(1).means @ turn.T, atol=1e-5)
    assert found["told", "room"].settings["alignment"] == {"up": "-y", "scale": "0.5", "outliers": "off"}
    assert found["told", "room"].alignment.scale == 0.5
    assert found["said", "room"].settings["alignment"] == {"up": "z", "scale": "1", "outliers": "off"}
    assert [found[name, "stream"].lod for name in ("told", "said")] == [1, 0]
    assert [found[name, "stream"].n_gaussians for name in ("told", "said")] == [100, 300]


def test_evaluation_goes_by_the_manifest_and_the_command_line_wins(folder: Path) -> None:
    path = index(folder, "--up", "-y", "--scale", "0.5", "--outliers", "off", "--lod", 1)
    room, stream = select_scenes([], path, "all").scenes
    assert len(stream.load().gaussians) == 100
    means = room.load().gaussians
    order = np.argsort(means.source_ids)
    np.testing.assert_allclose(means.means[order], tiny_scene(1).means @ np.array(HALF_UPRIGHT).T, atol=1e-5)
    room, stream = select_scenes([], path, "all", AlignmentSettings(up="z"), lod=0, max_gaussians=299).scenes
    assert room.alignment == AlignmentSettings(up="z", scale="0.5", outliers="off")
    with pytest.raises(ChorusError, match="declares 300 Gaussians, more than the limit of 299"):
        stream.load()


def test_encode_goes_by_the_manifest_and_records_it(folder: Path, tmp_path: Path) -> None:
    path = index(folder, "--up", "-y", "--scale", "0.5", "--outliers", "off", "--lod", 1)
    export_encoder(build_encoder("chorus-lite", **TINY), tmp_path / "encoder", "chorus")
    out = tmp_path / "features"
    call(stage2, "encode", path, "--encoder", tmp_path / "encoder", "--out", out)
    assert len(np.load(out / "stream_backbone_upcast.npy")) == 100
    records = {p.stem: json.loads(p.read_text()) for p in out.rglob("*.json")}
    room = next(r for r in records.values() if r["scene"].endswith("room.ply"))
    assert (room["request"]["up"], room["request"]["scale"], room["lod"]) == ("-y", "0.5", 0)
    assert room["alignment"]["scale"] == 0.5
    call(stage2, "encode", path, "--encoder", tmp_path / "encoder", "--out", out, "--lod", 0, "--up", "z")
    assert len(np.load(out / "stream_backbone_upcast.npy")) == 300


def test_levels_of_one_streamed_scene(folder: Path, tmp_path: Path) -> None:
    """label and query read the level that they are told, and write as many rows."""
    (tmp_path / "features").mkdir()
    stream = folder / "stream"
    ask = ("--text", "embedded:text", "--prompts", "plain", "--up", "off", "--scale", "off", "--outliers", "off")
    for lod, n in ((0, 300), (1, 100)):
        np.save(tmp_path / "features" / "stream.npy", np.random.default_rng(0).normal(size=(n, 64)).astype(np.float32))
        features = ("--features", tmp_path / "features", "--lod", lod)
        said = call(
            evaluate, "label", stream, "--classes", "chair,table", *ask, *features, "--out", tmp_path / f"l{lod}"
        )
        assert len(np.load(tmp_path / f"l{lod}" / "predicted_class.npy")) == n
        document = json.loads((tmp_path / f"l{lod}" / "labels.json").read_text())
        assert (document["rows"], document["inputs"]["lod"]) == (n, lod)
        assert "stream: the format has no room for labels; a .ply" in said.output
    with pytest.raises(ChorusError, match="declares 300 Gaussians, more than the limit of 299"):
        call(evaluate, "query", stream, "chair", *ask, "--features", tmp_path / "features", "--max-gaussians", 299,
             "--out", tmp_path / "q")  # fmt: skip
