"""Official lists of annotated points: reading them, and which Gaussians they label."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from chorus_common.runtime.errors import ConfigError
from chorus_common.scene import GaussianScene
from chorus_common.scene_io import write_npy_folder
from evaluation.data_efficiency import Limit, LimitConfig
from evaluation.point_lists import annotate, read_point_lists
from evaluation.scenes import EvalScene, LoadedScene
from tests.evaluation.labelled_rooms import labelled_scene


def room(folder: Path, gaussians: GaussianScene, points: GaussianScene | None = None) -> LoadedScene:
    """`gaussians` as a scene whose folder holds the benchmark's `points` (none: no pc_ files)."""
    write_npy_folder(gaussians, folder)
    if points is not None:
        assert points.labels is not None
        assert points.instances is not None
        np.save(folder / "pc_coord.npy", points.means)
        np.save(folder / "pc_segment20.npy", points.labels.astype(np.int16))
        np.save(folder / "pc_instance.npy", points.instances.astype(np.int16))
    return EvalScene("toy", folder.name, None, folder, "scannet20").load("scannet20")


@pytest.mark.parametrize("suffix", ["pth", "json"])
def test_reading(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"points20.{suffix}"
    lists = {"room": [3, 5, 7], "other": [1]}
    if suffix == "json":
        path.write_text(json.dumps(lists))
    else:
        torch.save({name: np.array(rows) for name, rows in lists.items()}, path)
    assert {name: rows.tolist() for name, rows in read_point_lists(path).items()} == lists


def test_lists_that_numpy_1_pickled(tmp_path: Path) -> None:
    """ScanNet's files are older than NumPy 2: arrays and numbers are made by names that it has moved."""
    path = tmp_path / "old.pth"
    lists = {"room": np.array([3, 5, 7]), "other": [np.int64(1), np.int64(4)]}
    torch.save(lists, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b"numpy._core.multiarray") >= 2
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert {n: rows.tolist() for n, rows in read_point_lists(path).items()} == {"room": [3, 5, 7], "other": [1, 4]}


def test_where_gaussians_are_the_points_the_listed_ones_keep_their_labels(tmp_path: Path) -> None:
    scene = labelled_scene(0)
    loaded = room(tmp_path / "room", scene, scene)
    (tmp_path / "l.json").write_text('{"room": [3, 5, 7, 599]}')
    limit = Limit.of(LimitConfig(point_lists=str(tmp_path / "l.json")))
    seen = limit.annotated(loaded, "scannet20").labels
    assert scene.labels is not None
    assert seen is not None
    wanted = [i for i in (3, 5, 7, 599) if scene.labels[i] >= 0]
    assert sorted(loaded.gaussians.source_ids[seen >= 0]) == wanted
    np.testing.assert_array_equal(seen[seen >= 0], scene.labels[loaded.gaussians.source_ids[seen >= 0]])
    assert limit.digest("room") != ""
    assert Limit.of(LimitConfig(points=3)).digest("room") == ""
    with pytest.raises(ConfigError, match=r"no points of scene elsewhere"):
        limit.annotated(LoadedScene(EvalScene("toy", "elsewhere"), scene, None), "scannet20")
    with pytest.raises(ConfigError, match=r"l.json: scene toy/room has an index 600, the scene 600 points"):
        annotate(loaded, np.array([600]), "scannet20", "l.json")


def test_where_gaussians_are_others_the_nearest_takes_the_label_of_the_point(tmp_path: Path) -> None:
    points = labelled_scene(0)
    assert points.labels is not None
    rng = np.random.default_rng(0)
    kept = rng.permutation(len(points))[:200]  # other rows, another number of them, a little moved
    gaussians = points.select(kept)
    assert gaussians.labels is not None
    gaussians.labels[:] = 7  # what Gaussians say of themselves is not what annotators said
    loaded = room(tmp_path / "room", gaussians, points)
    listed = np.flatnonzero(points.labels >= 0)[::40]
    seen = annotate(loaded, listed, "scannet20", "l.json")
    assert seen.labels is not None
    assert seen.instances is not None
    distance = np.linalg.norm(loaded.gaussians.means[:, None] - points.means[listed], axis=2)  # [N, P]
    nearest = distance.argmin(axis=0)
    within = distance.min(axis=0) <= 0.25
    assert set(np.flatnonzero(seen.labels >= 0)) == set(nearest[within])
    for row in np.flatnonzero(seen.labels >= 0):
        mine = np.flatnonzero((nearest == row) & within)
        best = listed[mine[distance[row, mine].argmin()]]
        assert (seen.labels[row], seen.instances[row]) == (points.labels[best], points.instances[best])  # type: ignore[index]


def test_a_scene_that_does_not_say_what_its_points_are_is_refused(tmp_path: Path) -> None:
    loaded = room(tmp_path / "room", labelled_scene(0))
    with pytest.raises(ConfigError, match=r"toy/room: .*no pc_coord.npy with labels of scannet20.*prepare") as caught:
        annotate(loaded, np.array([3]), "scannet20", "l.json")
    assert "\n" not in str(caught.value)


def test_a_labelled_point_cloud_is_its_own_points(tmp_path: Path) -> None:
    scene = labelled_scene(0)
    path = tmp_path / "room.npz"
    np.savez(path, points=scene.means, colors=scene.colors, labels=scene.labels)  # type: ignore[arg-type]
    loaded = EvalScene("toy", "room", None, path, "scannet20").load("scannet20")
    listed = np.flatnonzero(scene.labels >= 0)[:5]  # type: ignore[operator]
    seen = annotate(loaded, listed, "scannet20", "l.json")
    assert sorted(seen.source_ids[seen.labels >= 0]) == listed.tolist()  # type: ignore[operator]


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_bad_lists_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps({"room": Hostile()}))
    with pytest.raises(ConfigError, match=r"bad.pth: not readable"):
        read_point_lists(bad)
    assert "executed" not in capsys.readouterr().out
    for content in ("[1]", '{"a": [-1]}', '{"a": [[1]]}', '{"a": [[1], [2, 3]]}', '{"a": ["x"]}', "{"):
        (tmp_path / "p.json").write_text(content)
        with pytest.raises(ConfigError, match=r"p.json"):
            read_point_lists(tmp_path / "p.json")
