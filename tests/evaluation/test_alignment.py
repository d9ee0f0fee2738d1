"""Scenes read from their files are brought in order and said to be; options that would do nothing are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chorus_common.runtime.errors import ConfigError
from chorus_common.scene_check import Alignment, AlignmentSettings
from chorus_common.scene_io import write_scene
from data_manifests.synthetic import RoomOptions, generate_room
from evaluation.scenes import scene_at, select_scenes


def test_a_turned_file_is_turned_back_and_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = generate_room(5_000_001, RoomOptions(gaussians=6000, views=1)).scene
    turned = Alignment(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])).scene(scene)
    path = write_scene(turned, tmp_path / "room.ply")
    loaded = scene_at(path).load()
    assert "note: up: -y is up" in capsys.readouterr().err
    np.testing.assert_allclose(loaded.gaussians.means[:, 2], scene.means[loaded.gaussians.source_ids, 2], atol=1e-6)
    loaded = scene_at(path, AlignmentSettings(up="off")).load()
    assert "warning: up: -y seems to be up" in capsys.readouterr().err
    assert loaded.alignment.is_identity


def test_options_beside_a_cache_are_refused(tmp_path: Path) -> None:
    (tmp_path / "room.zarr").mkdir()
    with pytest.raises(ConfigError, match="belong to chorus-stage1 run"):
        scene_at(tmp_path / "room.zarr", AlignmentSettings(up="-y"))
    with pytest.raises(ConfigError, match="belong to chorus-stage1 run"):
        select_scenes([tmp_path], None, "val", AlignmentSettings(scale="0.5"))
