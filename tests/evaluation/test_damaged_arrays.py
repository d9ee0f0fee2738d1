"""Files of 0 bytes, as a full disk leaves them: one line that names file and scene; numpy says EOFError to them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from chorus_common.runtime.errors import ChorusError, SceneError
from evaluation.features import FeatureFiles
from evaluation.point_truth import read_point_truth
from evaluation.scenes import EvalScene
from tests.evaluation.rooms import Rooms


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"no array at all"])
def test_feature_files(rooms: Rooms, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "val_0.npy").write_bytes(content)
    scene = EvalScene("toy", "val_0", rooms.store).load()
    with pytest.raises(ChorusError, match=r"val_0.npy: ") as caught:
        FeatureFiles(tmp_path, None).open(scene)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pc_coord", "pc_segment", "pc_instance"])
def test_points_beside_a_scene(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "pc_coord.npy", np.zeros((3, 3), np.float32))
    for ids in ("pc_segment", "pc_instance"):
        np.save(tmp_path / f"{ids}.npy", np.zeros(3, np.int16))
    shutil.copy(tmp_path / f"{name}.npy", tmp_path / "whole.npy")
    (tmp_path / f"{name}.npy").write_bytes(b"")
    with pytest.raises(SceneError, match=rf"toy/a: labelled point cloud is not readable \(.*{name}.npy: "):
        read_point_truth(tmp_path, "scannet20", "toy/a")
    shutil.copy(tmp_path / "whole.npy", tmp_path / f"{name}.npy")
    assert read_point_truth(tmp_path, "scannet20", "toy/a") is not None
