"""The study of GaussianCross on three tiny rooms: every row and column is there, and a second start repeats nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chorus_common.manifest import Manifest
from data_manifests.cli import cli as data
from evaluation.studies import gaussiancross
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import CalibrationConfig, RunConfig, Stage1Config
from tests.stage2.gaussiancross.small_captures import SETTINGS

STAGE1 = Stage1Config(
    width=64, height=48, cell=8, teachers=("embedded:text", "embedded:dense"), store_rgb=True, store_depth=True,
    calibration=CalibrationConfig(scenes=2, views=2),
)  # fmt: skip


def test_all_rows_and_columns_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synth = ["synth", "--out", str(tmp_path / "rooms"), "--rooms", "3", "--val", "1", "--gaussians", "1500"]
    made = CliRunner().invoke(data, [*synth, "--views", "4", "--width", "64", "--height", "48"])
    assert made.exit_code == 0, made.output
    manifest = tmp_path / "rooms" / "manifest.parquet"
    assert not run_stage1(list(Manifest.read(manifest)), tmp_path / "store", STAGE1, RunConfig(workers=0)).failures
    short = gaussiancross.FINETUNE.model_copy(update={"steps": 2, "max_points": 800})
    monkeypatch.setattr(gaussiancross, "FINETUNE", short)

    def run() -> Result:
        settings = [word for s in (*SETTINGS, "epochs=1") for word in ("--set", s)]
        where = ["--store", tmp_path / "store", "--manifest", manifest, "--out", tmp_path / "study", "--seed", 3]
        return CliRunner().invoke(gaussiancross.study, [str(a) for a in where] + settings, catch_exceptions=False)

    first = run()
    assert first.exit_code == 0, first.output
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    assert list(results) == sorted(gaussiancross.ROWS)
    for row in results.values():
        assert set(row) == set(gaussiancross.COLUMNS)
        assert all(len(values) == 1 for values in row.values())
    ranks = [row["rank"][0] for row in results.values()]
    assert len(set(ranks)) == len(ranks), "two rows hold the same encoder"
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.safetensors")}
    assert run().output.splitlines()[-1] == first.output.splitlines()[-1]
    assert times == {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.safetensors")}
