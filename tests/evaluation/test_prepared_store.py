"""What `chorus-data prepare` writes is what the evaluation reads: scored points, labels, instances, splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_manifests.datasets.prepare import prepare
from data_manifests.datasets.settings import PrepareConfig
from evaluation.point_truth import read_point_truth
from evaluation.scenes import labelled_scenes, select_scenes
from evaluation.splits import Splits
from tests.data_manifests.release_makers import room_points, scan_truth, write_room, write_scannet_release


@pytest.mark.parametrize("space", ["scannet20", "scannet200"])
@pytest.mark.parametrize("grid", [0.0, 0.5])
def test_scored_points_and_gaussians_have_the_labels_of_the_space_asked_for(
    tmp_path: Path, space: str, grid: float
) -> None:
    scans = write_scannet_release(tmp_path / "raw", train=1, val=2)
    config = PrepareConfig.model_validate(
        {"name": "scannet", "label_spaces": ["scannet20", "scannet200"], "release": {"layout": "scannet"}, "grid": grid}
    )
    manifest = prepare(config, tmp_path / "raw", tmp_path / "out").manifest
    selection = select_scenes([], manifest, "val")
    names, found = labelled_scenes(selection, space)
    assert found == space
    assert [scene.scene_id for scene in selection.scenes] == ["scene0001_00", "scene0002_00"]
    for scene in selection.scenes:
        scan = scans[scene.scene_id]
        position, instance = scan_truth(scan)
        truth = read_point_truth(scene.source, space, scene.name)
        assert truth is not None
        assert truth.labels is not None
        np.testing.assert_array_equal(truth.coord, scan.vertices)
        np.testing.assert_array_equal(truth.instances, instance)
        chairs = names.index("office chair" if space == "scannet200" else "chair")
        np.testing.assert_array_equal(truth.labels[position == 2], chairs)
        loaded = scene.load(space).gaussians
        np.testing.assert_array_equal(loaded.labels, truth.labels[_rows_of(loaded.means, scan.vertices)])


def test_any_area_of_s3dis_can_be_held_out(tmp_path: Path) -> None:
    for area in (1, 3, 5):
        for room in ("office_1", "WC_1"):
            write_room(tmp_path / "raw" / f"Area_{area}" / room, [("chair_1", room_points(area))])
    config = PrepareConfig.model_validate(
        {"name": "s3dis", "label_spaces": ["s3dis13"], "release": {"layout": "s3dis", "folder": ""}}
    )
    manifest = prepare(config, tmp_path / "raw", tmp_path / "out").manifest
    train, val = Splits(hold_out="Area_3_*").select([], manifest)
    assert [scene.scene_id for scene in val.scenes] == ["Area_3_WC_1", "Area_3_office_1"]
    assert len(train.scenes) == 4
    assert not {scene.scene_id for scene in train.scenes} & {scene.scene_id for scene in val.scenes}


def _rows_of(points: np.ndarray, among: np.ndarray) -> list[int]:
    row = {tuple(point): i for i, point in enumerate(among.tolist())}
    return [row[tuple(point)] for point in points.tolist()]
