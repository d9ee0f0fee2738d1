"""A building without cameras through stage 1: what the cache and the status say of its views."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from chorus_common.cache import SceneCache
from chorus_common.manifest import Manifest, path_digest
from chorus_common.scene_io import write_npy_folder
from stage1_render_teachers.run import run_stage1
from stage1_render_teachers.settings import RunConfig
from stage1_render_teachers.status import describe, store_status
from tests.chorus_common.viewpoints.buildings import make_building
from tests.stage1.small_rooms import CONFIG, write_rooms


def test_kind_interior_coverage_and_empty_pixels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(iter(Manifest.read(write_rooms(tmp_path / "rooms", 1))))
    building = make_building(0, 2, 1, spacing=0.12, garden=20.0)
    shutil.rmtree(row.scene_path)
    write_npy_folder(building.scene, row.scene_path)
    count, digest = len(building.scene), path_digest(row.scene_path)
    row = replace(row, cameras_path=None, n_gaussians=count, sha256=digest)
    store = tmp_path / "store"
    config = CONFIG.model_copy(update={"n_views": 24, "teachers": ("embedded:dense",)})
    run_stage1([row], store, config, RunConfig())
    assert "scene00: views: 24/24" in capsys.readouterr().err  # a scene that is alone tells of its views
    status = store_status([row], store)
    assert status.interior_coverage is not None
    assert status.empty_pixels is not None
    assert status.interior_coverage > 0.8
    assert status.empty_pixels < 0.05
    assert "coverage of rooms whose views were chosen" in describe(status)
    cache = SceneCache.open(store / "tiny" / "scene00.zarr")
    assert cache.attributes.measures["interior_coverage"] == pytest.approx(status.interior_coverage, abs=1e-3)
    centres = np.linalg.inv(cache.cameras().viewmats)[:, :3, 3]
    assert set(building.room_of(centres).tolist()) == {0, 1}
    shutil.rmtree(store / "outcomes")
    assert store_status([row], store).interior_coverage == status.interior_coverage
