"""What a report shows of a folder of results: all of them, of every task, whether or not there is a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from chorus_common.labels import SCANNET20
from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.scene_io import write_npy_folder
from evaluation.cli import cli
from evaluation.prompts import class_embeddings
from evaluation.report.coverage import covered
from evaluation.results import result_document, write_result
from tests.evaluation.instance_rooms import room_with_instances
from tests.evaluation.rooms import WordVectors


def call(*arguments: object) -> Result:
    called = CliRunner().invoke(cli, [str(a) for a in arguments], standalone_mode=False)
    if called.exception is not None:
        raise called.exception
    return called


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two zero-shot results, one of instances and one of retrieval, of a room that no store holds."""
    monkeypatch.setattr("evaluation.sources.load_text_encoder", lambda spec: WordVectors())
    scene = room_with_instances(0)
    assert scene.labels is not None
    room = write_npy_folder(scene, tmp_path / "toy" / "room")
    row = ManifestRow("toy", "room", "val", "npy-folder", room, None, "scannet20", len(scene), "0" * 64)
    manifest = Manifest(tmp_path, (row,)).write(tmp_path / "manifest.parquet")
    text = class_embeddings(WordVectors(), SCANNET20, templates="plain")
    perfect = np.where(scene.labels[:, None] >= 0, text[scene.labels], 0).astype(np.float32)
    for variant in ("", "clean", "noise-0.01"):
        (tmp_path / "features" / variant).mkdir(exist_ok=True, parents=True)
        np.save(tmp_path / "features" / variant / "room.npy", perfect)
    out = tmp_path / "run"
    where = ("--manifest", manifest, "--features", tmp_path / "features")
    asked = ("--text", "embedded:text", "--prompts", "plain")
    call("zero-shot", *where, *asked, "--out", out / "plain.json")
    call("zero-shot", *where, *asked, "--synonyms", "--out", out / "synonyms.json")
    call("instances", *where, *asked, "--proposals", "truth", "--out", out / "objects.json")
    call("retrieval", *where, "--perturbation", "noise-0.01", "--out", out / "found.json")
    return out


def test_every_result_is_shown_and_missing_pictures_are_a_line(run: Path) -> None:
    inputs = {"stores": [], "split": "val", "teacher": "", "text_encoder": "embedded:text", "encoder": None}
    empty = result_document("zero-shot", "chorus-eval", inputs, {"rows": {}, "per_scene": {}, "excluded": {}})
    write_result(run / "empty.json", empty)
    called = call("report", "--run", run, "--out", run / "report")
    assert called.stderr.splitlines() == [
        "empty.json: scored no scene, so it is not shown",
        "plain.json, synonyms.json: no pictures, as they show the teacher's features; use zero-shot with --store",
    ]
    for title in (
        "Zero-shot segmentation (plain.json)",
        "Zero-shot segmentation (synonyms.json)",
        "Open-vocabulary instances (objects.json)",
        "Open-vocabulary instances (objects.json): AP50 per class",
        "Instance retrieval (found.json)",
    ):
        for file in ("report.html", "report.md"):
            assert title in (run / "report" / file).read_text()
        assert title in called.stdout
    lines = called.stdout.split("Instance retrieval (found.json)\n")[1].splitlines()
    assert lines[1].startswith("feature files  ")
    assert [line.split()[2] for line in lines[1:3]] == ["noise-0.01", "mean"]
    results = json.loads((run / "results.json").read_text())
    assert results["zero_shot"]["features"]["miou"] == 1.0
    assert set(results["results"]) == {"plain.json", "synonyms.json", "objects.json", "found.json"}
    (objects,) = results["results"]["objects.json"]["rows"].values()
    assert objects["ap50"] == 1.0
    assert "recall_at_1_noise-0.01" in results["results"]["found.json"]["rows"]["features"]


def test_coverage_of_stores_that_are_gone_is_not_shown(tmp_path: Path) -> None:
    document = {"inputs": {"stores": [str(tmp_path / "gone")]}, "per_scene": {"toy/a": {}}}
    assert covered(document) == {}
