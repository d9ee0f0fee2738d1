"""The lifted teacher of an imported scene: its vectors themselves, zeros where there is none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from chorus_common.cache import SceneCache
from chorus_common.features.standardise import PhiSStandardiser
from chorus_common.manifest import Manifest
from evaluation.features import LiftedTeacher
from stage1_render_teachers.exchange.import_run import run_import
from stage1_render_teachers.exchange.settings import ImportConfig
from stage1_render_teachers.settings import RunConfig
from tests.stage1.release_folders import release_features, write_release


def test_imported_vectors_are_the_lifted_teacher(tmp_path: Path) -> None:
    manifest = write_release(tmp_path / "release", 1)
    run_import(list(Manifest.read(manifest)), tmp_path / "s", ImportConfig(bits="fp16"), RunConfig(), {"lang": ""})
    cache = SceneCache.open(tmp_path / "s" / "rel" / "scan00.zarr")
    standardiser = PhiSStandardiser.load(tmp_path / "s" / "standardisers" / "imported-lang.safetensors")
    scene = SimpleNamespace(cached=lambda: cache, name="scan00")
    features = LiftedTeacher("imported-lang", standardiser).open(scene)  # type: ignore[arg-type]
    expected = np.zeros((400, 24), np.float32)
    values, rows = release_features(0, "lang", 400)
    expected[rows] = values
    expected = expected[cache.scene().source_ids]
    np.testing.assert_allclose(features.rows(0, 400), expected, atol=3e-3)
    np.testing.assert_allclose(features.rows(33, 120), expected[33:120], atol=3e-3)
