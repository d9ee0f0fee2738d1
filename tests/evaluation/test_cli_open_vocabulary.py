"""The programs of open-vocabulary evaluation, from arguments to files, and what they say to bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from chorus_common.labels import SCANNET20
from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.runtime.errors import ChorusError
from chorus_common.scene_io import read_scene, write_npy_folder
from evaluation.cli import cli
from evaluation.prompts import class_embeddings
from evaluation.report.colours import heat
from tests.evaluation.instance_rooms import room_with_instances
from tests.evaluation.rooms import WordVectors


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A room as a folder, and perfect features of it in features/room.npy."""
    monkeypatch.setattr("evaluation.sources.load_text_encoder", lambda spec: WordVectors())
    monkeypatch.setattr("evaluation.heat_picture.WIDTH", 64)
    monkeypatch.setattr("evaluation.heat_picture.HEIGHT", 48)
    scene = room_with_instances(0)
    write_npy_folder(scene, tmp_path / "toy" / "room")
    (tmp_path / "features").mkdir()
    text = class_embeddings(WordVectors(), SCANNET20, templates="plain")
    features = np.where(scene.labels[:, None] >= 0, text[scene.labels], 0)  # type: ignore[index]
    np.save(tmp_path / "features" / "room.npy", features.astype(np.float32))
    return tmp_path / "toy" / "room"


def test_query_finds_the_chair(room: Path, tmp_path: Path) -> None:
    out = tmp_path / "answer"
    # Bare names: to an encoder that sums words, those of a template would be in every class.
    features = ("--features", tmp_path / "features", "--text", "embedded:text", "--prompts", "plain")
    result = call("query", room, "chair", *features, "--out", out, "--json")
    assert result.exception is None, result.exception
    document = json.loads(result.stdout)
    assert document == json.loads((out / "query.json").read_text())
    assert document["objects_from"] == "clusters"
    assert len(document["objects"]) == 1, "nothing else is nearer to the query than to the canonical phrases"
    x, y, _ = document["objects"][0]["centre_m"]
    assert 0.5 < x < 1.0, "the chair stands there"
    assert 0.5 < y < 1.0
    scene = room_with_instances(0)
    assert scene.labels is not None
    painted = read_scene(out / "heat.ply")
    order, same = np.lexsort(painted.means.T), np.lexsort(scene.means.T)
    np.testing.assert_allclose(painted.means[order], scene.means[same], atol=1e-6)
    far = np.abs(painted.colors[order] - heat(np.ones(1, np.float32), 0, 1)).sum(axis=1)  # from the hottest colour
    chair = scene.labels[same] == SCANNET20.index("chair")
    assert far[chair].max() < 0.02
    assert far[~chair].min() > 0.5
    assert (out / "heat.png").read_bytes().startswith(b"\x89PNG")
    first = (out / "heat.png").read_bytes()
    call("query", room, "chair", *features, "--out", out)
    assert (out / "heat.png").read_bytes() == first, "same input, same bytes"


def test_instances_can_be_compared(room: Path, tmp_path: Path) -> None:
    scene = room_with_instances(0)
    row = ManifestRow("toy", "room", "val", "npy-folder", room, None, "scannet20", len(scene), "0" * 64)
    manifest = Manifest(tmp_path, (row,)).write(tmp_path / "manifest.parquet")
    features = ("--features", tmp_path / "features", "--text", "embedded:text", "--prompts", "plain")
    asked = ("instances", "--manifest", manifest, *features, "--proposals", "truth", "--out")
    for name in ("a.json", "b.json"):
        result = call(*asked, tmp_path / name)
        assert result.exception is None, result.exception
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["inputs"]["tta_rotations"] == 1
    table = call("compare", tmp_path / "a.json", tmp_path / "b.json", "--draws", 100).output
    assert "| ap | 100.0 | 100.0 | +0.0 |" in table


def test_bad_input_is_one_line(room: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "r.json")
    for arguments, message in (
        (("query", tmp_path / "gone.ply", "chair", *out), "no such scene"),
        (("query", room, "chair", *out), "no text-aligned teacher"),
        (("query", room, "chair", "--lifted", *out), "the lifted teacher lives in the cache of a store"),
        (("query", room, " ", *out), "no words to look for"),
        (("query", room, "chair", "--device", "gpu0", *out), "--device gpu0: use auto, cpu, cuda or cuda:N"),
        (("query", room, "chair", "--encoder", tmp_path / "none", *out), "no such file"),
        (("query", room, "chair", "--features", tmp_path, "--text", "embedded:text", *out), "room.npy exists"),
        (("instances", "--proposals", "truth", *out), "no scenes given; use --manifest, --store or both"),
        (("retrieval", "--perturbation", "shake", *out), "unknown perturbation 'shake'; known: noise-0.01"),
        (("view", room, "--label-space", "nyu40"), "unknown label space 'nyu40'"),
        (("zero-shot", "--random", *out), "no scenes given"),
    ):
        result = call(*arguments)
        assert isinstance(result.exception, ChorusError), (arguments, result.output, result.exception)
        assert message in str(result.exception), (arguments, result.exception)
        assert "\n" not in str(result.exception)
