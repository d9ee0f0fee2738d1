"""The commands of chorus-eval from arguments to results with a checkpoint of the released Chorus, of both modes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chorus_common.labels import SCANNET20
from chorus_common.manifest import Manifest, ManifestRow
from chorus_common.runtime.errors import ConfigError
from chorus_common.scene_io import write_npy_folder
from chorus_common.text.relevancy import CANONICAL_PHRASES
from evaluation import cli
from evaluation.viewer.scene_model import SceneModel
from tests.evaluation.instance_rooms import room_with_instances
from tests.evaluation.rooms import Rooms

DATA = Path(__file__).parents[1] / "data"
MODES = ("3dgs", "pts")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["chorus-eval", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two rooms in which every object is an instance: one to learn from, one to score."""
    rows = []
    for seed, split in enumerate(("train", "val")):
        folder = write_npy_folder(room_with_instances(seed), tmp_path / "toy" / f"room_{seed}")
        rows.append(ManifestRow("toy", f"room_{seed}", split, "npy-folder", folder, None, "scannet20", 600, "0" * 64))
    return Manifest(tmp_path, tuple(rows)).write(tmp_path / "manifest.parquet")


@pytest.fixture
def phrases(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "p.npz", **{p: rng.normal(size=48) for p in (*SCANNET20, *CANONICAL_PHRASES)})  # type: ignore[arg-type]
    return tmp_path / "p.npz"


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("mode", MODES)
def test_retrieval_probe_and_instances(
    mode: str, manifest: Path, phrases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = DATA / f"chorus_{mode}_small.pth"
    where = ["--manifest", manifest, "--encoder", weights, "--device", "cpu"]
    out = tmp_path / "retrieval.json"
    assert run(monkeypatch, "retrieval", *where, "--perturbation", "turn-90", "--no-random", "--out", out) == 0
    assert set(read(out)["rows"]) == {"encoder"}
    assert read(out)["inputs"]["encoder_weights"]["bytes"] == weights.stat().st_size
    out = tmp_path / "probe.json"
    assert run(monkeypatch, "probe", *where, "--points-per-scene", "50", "--out", out) == 0
    assert set(read(out)["rows"]) == {"trained", "random"}
    out = tmp_path / "instances.json"
    asked = [*where, "--proposals", "truth", "--text-embeddings", phrases]
    assert run(monkeypatch, "instances", *asked, "--out", out) == 0
    assert read(out)["inputs"]["teacher"] == "lang"


@pytest.mark.parametrize("mode", MODES)
def test_batch(mode: str, manifest: Path, phrases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "batch.toml").write_text(
        f'[encoders]\nofficial = "{DATA / f"chorus_{mode}_small.pth"}"\n'
        f'[datasets.toy]\nmanifest = "{manifest}"\n'
        f'[tasks.words]\ncommand = "zero-shot"\noptions = {{ text-embeddings = "{phrases}", device = "cpu" }}\n'
    )
    assert run(monkeypatch, "batch", "--config", tmp_path / "batch.toml", "--out", tmp_path / "batch") == 0
    results = [read(path) for path in (tmp_path / "batch").rglob("*.json")]
    assert any(r.get("task") == "zero-shot" and "student" in r["rows"] for r in results)


class Panel:
    """In place of the browser's server: shows everything once, and asks."""

    address = "nowhere"
    shown: list[str] = []  # noqa: RUF012

    def __init__(self, model: SceneModel, *, host: str, port: int) -> None:
        self.model = model

    def serve(self) -> None:
        for mode in self.model.modes:
            self.model.layer(mode)
            self.shown.append(mode)
        self.shown.append(self.model.answer("chair").name)
        with pytest.raises(ConfigError, match="has no vector of 'dinosaur'"):
            self.model.answer("dinosaur")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("mode", MODES)
def test_view(mode: str, manifest: Path, phrases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.viewer.server.ViewerServer", Panel)
    Panel.shown.clear()
    room = manifest.parent / "toy" / "room_1"
    asked = ["--encoder", DATA / f"chorus_{mode}_small.pth", "--device", "cpu", "--label-space", "scannet20"]
    assert run(monkeypatch, "view", room, *asked, "--text-embeddings", phrases) == 0
    assert {"colour", "prediction", "ground truth", "“chair”"} <= set(Panel.shown)


def test_report_of_a_student_whose_teacher_the_store_lacks(
    rooms: Rooms, phrases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures show the teacher's cells beside the student's, so there are none; the tables are there."""
    where = ["--store", rooms.store, "--manifest", rooms.manifest, "--no-lifted", "--device", "cpu"]
    asked = ["--encoder", DATA / "chorus_3dgs_small.pth", "--text-embeddings", phrases]
    assert (
        run(monkeypatch, "zero-shot", *where, *asked, "--out", tmp_path / "run" / "z.json") == 1
    )  # a scene is missing
    assert run(monkeypatch, "report", "--run", tmp_path / "run", "--out", tmp_path / "report") == 0
    assert "has none of 'lang'" in capsys.readouterr().err
    assert "chorus_release" in (tmp_path / "report" / "report.html").read_text()
