from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chorus_common.runtime.errors import SceneError
from chorus_common.scene_io import read_scene
from evaluation.predictions.coloured_ply import write_coloured_ply
from evaluation.predictions.instance_masks import read_instances, write_instances
from evaluation.predictions.semantic_text import write_semantic_text
from evaluation.proposals.proposals import rows_to_masks
from tests.evaluation.rooms import make_scene


def test_semantic_text_has_the_benchmarks_ids(tmp_path: Path) -> None:
    write_semantic_text(tmp_path / "a.txt", np.array([0, 19, -1, 10]), "scannet20")
    assert (tmp_path / "a.txt").read_text() == "1\n39\n0\n11\n"
    write_semantic_text(tmp_path / "b.txt", np.array([0, -1, 12]), "s3dis13")
    assert (tmp_path / "b.txt").read_text() == "0\n-1\n12\n"


def test_instances_come_back_as_they_were_written(tmp_path: Path) -> None:
    masks = rows_to_masks([np.array([0, 3, 4]), np.array([], np.int64), np.array([6])], 7)
    path = write_instances(tmp_path, "scene0000_00", masks, np.array([5, 7, 39]), np.array([0.25, 1.0, 0.5]))
    assert path.read_text().splitlines()[0] == "predicted_masks/scene0000_00_000.txt 5 0.250000"
    assert (tmp_path / "predicted_masks" / "scene0000_00_000.txt").read_text().split() == list("1001100")
    found = read_instances(path, 7, "s")
    assert (found.masks.toarray() == masks.toarray()).all()
    assert found.label_ids.tolist() == [5, 7, 39]
    assert found.scores.tolist() == [0.25, 1.0, 0.5]


def test_masks_of_other_writers_are_read(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("0\n255\n1.0\n0")
    (tmp_path / "s.txt").write_text("m.txt 4 0.5\n\n")
    assert read_instances(tmp_path / "s.txt", 4, "s").masks.toarray().tolist() == [[False, True, True, False]]


@pytest.mark.parametrize(
    ("line", "mask", "message"),
    [
        ("m.txt 4", "0\n1\n", "line 1: expected 'mask-file label-id confidence'"),
        ("m.txt 4 nan", "0\n1\n", "line 1: expected"),
        ("../m.txt 4 0.5", "0\n1\n", "lies outside"),
        ("/etc/passwd 4 0.5", "0\n1\n", "lies outside"),
        ("gone.txt 4 0.5", "0\n1\n", "no such mask file"),
        ("m.txt 4 0.5", "0\n1\n1\n", "has 3 lines, the scene 2 vertices"),
        ("m.txt 4 0.5", "0\nx\n", "not a mask of numbers"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, line: str, mask: str, message: str) -> None:
    (tmp_path / "m.txt").write_text(mask)
    (tmp_path / "s.txt").write_text(line + "\n")
    with pytest.raises(SceneError, match=message) as error:
        read_instances(tmp_path / "s.txt", 2, "toy/s")
    assert "\n" not in str(error.value)


def test_coloured_ply_opens_as_splats(tmp_path: Path) -> None:
    scene = make_scene(0, 50)
    colors = np.random.default_rng(0).random((50, 3))
    path = write_coloured_ply(tmp_path / "a.ply", scene.means, colors, {"label": scene.labels}, scene)
    read = read_scene(path)
    np.testing.assert_allclose(read.colors, colors, atol=1e-6)
    np.testing.assert_allclose(read.scales, scene.scales, rtol=1e-5)
    np.testing.assert_array_equal(read.means, scene.means)
    header = path.read_bytes().split(b"end_header\n")[0].decode()
    assert "property uchar red" in header
    assert "property int label" in header
    write_coloured_ply(tmp_path / "points.ply", scene.means, colors)
    np.testing.assert_allclose(read_scene(tmp_path / "points.ply").colors, colors, atol=0.5 / 255 + 1e-6)
